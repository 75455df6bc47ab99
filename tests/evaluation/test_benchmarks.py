from __future__ import annotations

import base64
import json
import os
import pickle
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from pacore_rl.evaluation.benchmarks import BENCHMARKS, BOXED, benchmark_of, load_benchmark
from pacore_rl.problems import save_problems
from pacore_rl.rewards.code.suite import suite_of
from pacore_rl.types import Problem

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PACORE_DATA", ROOT / ".." / "shared" / "data"))
FILES = {
    "aime_2024": "math_eval/aime_2024.jsonl",
    "aime_2025": "math_eval/aime_2025.jsonl",
    "hmmt_feb_2024": "math_eval/hmmt_feb_2024.jsonl",
    "hmmt_feb_2025": "math_eval/hmmt_feb_2025.jsonl",
    "math_500": "math_eval/math_500.jsonl",
    "imo_answerbench": "math_eval/imo_answerbench_v2.jsonl",
}


def load(tmp_path: Path, name: str, *records: dict[str, Any], **options: Any) -> tuple[Problem, ...]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_benchmark(name, str(path), **options)


@pytest.mark.skipif(not DATA.is_dir(), reason="set PACORE_DATA to a folder with math_eval/")
@pytest.mark.parametrize("name", FILES)
def test_the_mathematical_benchmarks_are_whole(name: str) -> None:
    problems = load_benchmark(name, str(DATA / FILES[name]))
    assert len(problems) == BENCHMARKS[name].num_problems
    assert {problem.reward for problem in problems} == {"math"}
    assert all("\\boxed" in problem.conversation[-1].content for problem in problems)


@pytest.mark.parametrize(
    ("name", "row", "id", "question", "answer"),
    [
        ("hmmt_feb_2025", {"problem_idx": 3, "problem": "P?", "answer": "7", "problem_type": ["x"]}, "3", "P?", "7"),
        ("aime_2024", {"id": 60, "problem": "P?", "answer": "025", "solution": "S", "url": "u"}, "60", "P?", "025"),
        ("aime_2024", {"ID": "2024-I-1", "Problem": "P?", "Answer": 25, "Solution": "S"}, "2024-I-1", "P?", "25"),
        ("math_500", {"unique_id": "test/a/1.json", "problem": "P?", "answer": "1/2"}, "test/a/1.json", "P?", "1/2"),
        ("apex", {"problem_idx": 1, "problem": "P?", "answer": 9, "source": "SMT"}, "1", "P?", "9"),
        ("imo_answerbench", {"Problem ID": "a-1", "Problem": "P?", "Short Answer": "3"}, "a-1", "P?", "3"),
    ],
)
def test_published_forms_are_read(
    tmp_path: Path, name: str, row: dict[str, Any], id: str, question: str, answer: str
) -> None:
    (problem,) = load(tmp_path, name, row)
    assert (problem.id, problem.conversation[-1].content, problem.ground_truth) == (id, question + BOXED, answer)
    assert "S" not in problem.tags.values()  # a solution is not for a prompt, nor for a record


def test_livecodebench_keeps_the_papers_window_and_its_packed_tests(tmp_path: Path) -> None:
    hidden = base64.b64encode(
        zlib.compress(pickle.dumps(json.dumps([{"input": "2", "output": "4", "testtype": "stdin"}])))
    )
    row = {
        "question_id": "abc",
        "question_content": "Double it.",
        "question_title": "T",
        "contest_date": "2024-09-14T00:00:00",
        "starter_code": "",
        "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}]),
        "private_test_cases": hidden.decode(),
        "difficulty": "easy",
        "metadata": "{}",
    }
    early = {**row, "question_id": "old", "contest_date": "2024-07-31T00:00:00"}
    (problem,) = load(tmp_path, "livecodebench", row, early)
    assert problem.id == "abc" and problem.reward == "code"
    assert [test.output for test in suite_of(problem.ground_truth).tests] == ["2", "4"]
    assert "```python" in problem.conversation[-1].content


def test_hle_leaves_out_questions_with_an_image(tmp_path: Path) -> None:
    row = {"id": "q1", "question": "Which?", "answer": "B", "image": "", "answer_type": "multipleChoice"}
    problems = load(tmp_path, "hle", row, {**row, "id": "q2", "image": "data:image/png;base64,AAAA"})
    assert [problem.id for problem in problems] == ["q1"]
    assert problems[0].reward == "judge" and problems[0].tags["answer_type"] == "multipleChoice"


def test_multichallenge_keeps_the_whole_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "I am vegan."}, {"role": "assistant", "content": "Noted."}]
    turns.append({"role": "user", "content": "A recipe?"})
    row = {"QUESTION_ID": "m1", "AXIS": "INFERENCE_MEMORY", "CONVERSATION": turns, "TARGET_QUESTION": "Is it vegan?"}
    (problem,) = load(tmp_path, "multichallenge", {**row, "PASS_CRITERIA": "YES"})
    assert [turn.content for turn in problem.conversation] == ["I am vegan.", "Noted.", "A recipe?"]
    assert problem.reward == "rubric"
    assert json.loads(problem.ground_truth) == {"question": "Is it vegan?", "expected": "YES"}


def test_a_set_of_ones_own_is_read_as_it_is(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, "mine", {"id": "a", "problem": "P?", "answer": "yes", "reward": "exact"})
    assert (problem.conversation[-1].content, problem.reward) == ("P?", "exact")


def test_an_instruction_replaces_the_benchmarks_own_and_is_not_said_twice(tmp_path: Path) -> None:
    row = {"id": "a", "problem": "P? Answer in \\boxed{}.", "answer": "1"}
    assert load(tmp_path, "aime_2025", row)[0].conversation[-1].content == row["problem"]
    asked = load(tmp_path, "aime_2025", row, instruction="\nBe brief.")[0].conversation[-1].content
    assert asked == row["problem"] + "\nBe brief."


def test_the_first_problems_can_be_asked_for_and_parquet_is_read(tmp_path: Path) -> None:
    rows = load(tmp_path, "mine", *({"id": f"p{i}", "problem": f"{i}?", "answer": "1"} for i in range(5)))
    save_problems(tmp_path / "rows.parquet", rows)
    assert load_benchmark("mine", str(tmp_path / "rows.parquet"), num_problems=2) == rows[:2]


def test_imo_answerbench_is_read_from_the_table_it_is_published_as(tmp_path: Path) -> None:
    (tmp_path / "v2.csv").write_text('Problem ID,Problem,Short Answer,Category\nimo-1,"Find $f$,\nif any.",3,Algebra\n')
    (problem,) = load_benchmark("imo_answerbench", str(tmp_path / "v2.csv"))
    assert (problem.id, problem.ground_truth, problem.tags["category"]) == ("imo-1", "3", "Algebra")
    assert problem.conversation[-1].content.startswith("Find $f$,\nif any.")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("aime2025", None, "did you mean 'aime_2025'"),
        ("imo_answerbench", None, "no data set on the hub; give the path"),
        ("aime_2025", "nowhere.jsonl", "no problem file at nowhere.jsonl"),
        ("aime_2025", "not a hub id", "neither a file nor the hub id"),
        ("a/b", "x.jsonl", "must be made of letters"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(name: str, source: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_benchmark(name, source)


def test_a_hub_that_cannot_be_reached_is_told_with_what_to_do(tmp_path: Path) -> None:
    program = "from pacore_rl.evaluation.benchmarks import load_benchmark; load_benchmark('aime_2025')"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=offline, check=False
    )
    assert ended.returncode == 1
    assert re.search(r"ValueError: .*MathArena/aime_2025 .*could not be had.*aime_2025=PATH", ended.stderr)


def test_ids_must_be_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="used twice, first 'a'"):
        load(tmp_path, "mine", *([{"id": "a", "problem": "P?", "answer": "1"}] * 2))


def test_every_registered_benchmark_is_complete() -> None:
    assert list(BENCHMARKS) == [benchmark_of(name, None).name for name in BENCHMARKS]
    assert {name: BENCHMARKS[name].samples_per_problem for name in ("aime_2025", "imo_answerbench", "hle")} == {
        "aime_2025": 64,
        "imo_answerbench": 8,
        "hle": 1,
    }
