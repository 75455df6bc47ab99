"""Candidates and drops on disk: Parquet and JSON Lines, written atomically.

A file of candidates is also a problem file: ``pacore_rl.problems.load_problems`` reads it, licence, contest and year
becoming tags of the problem.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from data_curation.records import Candidate, Drop, Solution
from pacore_rl.problems import SCHEMA_VERSION, problem_of_record, write_atomically


def write_candidates(path: Path, candidates: Sequence[Candidate]) -> None:
    """Write a Parquet file, atomically."""
    write_rows(path, [row_of(candidate) for candidate in candidates], candidate_fields())


def read_candidates(path: Path) -> tuple[Candidate, ...]:
    """What :func:`write_candidates` wrote. Raises ValueError for a file that is damaged."""
    return tuple(candidate_of_row(row, f"{path}, row {i}") for i, row in enumerate(read_rows(path), start=1))


def count_candidates(path: Path) -> int:
    """How many such a file holds, by its head alone."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    return parquet.ParquetFile(path).metadata.num_rows


def write_drops(path: Path, drops: Sequence[Drop]) -> None:
    """Write JSON Lines, one drop a line, atomically."""
    text = "".join(json.dumps(asdict(drop), ensure_ascii=False) + "\n" for drop in drops)
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogatepass")))


def read_drops(path: Path) -> Iterator[Drop]:
    """What :func:`write_drops` wrote."""
    with path.open("rb") as file:
        for line in file:
            yield Drop(**json.loads(line.decode("utf-8", "surrogatepass")))


def row_of(candidate: Candidate) -> dict[str, Any]:
    """A candidate as a row, in the order of :func:`candidate_fields`."""
    problem = candidate.problem
    return {
        "schema_version": SCHEMA_VERSION,
        "id": problem.id,
        "conversation": [{"role": turn.role, "content": turn.content} for turn in problem.conversation],
        "responses": list(candidate.responses),
        "ground_truth": problem.ground_truth,
        "reward": problem.reward,
        "source": problem.source,
        "licence": candidate.licence,
        "contest": candidate.contest,
        "year": candidate.year,
        # As JSON text: the keys of tags differ from problem to problem, Parquet's columns do not.
        "tags": json.dumps(dict(problem.tags), ensure_ascii=False),
        "solutions": json.dumps([asdict(solution) for solution in candidate.solutions], ensure_ascii=False),
    }


def candidate_of_row(row: Mapping[str, Any], where: str) -> Candidate:
    """A row of :func:`row_of` as a candidate; further columns are left out."""
    own = {"licence", "contest", "year", "solutions", "responses"}
    known = {field for field, _ in candidate_fields()} - own
    return Candidate(
        problem=problem_of_record({key: value for key, value in row.items() if key in known}, where),
        licence=row["licence"],
        contest=row["contest"],
        year=row["year"],
        responses=tuple(row["responses"]),
        solutions=tuple(Solution(**solution) for solution in json.loads(row["solutions"])),
    )


def candidate_fields() -> list[tuple[str, Any]]:
    """Names and Arrow types of the columns; the first ones are the paper's released schema and ours beside it."""
    arrow: Any = importlib.import_module("pyarrow")
    text = arrow.string()
    return [
        ("schema_version", arrow.int32()),
        ("id", text),
        ("conversation", arrow.list_(arrow.struct([("role", text), ("content", text)]))),
        ("responses", arrow.list_(text)),
        ("ground_truth", text),
        ("reward", text),
        ("source", text),
        ("licence", text),
        ("contest", text),
        ("year", arrow.int32()),
        ("tags", text),
        ("solutions", text),
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[tuple[str, Any]]) -> None:
    """Write rows as one Parquet file, atomically."""
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    table = arrow.Table.from_pylist(list(rows), schema=arrow.schema(fields))

    def write(file: IO[bytes]) -> None:
        parquet.write_table(table, file, compression="zstd")

    write_atomically(path, write)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, a batch in memory at a time."""
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not readable as Parquet ({error}); remove it, and its step is done again."
        ) from error
