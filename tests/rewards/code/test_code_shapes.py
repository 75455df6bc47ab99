from __future__ import annotations

import base64
import json
import logging
import pickle
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from pacore_rl.problems import load_problems, save_problems
from pacore_rl.rewards.code.shapes import suite_of_record
from pacore_rl.rewards.code.source import Program, last_program
from pacore_rl.rewards.code.suite import TestCase, TestSuite, suite_of


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


SUM = (TestCase(input="1 2\n", output="3\n"),)
SHAPES: dict[str, tuple[dict[str, Any], TestSuite]] = {
    "plain": ({"tests": [{"input": "1 2\n", "output": "3\n"}]}, TestSuite(tests=SUM)),
    "APPS": ({"input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})}, TestSuite(tests=SUM)),
    "APPS function": (
        {"input_output": json.dumps({"fn_name": "add", "inputs": [[1, [2]]], "outputs": [[3]]})},
        TestSuite(kind="function", fn_name="add", tests=(TestCase(input="[1, [2]]", output="3"),)),
    ),
    "CodeContests": (
        {
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "private_tests": {"input": [], "output": []},
            "time_limit": {"seconds": 1, "nanos": 500_000_000},
            "memory_limit_bytes": 256_000_000,
        },
        TestSuite(tests=SUM, time_limit_seconds=1.5, memory_limit_mib=244),
    ),
    "LiveCodeBench": (
        {
            "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
            "private_test_cases": packed(json.dumps([{"input": "2 2\n", "output": "4\n", "testtype": "stdin"}])),
        },
        TestSuite(tests=(*SUM, TestCase(input="2 2\n", output="4\n"))),
    ),
    "LiveCodeBench function": (
        {
            "public_test_cases": json.dumps([{"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}]),
            "metadata": json.dumps({"func_name": "f"}),
        },
        TestSuite(kind="function", fn_name="f", tests=(TestCase(input='[[1, 2], "a"]', output="true"),)),
    ),
    "DeepCoder": (
        {"tests": json.dumps([{"input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}])},
        TestSuite(tests=SUM),
    ),
    "PRIME": (
        {"verification_info": "{'test_cases': [{'type': 'stdin_stdout', 'input': '1 2\\n', 'output': '3\\n'}]}"},
        TestSuite(tests=SUM),
    ),
    "HumanEval": (
        {"problem": "def f():\n    ...", "entry_point": "f", "tests": [{"check": "def check(c): assert c() == 1"}]},
        TestSuite(
            kind="check",
            fn_name="f",
            setup="def f():\n    ...",
            tests=(TestCase(input="def check(c): assert c() == 1", output=""),),
        ),
    ),
    "MBPP": (
        {"tests": [{"assertion": "assert set(f(1)) == {1}"}], "test_setup": "import math"},
        TestSuite(
            kind="check",
            fn_name="f",
            setup="import math",
            tests=(TestCase(input="assert set(f(1)) == {1}", output=""),),
        ),
    ),
    "Kattis": (
        {"tests": [{"input": "1 2\n", "output": "3\n"}], "checker": "default", "checker_flags": "float_tolerance 1e-6"},
        TestSuite(tests=SUM, checker="tokens 1e-6"),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    record, suite = SHAPES[name]
    assert suite_of_record(record) == suite
    assert suite_of(suite.to_json()) == suite


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no output": ({"tests": [{"input": "1"}]}, "test 1 has no `output`"),
    "no tests": ({"input_output": {"inputs": [], "outputs": []}}, "the record has no tests"),
    "uneven": ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    "kind": ({"tests": [{"input": "1", "output": "1"}], "kind": "interactive"}, "unknown kind 'interactive'"),
    "no name": ({"tests": [{"input": "1", "output": "1"}], "kind": "function"}, "needs `fn_name`"),
    "custom": ({"tests": [{"input": "1", "output": "1"}], "checker": "custom"}, "no `checker_program`"),
    "pickled program": ({"private_test_cases": packed(print)}, "it wants builtins.print"),
    "evaluated": ({"verification_info": "__import__('os').system('true')"}, "neither JSON nor a Python literal"),
    "a list of columns": ({"public_tests": [{"input": "1", "output": "1"}]}, "`public_tests` must be {input: [...]"),
    "unit": ({"tests": [{"input": "1", "output": "1"}], "time_limit": "2 fortnights"}, "in seconds or milliseconds"),
    "not JSON": ({"input_output": "{"}, "is not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_scored_by_is_told_at_load_with_its_id(name: str, tmp_path: Path) -> None:
    record, message = BAD[name]
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"id": "p7", "problem": "Add.", **record}) + "\n")
    with pytest.raises(ValueError, match="p7") as told:
        load_problems(path)
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("given", "seconds"), [("2000 ms", 2.0), ("2.5 seconds", 2.5), ("1 s", 1.0), ("3", 3.0), (None, None)]
)
def test_time_limits_have_units(given: str | None, seconds: float | None) -> None:
    suite = suite_of_record({"tests": [{"input": "1", "output": "1"}], "time_limit": given})
    assert suite is not None and suite.time_limit_seconds == seconds


def test_a_ground_truth_with_a_kind_may_be_in_a_data_sets_form() -> None:
    theirs = {"kind": "stdin", "tests": [{"input": "1 2\n", "output": "3\n"}]}
    assert suite_of(json.dumps(theirs)) == TestSuite(tests=SUM)
    bad = {
        "unknown kind 'stdout'": {"kind": "stdout", "tests": [["1", "2"]]},
        "name of the function": {"kind": "function", "tests": [["[1]", "2"]]},
        "checker_program": {"kind": "stdin", "tests": [["1", "2"]], "checker_program": {"source": "x"}},
    }
    for message, content in bad.items():
        with pytest.raises(ValueError, match=message):
            suite_of(json.dumps(content))


def test_coding_problems_load_and_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "problems.jsonl"
    record = {"id": "a", "question": "Is it?", "difficulty": "easy", "tests": [{"input": "1", "output": "YES"}]}
    path.write_text(json.dumps(record) + "\n")
    with caplog.at_level(logging.INFO):
        (problem,) = load_problems(path)
    assert "a: checker yesno, chosen from its outputs" in caplog.text
    assert (problem.reward, dict(problem.tags)) == ("code", {"difficulty": "easy"})
    assert suite_of(problem.ground_truth) == TestSuite(tests=(TestCase(input="1", output="YES"),), checker="yesno")
    save_problems(tmp_path / "again.jsonl", [problem])
    assert load_problems(tmp_path / "again.jsonl") == (problem,)


def test_the_last_block_is_the_program() -> None:
    message = "First\n```python\nprint(1)\n```\nno, rather\n```cpp\nint main() {}\n```\nDone."
    assert last_program(message) == Program(language="cpp", source="int main() {}\n")
    assert last_program("```\n#include <cstdio>\n```") == Program(language="cpp", source="#include <cstdio>\n")
    assert last_program("```\nprint(1)\n```") == Program(language="python", source="print(1)\n")
    assert last_program("````py\nx = '''\n```\n'''\n````") == Program(language="python", source="x = '''\n```\n'''\n")
    assert last_program("```python\nprint(1)\n```\n```python\nprint(2)") == "the last code block never closes"
    assert last_program("print(1)") == "no fenced code block"
    assert last_program("```python\n\n```") == "the last code block is empty"
    assert last_program("```java\nclass A {}\n```") == "the last code block is 'java'; only Python and C++ are run"


@pytest.mark.parametrize("line", ["```" + " " * 1_000_000 + "`", "~" * 1_000_000 + "`", "`" * 1_000_000 + "x`"])
def test_a_message_is_read_in_linear_time(line: str) -> None:
    started = time.process_time()
    assert last_program(line) == "no fenced code block"
    assert last_program("```py\r\nprint(1)\r\n```\r\n") == Program(language="python", source="print(1)\r\n")
    assert time.process_time() - started < 0.5
