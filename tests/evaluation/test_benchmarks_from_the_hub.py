"""Benchmarks by their hub ids: folders laid out as the hub's repositories are, read by ``datasets`` itself."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, Features, Image, List, Value
from datasets.exceptions import DatasetNotFoundError

from pacore_rl.evaluation.benchmarks import BOXED, load_benchmark
from pacore_rl.rewards.code.suite import suite_of

TEXT, WHOLE = Value("string"), Value("int64")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Hub:
    """Stands in for the network alone: what ``datasets.load_dataset`` is asked of the hub, it is asked of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._load: Callable[..., Any] = datasets.load_dataset

    def put(self, id: str, split: str, features: dict[str, Any], *rows: dict[str, Any]) -> None:
        folder = self.root / id / "data"
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: [row[name] for row in rows] for name in features}
        table = Dataset.from_dict(columns, features=Features(features))
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))

    def load_dataset(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.asked.append(((path, *arguments), options))
        if "data_files" in options:
            prefix, _, pattern = options["data_files"].partition("hf://datasets/")
            assert prefix == "", "of the hub's files, not of this machine's"
            return self._load(path, *arguments, **{**options, "data_files": str(self.root / pattern)})
        if not (self.root / path).is_dir():
            raise DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed.")
        return self._load(str(self.root / path), *arguments, **options)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
    return made


MATH_ARENA = {"problem_idx": WHOLE, "problem": TEXT, "answer": TEXT, "problem_type": List(TEXT)}
MATHEMATICS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], tuple[str, str, str, dict[str, Any]]]] = {
    "aime_2024": (
        "HuggingFaceH4/aime_2024",
        "train",
        {"id": WHOLE, "problem": TEXT, "solution": TEXT, "answer": TEXT, "url": TEXT, "year": TEXT},
        {"id": 60, "problem": "Walk?", "solution": "So 204.", "answer": "204", "url": "https://u", "year": "2024"},
        ("60", "204", "aime_2024", {"year": "2024"}),
    ),
    "aime_2025": (
        "MathArena/aime_2025",
        "train",
        {**MATH_ARENA, "answer": WHOLE},
        {"problem_idx": 1, "problem": "Bases?", "answer": 70, "problem_type": ["Number Theory"]},
        ("1", "70", "aime_2025", {}),
    ),
    "hmmt_feb_2024": (
        "MathArena/hmmt_feb_2024",
        "train",
        MATH_ARENA,
        {"problem_idx": 30, "problem": "Area?", "answer": "\\frac{7}{18}", "problem_type": ["Geometry", "Algebra"]},
        ("30", "\\frac{7}{18}", "hmmt_feb_2024", {}),
    ),
    "hmmt_feb_2025": (
        "MathArena/hmmt_feb_2025",
        "train",
        MATH_ARENA,
        {"problem_idx": 2, "problem": "Digits?", "answer": "103", "problem_type": []},
        ("2", "103", "hmmt_feb_2025", {}),
    ),
    "math_500": (
        "HuggingFaceH4/MATH-500",
        "test",
        {"problem": TEXT, "solution": TEXT, "answer": TEXT, "subject": TEXT, "level": WHOLE, "unique_id": TEXT},
        {"problem": "Sum?", "solution": "It is 9.", "answer": "p - q", "subject": "Algebra", "level": 2}
        | {"unique_id": "test/algebra/1.json"},
        ("test/algebra/1.json", "p - q", "math_500", {"subject": "Algebra", "level": 2}),
    ),
    "apex": (
        "MathArena/apex_2025",
        "train",
        {"problem_idx": WHOLE, "answer": TEXT, "source": TEXT, "problem": TEXT},
        {"problem_idx": 12, "answer": "4", "source": "SMT 2025 P9", "problem": "Primes?"},
        ("12", "4", "SMT 2025 P9", {}),
    ),
}
"""By name: hub id, split, columns, a row, and what becomes of it: id, ground truth, source and tags."""


@pytest.mark.parametrize("name", MATHEMATICS)
def test_the_mathematical_ones(hub: Hub, name: str) -> None:
    id, split, features, row, expected = MATHEMATICS[name]
    key = next(key for key in ("unique_id", "problem_idx", "id") if key in row)
    hub.put(id, split, features, row, {**row, key: "99" if features[key] is TEXT else 99})
    hub.put(id, "other", features, {**row, "problem": "From another split?"})
    problems = load_benchmark(name)
    assert hub.asked == [((id,), {"split": split})]
    for problem, number in zip(problems, (expected[0], "99"), strict=True):
        assert [turn.content for turn in problem.conversation] == [row["problem"] + BOXED]
        assert (problem.id, problem.ground_truth, problem.source, dict(problem.tags)) == (number, *expected[1:])
        assert problem.reward == "math"


def lcb(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "question_title": "T",
        "question_content": "Double it.",
        "platform": "atcoder",
        "question_id": f"abc{number}_a",
        "contest_id": f"abc{number}",
        "contest_date": "2024-09-14T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        "private_test_cases": packed([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
        "metadata": "{}",
        **fields,
    }


def packed(tests: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def test_livecodebench_is_read_from_all_its_files_and_none_of_its_code_is_run(hub: Hub, tmp_path: Path) -> None:
    folder = hub.root / "livecodebench" / "code_generation_lite"
    folder.mkdir(parents=True)
    (folder / "code_generation_lite.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    (folder / "README.md").write_text("---\nlicense: cc\n---\n")
    function = lcb(
        3,
        platform="leetcode",
        contest_date="2025-05-31T19:30:00",
        starter_code="class Solution:\n    def double(self, n: int) -> int:\n        ",
        public_test_cases=json.dumps([{"input": "1", "output": "2", "testtype": "functional"}]),
        private_test_cases=packed([{"input": "5", "output": "10", "testtype": "functional"}]),
        metadata=json.dumps({"func_name": "double"}),
    )
    files = {
        "test": [lcb(1, contest_date="2024-07-31T23:59:00")],
        "test2": [lcb(2)],
        "test6": [function, lcb(4, contest_date="2025-06-01T00:00:00")],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = {problem.id: problem for problem in load_benchmark("livecodebench")}
    pattern = "hf://datasets/livecodebench/code_generation_lite/test*.jsonl"
    assert hub.asked == [(("json",), {"data_files": pattern, "split": "train", "streaming": True})]
    assert sorted(problems) == ["abc2_a", "abc3_a"], "those of August 2024 to May 2025"
    assert not (tmp_path / "was_run").exists()

    stdin, called = problems["abc2_a"], problems["abc3_a"]
    assert (stdin.reward, stdin.source) == ("code", "livecodebench")
    assert dict(stdin.tags) == {"difficulty": "easy", "metadata": "{}", "contest_date": "2024-09-14"}
    assert stdin.conversation[-1].content.startswith("Double it.\n\nWrite a Python program")
    assert "Complete this starter code:\n```python\nclass Solution:" in called.conversation[-1].content
    suites = [suite_of(problem.ground_truth) for problem in (stdin, called)]
    assert [(suite.kind, suite.fn_name) for suite in suites] == [("stdin", ""), ("function", "double")]
    assert [test.output.strip() for suite in suites for test in suite.tests] == ["2", "4", "2", "10"]


def test_a_copy_of_livecodebench_is_read_as_the_table_that_it_is(hub: Hub) -> None:
    row = lcb(2)
    hub.put("someone/lcb", "test", dict.fromkeys(row, TEXT), row)
    (problem,) = load_benchmark("livecodebench", "someone/lcb:test")
    assert hub.asked == [(("someone/lcb",), {"split": "test"})]
    assert (problem.id, len(suite_of(problem.ground_truth).tests)) == ("abc2_a", 2)


def test_hle_without_its_images(hub: Hub) -> None:
    texts = "id question image answer answer_type author_name rationale raw_subject category canary".split()
    features = dict.fromkeys(texts, TEXT) | {"image_preview": Image(), "rationale_image": Image()}
    text = {
        "id": "668825f8",
        "question": "Which condition?",
        "image": "",
        "image_preview": None,
        "answer": "D",
        "answer_type": "multipleChoice",
        "author_name": "Ada B.",
        "rationale": "Because.",
        "rationale_image": None,
        "raw_subject": "Philosophy",
        "category": "Humanities/Social Science",
        "canary": "BENCHMARK DATA",
    }
    picture = {"path": None, "bytes": PNG}
    pictured = {**text, "id": "seen", "image": "data:image/png;base64,AAAA", "image_preview": picture}
    explained = {**text, "id": "explained", "answer": "7", "answer_type": "exactMatch", "rationale_image": picture}
    hub.put("cais/hle", "test", features, text, pictured, explained)
    problems = load_benchmark("hle")
    assert hub.asked == [(("cais/hle",), {"split": "test"})]
    assert [(problem.id, problem.ground_truth) for problem in problems] == [("668825f8", "D"), ("explained", "7")]
    assert (problems[0].conversation[-1].content, problems[0].reward) == ("Which condition?" + BOXED, "judge")
    assert dict(problems[0].tags) == {
        "answer_type": "multipleChoice",
        "category": "Humanities/Social Science",
        "raw_subject": "Philosophy",
    }


def test_multichallenge(hub: Hub) -> None:
    features = dict.fromkeys(("QUESTION_ID", "AXIS", "TARGET_QUESTION", "PASS_CRITERIA"), TEXT)
    turns = [{"role": "user", "content": "I am vegan."}, {"role": "assistant", "content": "Noted."}]
    turns.append({"role": "user", "content": "A recipe?"})
    row = {"QUESTION_ID": "6756", "AXIS": "INFERENCE_MEMORY", "CONVERSATION": turns, "TARGET_QUESTION": "Any meat?"}
    hub.put(
        "nmayorga7/multichallenge",
        "train",
        {**features, "CONVERSATION": List({"role": TEXT, "content": TEXT})},
        {**row, "PASS_CRITERIA": "NO"},
    )
    (problem,) = load_benchmark("multichallenge")
    assert hub.asked == [(("nmayorga7/multichallenge",), {"split": "train"})]
    assert [{"role": turn.role, "content": turn.content} for turn in problem.conversation] == turns
    assert (problem.id, problem.reward, dict(problem.tags)) == ("6756", "rubric", {"axis": "INFERENCE_MEMORY"})
    assert json.loads(problem.ground_truth) == {"question": "Any meat?", "expected": "NO"}


def test_multichallenge_in_lower_case(hub: Hub) -> None:
    row = {"question_id": "1", "axis": "A", "target_question": "Any meat?", "pass_criteria": "NO"}
    turns = json.dumps([{"role": "user", "content": "A recipe?"}])
    hub.put("someone/copy", "test", dict.fromkeys((*row, "conversation"), TEXT), {**row, "conversation": turns})
    (problem,) = load_benchmark("multichallenge", "someone/copy:test")
    assert problem.conversation[0].content == "A recipe?"
    assert json.loads(problem.ground_truth) == {"question": "Any meat?", "expected": "NO"}


def test_plain_files_have_no_split(hub: Hub) -> None:
    with pytest.raises(ValueError, match=r"read as plain files .* no split 'release_v5'; leave ':release_v5' out"):
        load_benchmark("livecodebench", "livecodebench/code_generation_lite:release_v5")


def test_an_id_that_is_not_there_is_told_with_what_to_do(hub: Hub) -> None:
    with pytest.raises(ValueError) as caught:
        load_benchmark("aime_2025", "MathArena/aime_1925")
    message = str(caught.value)
    assert "the data set MathArena/aime_1925 (split train) could not be had from the hub" in message
    assert "doesn't exist on the Hub" in message and "give a file: aime_2025=PATH" in message


def test_a_split_that_is_not_there_is_told_with_those_that_are(hub: Hub) -> None:
    _, _, features, row, _ = MATHEMATICS["apex"]
    hub.put("MathArena/apex_2025", "train", features, row)
    with pytest.raises(ValueError, match=r"apex_2025 \(split test\) .*Should be one of \['train'\]"):
        load_benchmark("apex", "MathArena/apex_2025:test")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("aime_2025", {"text": "P?", "label": "1"}, "no question; give `problem`"),
        ("aime_2025", {"problem": "P?", "solution": "1"}, "no answer .*; a problem without one cannot be scored"),
        ("hle", {"prompt": "P?", "answer": "1"}, "no question; give `problem`"),
        ("livecodebench", {"question_content": "P?", "tests": "none"}, "`?tests`?"),
        ("multichallenge", {"conversation": "P?", "target_question": "Q?"}, "every turn of `conversation` needs"),
    ],
)
def test_another_schema_is_told_with_the_row_and_what_it_lacks(
    hub: Hub, name: str, row: dict[str, Any], message: str
) -> None:
    hub.put("someone/set", "train", dict.fromkeys(row, TEXT), row)
    columns = ", ".join(row)
    with pytest.raises(ValueError, match=rf"^someone/set:train, row 1: {message}.* This record has: {columns}"):
        load_benchmark(name, "someone/set:train")


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("livecodebench", {"question_content": "P?", "contest_date": "May 2025"}, "not in the form of LiveCodeBench"),
        ("multichallenge", {"TARGET_QUESTION": "Q?", "CONVERSATION": "[{'role': 'user'}]"}, "not in the form of Multi"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_row(hub: Hub, name: str, row: dict[str, Any], told: str) -> None:
    hub.put("someone/set", "train", dict.fromkeys(row, TEXT), row)
    with pytest.raises(ValueError, match=rf"^someone/set:train, row 1: {told}.* This record has: {', '.join(row)}"):
        load_benchmark(name, "someone/set:train")


def test_a_row_that_is_longer_than_the_header_is_told(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("problem,answer\nOne?,1\nWhat, and why?,2\n")
    with pytest.raises(ValueError, match=r"set\.csv, row 2: has more cells than the header line"):
        load_benchmark("aime_2025", str(tmp_path / "set.csv"))
