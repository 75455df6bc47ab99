"""The tests of a coding problem. They travel as the problem's ground truth, in one canonical JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

SuiteKind = Literal["stdin", "function", "check"]
Language = Literal["python", "cpp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCase:
    """One test. What the two texts are depends on the suite's kind."""

    __test__ = False  # no test of pytest's

    input: str
    """stdin: standard input; function: the arguments, a JSON list; check: a Python program that calls the function."""
    output: str
    """stdin: the expected output; function: the expected result, JSON; check: empty, since the program knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerProgram:
    """Judges outputs: run as ``checker input output answer`` in a sandbox of its own, in testlib's terms."""

    language: Language
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSuite:
    """Everything that a program is scored by."""

    __test__ = False

    kind: SuiteKind = "stdin"
    tests: tuple[TestCase, ...]
    fn_name: str = ""
    """The function that is called; empty for kind stdin."""
    checker: str = "wcmp"
    """Name of the comparison of outputs (see ``checkers``); kind stdin only."""
    checker_program: CheckerProgram | None = None
    """In place of a named checker."""
    setup: str = ""
    """check: Python code that its programs may use."""
    time_limit_seconds: float | None = None
    """CPU time of one test; None: the recipe's."""
    memory_limit_mib: int | None = None

    def to_json(self) -> str:
        """One line that :func:`suite_of` reads; equal suites give equal texts."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "tests": [[test.input, test.output] for test in self.tests],
            "fn_name": self.fn_name,
            "checker": self.checker,
            "checker_program": self.checker_program
            and {"language": self.checker_program.language, "source": self.checker_program.source},
            "setup": self.setup,
            "time_limit_seconds": self.time_limit_seconds,
            "memory_limit_mib": self.memory_limit_mib,
        }
        return json.dumps({key: value for key, value in content.items() if value}, ensure_ascii=False)


@lru_cache(maxsize=4096)
def suite_of(ground_truth: str) -> TestSuite:
    """The suite of a problem's ground truth; parsed once. Raises ``ValueError`` where it is none."""
    try:
        content = json.loads(ground_truth)
    except json.JSONDecodeError as error:
        raise ValueError(f"the ground truth of a code problem must be its tests as JSON ({error}).") from error
    if not isinstance(content, Mapping) or "kind" not in content or not _are_ours(content.get("tests")):
        from pacore_rl.rewards.code.shapes import suite_of_record  # the form of a data set, not ours

        record = cast(Mapping[str, Any], content) if isinstance(content, Mapping) else {"tests": content}
        suite = suite_of_record(record)
        if suite is None:
            raise ValueError("the ground truth of a code problem holds no tests; give them as [{input, output}, ...].")
        return suite
    kind, fn_name, program = content["kind"], content.get("fn_name", ""), content.get("checker_program")
    if kind not in get_args(SuiteKind):
        raise ValueError(f"tests of the unknown kind {kind!r}; the kinds are {', '.join(get_args(SuiteKind))}.")
    if not isinstance(fn_name, str) or fn_name.isidentifier() == (kind == "stdin"):
        needed = "no `fn_name`" if kind == "stdin" else "`fn_name`, the name of the function"
        raise ValueError(f"tests of kind {kind!r} need {needed}, found {fn_name!r}.")
    if program is not None and not _is_program(program):
        raise ValueError("`checker_program` must be {language: python or cpp, source}.")
    return TestSuite(
        kind=kind,
        tests=tuple(TestCase(input=given, output=expected) for given, expected in content["tests"]),
        fn_name=fn_name,
        checker=content.get("checker", "wcmp"),
        checker_program=CheckerProgram(**program) if program else None,
        setup=content.get("setup", ""),
        time_limit_seconds=content.get("time_limit_seconds"),
        memory_limit_mib=content.get("memory_limit_mib"),
    )


def _are_ours(tests: object) -> bool:
    """Whether tests are in the form of ``TestSuite.to_json``: pairs of texts."""
    return (
        isinstance(tests, list)
        and bool(tests)
        and all(isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row) for row in tests)
    )


def _is_program(given: object) -> bool:
    return (
        isinstance(given, Mapping)
        and given.keys() == {"language", "source"}
        and given["language"] in get_args(Language)
        and isinstance(given["source"], str)
    )
