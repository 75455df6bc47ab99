"""What a stage keeps, as a data set that trains at once: Parquet in the schema of the paper's released sets, and more.

    conversation, responses, ground_truth    as in PaCoRe-Train-8k; responses are the messages that are not empty
    id, reward, source, licence, contest, year, tags
    message_accuracy, synthesis_accuracy     what the problem was kept by; null where it was not measured
    pool                                     every message with its verdict (``pacore_rl.training_sets``)

``pacore-rl train RECIPE data.path=FOLDER`` and ``datasets.load_dataset(FOLDER)`` read the folder.
"""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from data_curation.stages import StageReport
from data_curation.store import candidate_fields, read_rows
from pacore_rl.problems import write_atomically
from pacore_rl.training_sets import message_fields, message_row
from pacore_rl.types import PoolMessage, Problem

FILE = "data/train-00000-of-00001.parquet"
_ROWS_TOGETHER = 512

Messages = Callable[[Collection[str]], Mapping[str, Sequence[PoolMessage]]]
Select = Callable[[Sequence[Problem]], tuple[tuple[Problem, ...], StageReport]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A stage's filter: of all problems, and of each source."""

    kept_ids: tuple[str, ...]
    report: StageReport
    by_source: Mapping[str, StageReport]


def select_by_source(problems: Sequence[Problem], select: Select) -> StageResult:
    """Apply a filter of ``stages`` to all problems, and report it by source too."""
    kept, report = select(problems)
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.source].append(problem)
    by_source = {source: select(group)[1] for source, group in groups.items()}
    return StageResult(kept_ids=tuple(problem.id for problem in kept), report=report, by_source=by_source)


def write_stage_set(
    folder: Path,
    problems: Path,
    *,
    message_accuracies: Mapping[str, float],
    synthesis_accuracies: Mapping[str, float] | None = None,
    kept_ids: Collection[str],
    messages: Messages,
) -> Path:
    """Write the kept rows of a ``problems.parquet`` with their messages, in their order; returns the Parquet file.

    Args:
        messages: those of some problems by id; asked for a few hundred at a time, so that no pool need fit memory.
    """
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    schema = arrow.schema(stage_fields())
    wanted = set(kept_ids)
    target = folder / FILE

    def write(file: IO[bytes]) -> None:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in _together(row for row in read_rows(problems) if row["id"] in wanted):
                found = messages([row["id"] for row in rows])
                for row in rows:
                    del row["solutions"]
                    pool = found.get(row["id"], ())
                    row["responses"] = [message.text for message in pool if message.text.strip()]
                    row["pool"] = [message_row(message) for message in pool]
                    row["message_accuracy"] = message_accuracies.get(row["id"])
                    row["synthesis_accuracy"] = (synthesis_accuracies or {}).get(row["id"])
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))

    write_atomically(target, write)
    return target


def stage_fields() -> list[tuple[str, Any]]:
    """Names and Arrow types of the columns."""
    arrow: Any = importlib.import_module("pyarrow")
    fields = [(name, kind) for name, kind in candidate_fields() if name != "solutions"]
    number = arrow.float64()
    further = [("message_accuracy", number), ("synthesis_accuracy", number), ("pool", arrow.list_(message_fields()))]
    return fields + further


def save_stage_result(path: Path, result: StageResult) -> None:
    """Write the reports as JSON, atomically; the ids are in the set."""
    content = {
        "report": asdict(result.report),
        "by_source": {source: asdict(report) for source, report in result.by_source.items()},
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def load_stage_reports(path: Path) -> tuple[StageReport, dict[str, StageReport]]:
    """The report of all problems, and of each source. Raises ValueError for a damaged file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        reports = {source: _report(fields) for source, fields in content["by_source"].items()}
        return _report(content["report"]), reports
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); run its stage of `pacore-rl curate` again.") from error


def _report(fields: dict[str, Any]) -> StageReport:
    return StageReport(**{**fields, "histogram": tuple(fields["histogram"])})


def _together(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch
