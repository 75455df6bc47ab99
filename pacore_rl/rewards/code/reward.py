"""The reward ``code``: the share of tests that the message's program passes; correct where it passes all of them."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import time

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.base import Question, Reward, Tools, failed, right, unparsed, wrong
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.building import BUILD_LIMITS, cpp_complaint
from pacore_rl.rewards.code.checkers import unfit
from pacore_rl.rewards.code.external import open_checker
from pacore_rl.rewards.code.grading import ATTEMPTS, Budget, Grade, grade
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.sandbox import SandboxError
from pacore_rl.rewards.code.source import Program, last_program
from pacore_rl.rewards.code.suite import TestSuite, suite_of
from pacore_rl.types import Verdict

NAME = "code"
PROBE_SECONDS = 60.0
INSPECTED_TESTS = 50
"""Expected outputs of a suite that its own checker program must accept."""
_INSPECTION = "inspection"
"""Stands for a language in questions about the tests themselves."""
_logger = logging.getLogger(__name__)


def verdict_of(program: Program, graded: Grade, seconds: float) -> Verdict:
    """Of a grade. Votes are counted on a fingerprint of the program: equal programs are one answer."""
    name = fingerprint(program)
    if graded.outcome == "failed":
        return failed(graded.reason, answer=name, seconds=seconds)
    return Verdict(
        reward=min(1.0, graded.passed / graded.total),
        correct=graded.passed >= graded.total,
        outcome=graded.outcome,
        reason=graded.reason,
        answer=name,
        seconds=seconds,
    )


def fingerprint(program: Program) -> str:
    content = f"{program.language}\n{program.source.strip()}"
    return f"{program.language}-{hashlib.sha256(content.encode(errors='surrogatepass')).hexdigest()[:16]}"


def inspect_suite(suite: TestSuite, backend: Backend) -> str | None:
    """Why a suite cannot be scored by, or None: each expected output goes through its own checker."""
    if not suite.tests:
        return "it has no tests; give at least one, or remove the record."
    if suite.kind != "stdin":
        return _inspect_calls(suite)
    if suite.checker_program is not None:
        return _inspect_program(suite, backend)
    if not any(test.output.strip() for test in suite.tests):
        return "no test expects any output; a program that prints nothing would pass them all."
    try:
        for number, test in enumerate(suite.tests, start=1):
            if complaint := unfit(suite.checker, test.output):
                return (
                    f"checker {suite.checker} refuses the expected output of test {number} itself ({complaint}); name "
                    "another checker, or correct the output."
                )
    except ValueError as error:
        return str(error)
    return None


def _inspect_calls(suite: TestSuite) -> str | None:
    """Kinds ``function`` and ``check``: what is not read until a program runs must be readable."""
    for number, test in enumerate(suite.tests, start=1):
        try:
            if suite.kind == "check":
                ast.parse(test.input)
            elif not isinstance(json.loads(test.input), list):
                return f"the arguments of test {number} are no list."
            else:
                json.loads(test.output)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"test {number} cannot be read ({error}); correct it."
    try:
        ast.parse(suite.setup)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the set-up of its tests is not Python ({error}); correct it."
    return None


def _inspect_program(suite: TestSuite, backend: Backend) -> str | None:
    assert suite.checker_program is not None
    if suite.checker_program.language == "cpp" and (complaint := cpp_complaint()):
        return f"its checker is written in C++, and {complaint}."
    number = 0
    try:
        with open_checker(suite.checker_program, backend) as checker:
            for number, test in enumerate(suite.tests[:INSPECTED_TESTS], start=1):
                given, answer = (text.encode(errors="surrogatepass") for text in (test.input, test.output))
                share, said = checker.share(given, answer, answer)
                if share != 1:
                    return f"its checker refuses the expected output of test {number} itself ({said}); correct it."
    except SandboxError as error:
        return f"{error}, on the expected output of test {number} itself; correct the checker program."
    return None


def _settle(message: str, ground_truth: str) -> Verdict | Question:
    program = last_program(message)
    if isinstance(program, str):
        return unparsed(program)
    return Question(reward=NAME, answer=f"{program.language}\n{program.source}", ground_truth=ground_truth)


def _answer(question: Question, tools: Tools) -> Verdict:
    started = time.monotonic()
    language, _, source = question.answer.partition("\n")
    program = Program(language="cpp" if language == "cpp" else "python", source=source)
    config = tools.config
    try:
        suite = suite_of(question.ground_truth)
        backend = choose_backend(config.sandbox, unsafe_local=config.unsafe_local)
    except ValueError as error:  # told at load; no answer is wrong for it
        return failed(str(error), answer=None if language == _INSPECTION else fingerprint(program))
    try:
        if language == _INSPECTION:
            with tools.sandboxes.owning():
                complaint = inspect_suite(suite, backend)
            return wrong("", complaint) if complaint else right("", "its tests can be used")
        with tools.sandboxes.owning():
            graded = grade(program, suite, backend, budget_of(config))
        return verdict_of(program, graded, time.monotonic() - started)
    except Exception as error:  # behind this line is what a sandbox wrote: no row of it may end a run
        _logger.exception("a program could not be graded")
        reason = f"{type(error).__name__}: {error}"[:300]
        return failed(reason, answer=None if language == _INSPECTION else fingerprint(program))


def budget_of(config: RewardConfig) -> Budget:
    return Budget(
        test_seconds=config.code_test_seconds,
        submission_seconds=config.code_submission_seconds,
        memory_mib=config.code_memory_mib,
    )


def _limit_seconds(config: RewardConfig) -> float:
    """No submission takes longer, on a machine however busy: then something of ours hangs."""
    return ATTEMPTS * 8 * (config.code_submission_seconds + BUILD_LIMITS.cpu_seconds + PROBE_SECONDS)


def _inspect(ground_truth: str) -> str | Question:
    try:
        suite_of(ground_truth)
    except ValueError as error:
        return str(error)
    return Question(reward=NAME, answer=_INSPECTION, ground_truth=ground_truth)


def _unready(config: RewardConfig) -> str | None:
    try:
        choose_backend(config.sandbox, unsafe_local=config.unsafe_local)
    except (ValueError, OSError) as error:
        return str(error)
    return None


REWARD = Reward(
    settle=_settle, answer=_answer, limit_seconds=_limit_seconds, inspect_ground_truth=_inspect, unready=_unready
)
