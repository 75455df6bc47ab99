"""Sources: the forms of public data sets become candidates; what cannot be read is told in its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import pytest

from data_curation.records import Candidate, Drop
from data_curation.sources import read_source
from data_curation.store import write_candidates
from pacore_rl.config_curation import SourceConfig
from pacore_rl.recipes import load_config
from pacore_rl.rewards.code.suite import suite_of

RECIPES = Path(__file__).parents[2] / "recipes"


def read(path: Path, **settings: Any) -> tuple[list[Candidate], list[Drop]]:
    records = list(read_source("s", SourceConfig(path=str(path), licence="MIT", **settings)))
    return [r for r in records if isinstance(r, Candidate)], [r for r in records if isinstance(r, Drop)]


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def one(path: Path, record: object, **settings: Any) -> Candidate:
    (found,), drops = read(lines(path, record), **settings)
    assert not drops
    return found


def test_a_bad_record_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    good = '{"id": "1", "problem": "Find $x$.", "answer": "7"}'
    path.write_bytes(f'{good}\n{{"problem": \n[1]\n{{"problem": "Find $y$."}}\n'.encode() + b'{"problem": "\xff"}\n')
    found, drops = read(path)
    assert [candidate.id for candidate in found] == ["s/1"]
    assert [(drop.id, drop.step, drop.source) for drop in drops] == [(f"s/{n}", "read", "s") for n in (2, 3, 4, 5)]
    assert "line 2 is not JSON" in drops[0].reason and "not an object" in drops[1].reason
    assert "no answer" in drops[2].reason and "UTF-8" in drops[3].reason


def test_what_a_cut_off_gzip_still_holds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl.gz"
    text = "".join(
        json.dumps({"id": str(i), "problem": f"Find {i * 7919}.", "answer": "1"}) + "\n" for i in range(5000)
    )
    path.write_bytes(gzip.compress(text.encode())[:-2000])
    found, drops = read(path)
    assert len(found) > 1000 and len(drops) in (1, 2)
    assert "cut short after line" in drops[-1].reason


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("missing.jsonl", None, "no source at"),
        ("a.jsonl.gz", b"no gzip", "not gzip"),
        ("a.parquet", b"no parquet", "not readable as Parquet"),
        ("a.json", b"{}", "one JSON array"),
        ("folder", None, "cannot be loaded"),
    ],
)
def test_a_source_that_cannot_be_read_at_all_is_an_error(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path / name)


def test_columns_are_renamed_also_from_within_others(tmp_path: Path) -> None:
    record = {"prompt": [{"role": "user", "content": "Find $x$."}], "reward_model": {"ground_truth": "34"}}
    columns = {"conversation": "prompt", "ground_truth": "reward_model.ground_truth"}
    found = one(tmp_path / "dapo.jsonl", record, columns=columns)
    assert (found.statement, found.problem.ground_truth, found.licence) == ("Find $x$.", "34", "MIT")
    _, (drop,) = read(lines(tmp_path / "other.jsonl", {"question": "?"}), columns={"problem": "query"})
    assert "no column 'query'" in drop.reason and "question" in drop.reason


def test_answers_within_answer_texts(tmp_path: Path) -> None:
    gsm8k = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n48+24 = 72\n#### 1,072"}
    assert one(tmp_path / "gsm8k.jsonl", gsm8k).problem.ground_truth == "1072"
    maths = {"problem": "Find it.", "solution": "We get $\\boxed{1}$, no: $\\boxed{\\frac{1}{2}}$.", "level": "Level 5"}
    found = one(tmp_path / "math.jsonl", maths)
    assert found.problem.ground_truth == "\\frac{1}{2}"
    assert found.problem.tags == {"level": "Level 5"}


def test_the_released_form_keeps_its_messages(tmp_path: Path) -> None:
    record = {
        "conversation": [{"role": "user", "content": "Find $x$."}],
        "responses": ["It is 7.", "It is 8."],
        "ground_truth": "7",
    }
    found = one(tmp_path / "pacore.jsonl", record)
    assert found.responses == ("It is 7.", "It is 8.") and found.domain == "math"
    code = {**record, "ground_truth": json.dumps({"tests": [{"input": "1", "output": "2"}]})}
    found = one(tmp_path / "pacore_code.jsonl", code)
    assert found.domain == "code" and suite_of(found.problem.ground_truth).tests[0].output == "2"


def test_code_of_stdin_with_known_solutions(tmp_path: Path) -> None:
    record = {
        "description": "Print the sum.",
        "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
        "solutions": {"language": [3, 2], "solution": ["print(3)", "int main(){}"]},
        "incorrect_solutions": {"language": [3], "solution": ["print(4)"]},
        "tags": ["math", "greedy"],
    }
    found = one(tmp_path / "code_contests.jsonl", record)
    assert found.domain == "code" and found.problem.tags["topics"] == "math, greedy"
    assert [(s.language, s.is_right) for s in found.solutions] == [("python3", True), ("cpp", True), ("python3", False)]
    apps = {"question": "Print it.", "input_output": json.dumps({"inputs": ["1"], "outputs": ["1"]})}
    assert (
        one(tmp_path / "apps.jsonl", {**apps, "solutions": '["print(1)", "print(1)"]'}).solutions[0].code == "print(1)"
    )


def test_the_function_that_is_called_is_told_to_the_solver(tmp_path: Path) -> None:
    tests = {"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "plus"}
    record = {"question": "Add two numbers.", "input_output": json.dumps(tests)}
    assert one(tmp_path / "apps.jsonl", record).statement == "Add two numbers.\n\nWrite the function `plus`."
    starter = {**record, "starter_code": "class Solution:\n    def plus(self, a, b):\n"}
    assert "Complete this program:\n```python\nclass Solution:" in one(tmp_path / "lcb.jsonl", starter).statement


def test_contest_and_year_come_from_the_record_or_the_recipe(tmp_path: Path) -> None:
    record = {"problem": "Find $x$.", "answer": "7", "contest_date": "2024-02-01"}
    found = one(tmp_path / "a.jsonl", record, contest="HMMT")
    assert (found.contest, found.year) == ("HMMT", 2024)


def test_two_records_with_one_id_get_two(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *({"id": "1", "problem": f"Find {i}.", "answer": "7"} for i in range(2)))
    found, _ = read(path)
    assert found[0].id == "s/1" and found[1].id.startswith("s/1~")


def test_limit_and_reward(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *({"problem": f"Find {i}.", "answer": "7"} for i in range(5)))
    found, _ = read(path, limit=2, reward="judge")
    assert [candidate.problem.reward for candidate in found] == ["judge", "judge"]


def test_a_folder_goes_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list([{"problem": "Find $x$.", "answer": "7"}]).to_parquet(
        str(tmp_path / "set/train.parquet")
    )
    found, _ = read(tmp_path / "set")
    assert [candidate.statement for candidate in found] == ["Find $x$."]


def test_what_a_source_writes_around_its_questions_is_removed(tmp_path: Path) -> None:
    """As the shipped recipe reads DAPO, whose wrapper names an answer in every question."""
    dapo = load_config(RECIPES / "curation" / "maths.yaml").curation.sources["dapo"]
    around = (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on "
        'its own line after "Answer:".'
    )
    prompts = [around.format("What is 2 + 2?"), "What is 3 + 3?"]
    records = [
        {"prompt": [{"role": "user", "content": prompt}], "reward_model": {"ground_truth": "4"}} for prompt in prompts
    ]
    settings = {"columns": dapo.columns, "strip_prefix": dapo.strip_prefix, "strip_suffix": dapo.strip_suffix}
    candidates, drops = read(lines(tmp_path / "d.jsonl", *records), **settings)
    questions = [candidate.problem.conversation[-1].content for candidate in candidates]
    assert questions == ["What is 2 + 2?", "What is 3 + 3?"] and not drops


def test_topics_may_be_text(tmp_path: Path) -> None:
    record = {"problem": "2 + 2?", "answer": "4", "tags": "['Mathematics', 'Greedy algorithms']"}
    assert one(tmp_path / "a.jsonl", record).problem.tags["topics"] == "['Mathematics', 'Greedy algorithms']"
    for tags, wanted in [
        ("arithmetic", {"topics": "arithmetic"}),
        ("{sets}", {"topics": "{sets}"}),
        ("7", {"topics": "7"}),
        (' {"level": 5}', {"level": 5}),
        (" ", {}),
    ]:
        assert one(tmp_path / "a.jsonl", {**record, "tags": tags}).problem.tags == wanted


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_values_that_cannot_be_held_are_set_aside(tmp_path: Path, name: str) -> None:
    bad = [
        f'{{"problem": "Find $x$.", "answer": "7", "tests": [{"9" * 4301}]}}',
        '{"problem": "Find \\ud835.", "answer": "7"}',
        '{"problem": "Find $x$.", "answer": "7", "tags": "{\\"a\\": \\"\\\\ud835\\"}"}',
        '{"problem": "Find $x$.", "answer": NaN}',
        '{"problem": "Find $x$.", "answer": -Infinity}',
        '{"problem": "Find $x$.", "ground_truth": {"answer": 1e999}}',
    ]
    good = [
        '{"id": "1", "problem": "Find $y$.", "answer": "7"}',
        '{"id": "2", "problem": "Find \\ud835\\udc00.", "answer": NaN, "ground_truth": 8}',
    ]
    records = [*bad, *good]
    (tmp_path / name).write_text("\n".join(records) if name == "a.jsonl" else f"[{','.join(records)}]")
    found, drops = read(tmp_path / name)
    assert [(candidate.id, candidate.problem.ground_truth) for candidate in found] == [("s/1", "7"), ("s/2", "8")]
    assert [drop.id for drop in drops] == [f"s/{number}" for number in range(1, 7)]
    reasons = [drop.reason for drop in drops]
    assert "an integer of more than 4,300 digits" in reasons[0]
    assert all("half a surrogate pair" in reason and "ud835" in reason for reason in reasons[1:3])
    assert all("no answer" in reason for reason in reasons[3:])
    write_candidates(tmp_path / "candidates.parquet", found)
    assert all(f"{drop.reason}{drop.excerpt}".encode() for drop in drops)
