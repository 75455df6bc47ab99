from __future__ import annotations

import json
import time

import pytest

from pacore_rl.rewards.code.checkers import CHECKERS, checker_named, choose_checker, compare
from pacore_rl.rewards.code.grading import Budget, _wrong_result, limits_of
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import TestSuite

RIGHT = [
    ("wcmp", "1 2\n3\n", "1\n2 3"),
    ("lcmp", "1  2\n3\n", "1 2\n3\n\n"),
    ("ncmp", "1 -2", "+1\n-2"),
    ("icmp", "9223372036854775807", "09223372036854775807"),
    ("hcmp", "123456789012345678901234567890", "000123456789012345678901234567890"),
    ("rcmp4", "1.0", "1.0001"),
    ("rcmp6", "1000000.0 2", "1000001 2.000001"),
    ("rcmp9", "0.5", "5e-1"),
    ("uncmp", "3 1 2", "1 2 3"),
    ("yesno", "YES", "yes"),
    ("nyesno", "YES no", "Yes NO"),
    ("caseless", "Case #1: Foo", "case #1: FOO"),
    ("tokens 1e-6", "Ab 0.5", "aB 0.5000004"),
    ("tokens absolute 1e-5", "100.0", "100.000009"),
]
WRONG = [
    ("wcmp", "1 2", "1 2 3"),
    ("wcmp", "1 2", ""),
    ("wcmp", "Yes", "yes"),
    ("lcmp", "1\n2", "1 2"),
    ("ncmp", "1", "1.0"),
    ("ncmp", "1", "9223372036854775808"),
    ("icmp", "1", "1 1"),
    ("hcmp", "10", "1_0"),
    ("rcmp4", "1.0", "1.001"),
    ("rcmp6", "1.0", "nan"),
    ("rcmp6", "1.0", "inf"),
    ("rcmp6", "1.0", "1_0"),
    ("rcmp9", "1.0", "1.00000001"),
    ("uncmp", "1 1 2", "1 2 2"),
    ("yesno", "YES", "maybe"),
    ("yesno", "YES", "YES YES"),
    ("nyesno", "YES NO", "YES"),
    ("caseless", "a b", "a c"),
    ("tokens absolute 1e-5", "100000.0", "100000.5"),
    ("tokens 1e-6", "a 1.0", "a nan"),
]


@pytest.mark.parametrize(("name", "expected", "got"), RIGHT)
def test_right_outputs(name: str, expected: str, got: str) -> None:
    assert compare(checker_named(name), expected.encode(), got.encode()) is None


@pytest.mark.parametrize(("name", "expected", "got"), WRONG)
def test_wrong_outputs(name: str, expected: str, got: str) -> None:
    assert compare(checker_named(name), expected.encode(), got.encode())


def test_every_named_checker_has_a_case_of_both_kinds() -> None:
    assert set(CHECKERS) <= {name for name, *_ in RIGHT} & {name for name, *_ in WRONG}


def test_the_choice_looks_at_all_outputs() -> None:
    assert choose_checker(["YES\n", "no"]) == "yesno"
    assert choose_checker(["YES\nNO", "no"]) == "nyesno"
    assert choose_checker(["0.5", "1"]) == "rcmp6"
    assert choose_checker(["1 2", "2 1"]) == "wcmp"  # never unordered
    assert choose_checker(["0.5", "IMPOSSIBLE"]) == "wcmp"
    assert choose_checker(["YES", "YES 1"]) == "wcmp"
    assert choose_checker([""]) == "wcmp"


def test_an_unknown_name_lists_the_others() -> None:
    with pytest.raises(ValueError, match="unknown checker 'wcpm'; the checkers are wcmp, lcmp"):
        checker_named("wcpm")


def test_an_output_far_too_long_is_not_read() -> None:
    assert "bytes long" in (compare(checker_named("wcmp"), b"1", b"1 " * 100_000) or "")


def test_a_word_of_digits_takes_linear_time() -> None:
    started = time.process_time()
    assert compare(checker_named("rcmp6"), b"1.0 " * 50_000, b"1" * 200_000 + b"x") is not None
    assert compare(checker_named("rcmp6"), b"1" * 200_000, b"1" * 200_000 + b"x") is not None
    assert compare(checker_named("rcmp6"), b"1.0", b"1" * 60_000) is not None  # infinite, and not read as such
    assert time.process_time() - started < 0.5


HOSTILE_RESULTS = {
    "an integer beyond every decimal": ("1.5", str(10**400)),
    "an integer too long to show": ("1", '{"i": "0x' + "f" * 5000 + '"}'),
    "a complex number of nothing": ("1", '{"c": []}'),
    "a decimal of an integer": ("1", '{"f": 1' + "0" * 400 + "}"),
    "a dict with such a key": ('{"a": 1}', '{"d": [[{"i": "0x' + "f" * 5000 + '"}, 1]]}'),
    "a truth for a number": ("1.0", "true"),
    "a number for a truth": ("true", "1"),
}


@pytest.mark.parametrize("name", HOSTILE_RESULTS)
def test_no_result_is_more_than_wrong(name: str) -> None:
    """Straight from the pipe: a program may write there what it likes."""
    expected, result = HOSTILE_RESULTS[name]
    assert _wrong_result(json.loads(expected), result.encode())


def test_a_problem_cannot_ask_for_more_than_a_submission_may_cost() -> None:
    suite = TestSuite(tests=(), time_limit_seconds=2000.0, memory_limit_mib=1 << 20)
    limits = limits_of(suite, Program(language="python", source=""), Budget())
    assert (limits.cpu_seconds, limits.memory_mib) == (60.0, 2048)
