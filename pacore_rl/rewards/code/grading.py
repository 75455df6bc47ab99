"""A program against a suite: how many tests it passes. Outputs are compared here, outside of every sandbox.

The denominator is fixed: a program that does not compile, runs out of its budget or times out ``max_timeouts`` times is
stopped, and the tests that it has not passed count as failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from pacore_rl.rewards.code import values
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.building import CompileError, Ready, open_program
from pacore_rl.rewards.code.checkers import checker_named, compare
from pacore_rl.rewards.code.external import ExternalChecker, open_checker
from pacore_rl.rewards.code.sandbox import Limits, Ran, Run, Sandbox, SandboxError
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import TestCase, TestSuite

ATTEMPTS = 2
"""How often a submission is tried where the sandbox fails."""
FLOAT_TOLERANCE = 1e-6
"""Absolute or relative, of a called function's decimal results."""
MAX_RESULT_BYTES = 4 << 20
MAX_MEMORY_MIB = 2048
"""However much a problem allows."""
CHECK_LIMITS = Limits(cpu_seconds=10.0, wall_factor=6.0, memory_mib=1024)
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a submission may cost, where its problem does not say."""

    test_seconds: float = 5.0
    """CPU time of one test."""
    submission_seconds: float = 60.0
    """CPU time of all tests together; time spent asleep counts a third."""
    memory_mib: int = 1024
    max_timeouts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What came of it."""

    outcome: Literal["scored", "timeout", "failed"]
    """``timeout``: stopped for the time it took; ``failed``: through our fault, and no grade at all."""
    passed: float
    """Tests passed; checkers may give part of one."""
    total: int
    reason: str


@dataclass(slots=True)
class _Tally:
    budget: Budget
    total: int
    passed: float = 0.0
    timeouts: int = 0
    spent_seconds: float = 0.0
    first_failure: str = ""

    def spend(self, ran: Ran, limits: Limits) -> None:
        self.spent_seconds += max(ran.cpu_seconds, min(ran.wall_seconds / limits.wall_factor, limits.cpu_seconds))
        self.timeouts += ran.ending == "timeout"

    def count(self, number: int, share: float, failure: str | None) -> None:
        self.passed += share
        if failure and not self.first_failure:
            self.first_failure = f"test {number}: {failure}"[:300]

    @property
    def stop(self) -> str | None:
        if self.timeouts >= self.budget.max_timeouts:
            return f"stopped after {self.timeouts} timeouts"
        if self.spent_seconds > self.budget.submission_seconds:
            return f"stopped at its budget of {self.budget.submission_seconds:g} s"
        return None

    def grade(self) -> Grade:
        reason = f"{self.passed:g} of {self.total} tests passed"
        for part in (self.first_failure, self.stop):
            reason += f"; {part}" if part else ""
        outcome = "timeout" if self.stop and self.passed < self.total else "scored"
        return Grade(outcome=outcome, passed=self.passed, total=self.total, reason=reason)


def grade(program: Program, suite: TestSuite, backend: Backend, budget: Budget | None = None) -> Grade:
    """Run ``program`` on every test. A failure of ours is tried again, then told as such; nothing is raised."""
    budget = budget or Budget()
    if program.language == "cpp" and suite.kind != "stdin":
        return Grade(outcome="scored", passed=0, total=len(suite.tests), reason="its function is called from Python")
    failure = ""
    for _ in range(ATTEMPTS):
        try:
            return _grade_once(program, suite, backend, budget)
        except SandboxError as error:
            failure = str(error)
        except OSError as error:  # no process, file or memory to be had
            failure = f"{type(error).__name__}: {error}"
    return Grade(outcome="failed", passed=0, total=len(suite.tests), reason=failure)


def limits_of(suite: TestSuite, program: Program, budget: Budget) -> Limits:
    """The problem's own limits, which are made for compiled programs on a judge's machine, doubled for Python; never
    more than a submission may cost."""
    factor = 2.0 if program.language == "python" else 1.0
    seconds, memory_mib = suite.time_limit_seconds, suite.memory_limit_mib
    cpu_seconds = budget.test_seconds if seconds is None else max(1.0, factor * seconds)
    most_mib = max(MAX_MEMORY_MIB, budget.memory_mib)
    return Limits(
        cpu_seconds=min(cpu_seconds, budget.submission_seconds),
        memory_mib=budget.memory_mib if memory_mib is None else min(max(256, memory_mib), most_mib),
    )


def _grade_once(program: Program, suite: TestSuite, backend: Backend, budget: Budget) -> Grade:
    tally = _Tally(budget=budget, total=len(suite.tests))
    limits = limits_of(suite, program, budget)
    try:
        with ExitStack() as stack:
            ready = stack.enter_context(open_program(program, backend, prelude=suite.kind != "stdin"))
            tally.spent_seconds += ready.seconds
            test = stack.enter_context(_tester(suite, ready, backend, limits, tally))
            for number, case in enumerate(suite.tests, start=1):
                tally.count(number, *test(case))
                if tally.stop:
                    break
    except CompileError as error:
        reason = f"it does not compile: {error}"
        return Grade(outcome="scored", passed=0, total=len(suite.tests), reason=reason)
    return tally.grade()


_Test = Callable[[TestCase], tuple[float, str | None]]
"""The share of a test that is right, and what is wrong."""


def _tester(
    suite: TestSuite, ready: Ready, backend: Backend, limits: Limits, tally: _Tally
) -> AbstractContextManager[_Test]:
    match suite.kind:
        case "stdin" if suite.checker_program is not None:
            return _JudgedTests(suite=suite, ready=ready, backend=backend, limits=limits, tally=tally)
        case "stdin":
            return nullcontext(_compared_test(suite, ready, limits, tally))
        case "function":
            return nullcontext(_called_test(suite, ready, limits, tally))
        case "check":
            return _CheckedTests(suite=suite, ready=ready, backend=backend, limits=limits, tally=tally)


def _run(ready: Ready, case: TestCase, limits: Limits, tally: _Tally) -> Ran:
    ran = ready.sandbox.run(ready.run, limits, stdin=case.input.encode(errors="surrogatepass"))
    tally.spend(ran, limits)
    return ran


def _compared_test(suite: TestSuite, ready: Ready, limits: Limits, tally: _Tally) -> _Test:
    """Standard input and output, by a named checker."""
    checker = checker_named(suite.checker)

    def test(case: TestCase) -> tuple[float, str | None]:
        ran = _run(ready, case, limits, tally)
        wrong = _misfortune(ran) or compare(checker, case.output.encode(errors="surrogatepass"), ran.output)
        return (0.0, wrong) if wrong else (1.0, None)

    return test


def _called_test(suite: TestSuite, ready: Ready, limits: Limits, tally: _Tally) -> _Test:
    """A function called with JSON arguments; its result is compared as JSON, so that tuples are lists."""
    run = Run(call=f"function {suite.fn_name}")

    def test(case: TestCase) -> tuple[float, str | None]:
        arguments = values.dumps(json.loads(case.input)).encode()
        ran = ready.sandbox.run(run, limits, arguments=arguments)
        tally.spend(ran, limits)
        wrong = _misfortune(ran) or _wrong_result(json.loads(case.output), ran.result)
        return (0.0, wrong) if wrong else (1.0, None)

    return test


@dataclass(slots=True, kw_only=True)
class _Opened(AbstractContextManager[_Test]):
    """Tests that need a second sandbox beside the submission's."""

    suite: TestSuite
    ready: Ready
    backend: Backend
    limits: Limits
    tally: _Tally
    stack: ExitStack = field(default_factory=ExitStack)

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


@dataclass(slots=True, kw_only=True)
class _JudgedTests(_Opened):
    """Standard input and output, by the problem's checker program."""

    def __enter__(self) -> _Test:
        program = self.suite.checker_program
        assert program is not None
        checker: ExternalChecker = self.stack.enter_context(open_checker(program, self.backend))

        def test(case: TestCase) -> tuple[float, str | None]:
            ran = _run(self.ready, case, self.limits, self.tally)
            if wrong := _misfortune(ran):
                return 0.0, wrong
            given, answer = (text.encode(errors="surrogatepass") for text in (case.input, case.output))
            share, said = checker.share(given, ran.output, answer)
            return share, None if share == 1 else said

        return test


@dataclass(slots=True, kw_only=True)
class _CheckedTests(_Opened):
    """Programs that call the submission's function from a sandbox of their own (see ``calls``)."""

    def __enter__(self) -> _Test:
        sandbox = self.stack.enter_context(Sandbox(self.backend))
        complaint = sandbox.load(self.suite.setup.encode(errors="surrogatepass"), prelude=True)
        if complaint:
            raise SandboxError(f"the tests' own set-up does not compile: {complaint}")
        name = self.suite.fn_name

        called_seconds = 0.0

        def answer_call(line: bytes) -> bytes:
            nonlocal called_seconds
            if self.tally.stop:
                return b"!"
            ran = self.ready.sandbox.run(Run(call=f"function {name}"), self.limits, arguments=line)
            self.tally.spend(ran, self.limits)
            called_seconds += ran.wall_seconds
            is_usable = ran.ending == "ended" and ran.result and len(ran.result) <= MAX_RESULT_BYTES
            failures.append(_misfortune(ran) or "")
            return ran.result if is_usable else b"!"

        failures: list[str] = []

        def test(case: TestCase) -> tuple[float, str | None]:
            nonlocal called_seconds
            failures.clear()
            called_seconds = 0.0
            given = case.input.encode(errors="surrogatepass")
            ran = sandbox.run(Run(call=f"check {name}"), CHECK_LIMITS, stdin=given, answer_call=answer_call)
            if ran.ending == "ended" and failures:
                return 1.0, None
            if not failures:
                raise SandboxError(f"a test ended before it called {name}: {_last_line(ran.error)}")
            is_starved = ran.ending == "timeout" and ran.cpu_seconds < 0.8 * CHECK_LIMITS.cpu_seconds
            if is_starved and not any(failures) and not self.tally.stop and called_seconds < ran.wall_seconds / 2:
                raise SandboxError(f"a test got {ran.cpu_seconds:.1f} s of CPU time in {ran.wall_seconds:.0f} s")
            return 0.0, next(filter(None, failures), "") or _last_line(ran.error) or "the check failed"

        return test


def _misfortune(ran: Ran) -> str | None:
    """Why a run has no output to speak of."""
    match ran.ending:
        case "ended":
            return None
        case "timeout":
            return f"timeout ({ran.cpu_seconds:.1f} s of CPU time, {ran.wall_seconds:.1f} s in all)"
        case "output limit" | "memory limit":
            return f"{ran.ending} exceeded"
        case "crashed":
            return _last_line(ran.error) or f"exit code {ran.exit_code}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""


def _wrong_result(expected: Any, result: bytes) -> str | None:
    if not result:
        return "it returned nothing that can be read"
    if len(result) > MAX_RESULT_BYTES:
        return "the result is too long"
    try:
        got = values.loads(result)
        is_right = _equal(expected, got, 0)
    except (OverflowError, RecursionError, ValueError) as error:  # such as an integer beyond every decimal
        return f"the result cannot be compared: {error}"
    return None if is_right else f"returned {_shown(got)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    try:
        return repr(value)[:60]
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer too long to show"


def _equal(expected: Any, got: Any, depth: int) -> bool:
    """Equal as JSON: sequences element by element, decimals within the tolerance, keys as texts."""
    if depth > _MAX_DEPTH:
        return False
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, list):
        return (
            isinstance(got, (list, tuple))
            and len(expected) == len(got)
            and all(_equal(a, b, depth + 1) for a, b in zip(expected, got, strict=True))
        )
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return False
        keyed = {str(key): value for key, value in got.items()}
        return expected.keys() == keyed.keys() and all(_equal(expected[k], keyed[k], depth + 1) for k in expected)
    if isinstance(expected, float) or isinstance(got, float):
        if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
            return math.isclose(expected, got, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
        return False
    return type(expected) in (int, str, type(None)) and isinstance(got, (int, str, type(None))) and expected == got
