"""``pacore-rl score`` from the shell: records in, verdicts out in the same order, mistakes by the record's id."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pacore_rl.rewards.code.backends import BACKENDS, obstacle

REPOSITORY = Path(__file__).resolve().parents[2]

MATHS = {"domain": "math", "answer": "1/2"}
CODE = {"domain": "code", "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "2 2\n", "output": "4\n"}]}


def score(
    folder: Path, records: Sequence[dict[str, Any]], *options: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = folder / "out.jsonl"
    command = [sys.executable, "-m", "pacore_rl", "score", folder / "in.jsonl", "--out", out, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY), out


def test_answers_are_scored_in_their_order(tmp_path: Path) -> None:
    responses = {"right": r"So \boxed{0.5}.", "wrong": r"\boxed{2}", "none": "I do not know."}
    done, out = score(tmp_path, [MATHS | {"id": name, "response": text} for name, text in responses.items()])
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(line) for line in lines] == [["id", "reward", "correct", "outcome", "reason"]] * 3
    assert [(line["id"], line["reward"], line["correct"]) for line in lines] == [
        ("right", 1.0, True),
        ("wrong", 0.0, False),
        ("none", 0.0, False),
    ]
    assert [line["outcome"] for line in lines] == ["scored", "scored", "unparsed"]
    assert "3" in done.stdout


def test_reasoning_is_cut_off_as_in_training(tmp_path: Path) -> None:
    responses = {
        "concluded": r"<think>maybe \boxed{3}</think>So \boxed{0.5}.",
        "not concluded": r"<think>maybe \boxed{0.5}</think>I do not know.",
        "template opened it": r"maybe \boxed{3}</think>\boxed{0.5}",
        "never closed": r"<think>long \boxed{0.5}",
        "no reasoning": r"\boxed{0.5}",
    }
    done, out = score(tmp_path, [MATHS | {"id": name, "response": text} for name, text in responses.items()])
    assert done.returncode == 0, done.stderr
    lines = {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert {name for name, line in lines.items() if line["correct"]} == {
        "concluded",
        "template opened it",
        "no reasoning",
    }
    assert lines["not concluded"]["outcome"] == lines["never closed"]["outcome"] == "unparsed"
    assert lines["never closed"]["reason"] == "the reasoning never closed (no </think>)"
    whole, out = score(tmp_path, [MATHS | {"id": "x", "response": responses["never closed"]}], "--end-of-reasoning", "")
    assert json.loads(out.read_text())["correct"], whole.stderr


@pytest.mark.skipif(all(obstacle(name) for name in BACKENDS), reason="no sandbox can be had here")
def test_programs_get_the_share_of_tests_that_they_pass(tmp_path: Path) -> None:
    programs = {"right": "print(sum(map(int, input().split())))", "half": "print(3)"}
    records = [CODE | {"id": name, "response": f"```python\n{program}\n```"} for name, program in programs.items()]
    done, out = score(tmp_path, records)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["reward"], line["correct"]) for line in found] == [
        ("right", 1.0, True),
        ("half", 0.5, False),
    ]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (CODE | {"tests": [{"input": "1"}], "response": "x"}, "test 1 has no `output`"),
        (MATHS | {"answer": "", "response": "x"}, "answer"),
        (MATHS | {"domain": "chess", "response": "x"}, "chess"),
    ],
)
def test_a_record_that_cannot_be_scored_by_is_named(tmp_path: Path, record: dict[str, Any], told: str) -> None:
    done, out = score(tmp_path, [MATHS | {"id": "sound", "response": r"\boxed{0.5}"}, record | {"id": "faulty"}])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "faulty" in done.stderr and told in done.stderr
    assert not out.exists()
