"""Training sets: a folder of Parquet files that holds problems and the messages cached for them, as one data set.

    data/train-00000.parquet    conversation, responses, ground_truth (the paper's released schema), id, reward, source,
                                ..., and pool: what is known of each response (verdict, tokens, how it ended)

``data.path`` of a recipe names such a folder; ``pacore-rl curate stage1`` and ``stage2`` write it. The released sets
have ``responses`` only; those are scored when they are loaded. Flat ``*.parquet`` and ``*.jsonl`` files in the folder,
or the path of one file, are read too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.problems import problem_of_record
from pacore_rl.types import PoolMessage, Problem, Verdict

NOT_SCORED = Verdict(reward=0.0, correct=False, outcome="judge_error", reason="came without a verdict")
"""Of a response whose set says nothing of it: neither right nor wrong, until it is scored."""
UNKNOWN_MODEL = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Problems in the order of the files, and their messages by problem id."""

    problems: tuple[Problem, ...]
    messages: dict[str, tuple[PoolMessage, ...]]


def load_training_set(path: Path) -> TrainingSet:
    """Every problem of a training set with its messages; a problem without any has none in ``messages``.

    Raises ValueError for a path without such files, and for a record that is damaged, with where it stands.
    """
    problems: dict[str, Problem] = {}
    messages: dict[str, tuple[PoolMessage, ...]] = {}
    for where, row in _rows(path):
        problem = problem_of_record(row, where)
        if problem.id in problems:
            raise ValueError(f"{where}: the id {problem.id!r} is there twice; ids must be unique: remove one record.")
        problems[problem.id] = problem
        found = _messages(row, problem.id, where)
        if found:
            messages[problem.id] = found
    if not problems:
        raise ValueError(f"{path} holds no problem; loosen the filter that wrote it.")
    return TrainingSet(problems=tuple(problems.values()), messages=messages)


def message_fields() -> Any:
    """The Arrow type of one element of ``pool``."""
    arrow: Any = importlib.import_module("pyarrow")
    text = arrow.string()
    return arrow.struct(
        [
            ("text", text),
            ("finish", text),
            ("num_tokens", arrow.int64()),
            ("model", text),
            ("reward", arrow.float64()),
            ("correct", arrow.bool_()),
            ("outcome", text),
            ("reason", text),
            ("answer", text),
        ]
    )


def message_row(message: PoolMessage) -> dict[str, Any]:
    """A message as an element of ``pool``."""
    verdict = message.verdict
    return {
        "text": message.text,
        "finish": message.finish,
        "num_tokens": message.num_tokens,
        "model": message.model,
        "reward": verdict.reward,
        "correct": verdict.correct,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "answer": verdict.answer,
    }


def _message_of_row(row: Mapping[str, Any], problem_id: str) -> PoolMessage:
    verdict = Verdict(
        reward=row["reward"], correct=row["correct"], outcome=row["outcome"], reason=row["reason"], answer=row["answer"]
    )
    return PoolMessage(
        problem_id=problem_id,
        text=row["text"],
        finish=row["finish"],
        verdict=verdict,
        num_tokens=row["num_tokens"],
        model=row["model"],
    )


def _messages(row: Mapping[str, Any], problem_id: str, where: str) -> tuple[PoolMessage, ...]:
    if row.get("pool"):
        try:
            return tuple(_message_of_row(message, problem_id) for message in row["pool"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where}: `pool` is not as `pacore-rl curate` writes it ({error!r}).") from error
    texts = row.get("responses") or ()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: `responses` must be a list of texts; correct the record.")
    return tuple(
        PoolMessage(
            problem_id=problem_id, text=text, finish="stopped", verdict=NOT_SCORED, num_tokens=0, model=UNKNOWN_MODEL
        )
        for text in texts
    )


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    files = training_files(path)
    if not files:
        raise ValueError(
            f"no training set at {path}: it must be a folder with data/*.parquet, *.parquet or *.jsonl, or one such "
            "file. `pacore-rl curate stage1` writes one."
        )
    for file in files:
        rows = _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)
        for number, row in enumerate(rows, start=1):
            yield f"{file}, record {number}", row


def training_files(path: Path) -> list[Path]:
    """The files of a training set in order; empty where there is none."""
    if path.is_file():
        return [path] if path.suffix in (".parquet", ".jsonl") else []
    for pattern in ("data/*.parquet", "*.parquet", "*.jsonl"):
        if files := sorted(path.glob(pattern)):
            return files
    return []


def _parquet_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not readable as Parquet ({error}); make or download it again.") from error


def _json_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{file}, line {number} is not JSON in UTF-8 ({error}); correct the line.") from error
