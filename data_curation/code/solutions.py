"""Known solutions of a coding problem, run in the sandbox.

Right ones must pass; by which checker they do is chosen from their outputs. Wrong ones that pass show that the tests
are weak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from data_curation.records import Solution
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.building import CompileError, Ready, open_program
from pacore_rl.rewards.code.checkers import checker_named, compare
from pacore_rl.rewards.code.grading import Budget, Grade, grade, limits_of
from pacore_rl.rewards.code.sandbox import Limits, Ran, SandboxError
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import TestSuite

LADDER = ("wcmp", "caseless", "rcmp9", "rcmp6", "tokens 1e-6", "rcmp4", "tokens 1e-4", "uncmp")
"""Checkers that are tried where right solutions do not pass by the problem's own, from strict to lenient. The last one
ignores the order of numbers: that it fits cannot be seen from the tests' outputs, but from a right solution's."""
_LANGUAGES = {
    **dict.fromkeys(("python", "python3", "py", "py3", "pypy3", "pypy3-64"), "python"),
    **dict.fromkeys(("cpp", "c++", "c++11", "c++14", "c++17", "c++20", "cc", "g++"), "cpp"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """Known solutions that can be run here."""

    right: tuple[Program, ...]
    wrong: tuple[Program, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What known solutions showed of a suite."""

    suite: TestSuite
    """With the checker by which the right solutions pass."""
    complaint: str | None
    """Why the problem is dropped; None where every right solution passes."""
    survivors: tuple[Program, ...] = ()
    """Wrong solutions that pass every test."""
    num_wrong_failed: int = 0


def runnable(solutions: Sequence[Solution], suite: TestSuite, *, max_right: int, max_wrong: int) -> Runnable:
    """The first distinct right and wrong solutions in Python 3 and C++; for function calls in Python only."""
    found: dict[bool, list[Program]] = {True: [], False: []}
    for solution in solutions:
        language = _LANGUAGES.get(solution.language.lower())
        if language is None or (language == "cpp" and suite.kind != "stdin") or not solution.code.strip():
            continue
        program = Program(language="cpp" if language == "cpp" else "python", source=solution.code)
        if program not in found[solution.is_right]:
            found[solution.is_right].append(program)
    return Runnable(right=tuple(found[True][:max_right]), wrong=tuple(found[False][:max_wrong]))


def judge(known: Runnable, suite: TestSuite, backend: Backend, budget: Budget) -> Judged:
    """Run every known solution on every test.

    Raises ``SandboxError`` where the sandbox failed, so that nothing is known of the problem.
    """
    for number, program in enumerate(known.right, start=1):
        graded = _graded(program, suite, backend, budget)
        if graded.passed < graded.total:
            chosen = choose_checker(known.right, suite, backend, budget)
            if chosen is None:
                complaint = f"right solution {number} of {len(known.right)} fails: {graded.reason}"
                return Judged(suite=suite, complaint=complaint[:300])
            suite = replace(suite, checker=chosen)
            break  # chosen so that all of them pass
    survivors, num_failed = list[Program](), 0
    for program in known.wrong:
        graded = _graded(program, suite, backend, budget)
        if graded.passed < graded.total:
            num_failed += 1
        else:
            survivors.append(program)
    return Judged(suite=suite, complaint=None, survivors=tuple(survivors), num_wrong_failed=num_failed)


def choose_checker(right: Sequence[Program], suite: TestSuite, backend: Backend, budget: Budget) -> str | None:
    """The strictest checker of ``LADDER`` by which every output of every right solution passes; None where none is, or
    where one of them crashes or runs out of time. Raises ``SandboxError``."""
    if suite.kind != "stdin" or suite.checker_program is not None:
        return None
    pairs: list[tuple[bytes, bytes]] = []
    for program in right:
        try:
            with opened(program, suite, backend, budget) as run:
                for test in suite.tests:
                    ran = run(test.input)
                    if ran.ending != "ended":
                        return None
                    pairs.append((test.output.encode(errors="surrogatepass"), ran.output))
        except CompileError:
            return None
    for name in LADDER:
        checker = checker_named(name)
        if all(compare(checker, expected, got) is None for expected, got in pairs):
            return name
    return None


class Runs:
    """A program that is ready in its sandbox: call it with an input."""

    def __init__(self, ready: Ready, limits: Limits) -> None:
        self._ready, self._limits = ready, limits

    def __call__(self, given: str) -> Ran:
        """One run on standard input ``given``. Raises ``SandboxError``."""
        return self._ready.sandbox.run(self._ready.run, self._limits, stdin=given.encode(errors="surrogatepass"))


@contextmanager
def opened(program: Program, suite: TestSuite, backend: Backend, budget: Budget) -> Iterator[Runs]:
    """The program under the suite's limits. Raises ``CompileError`` for its own faults, ``SandboxError`` for ours."""
    with open_program(program, backend) as ready:
        yield Runs(ready, limits_of(suite, program, budget))


def _graded(program: Program, suite: TestSuite, backend: Backend, budget: Budget) -> Grade:
    graded = grade(program, suite, backend, budget)
    if graded.outcome == "failed":
        raise SandboxError(graded.reason)
    return graded
