"""``samples.jsonl``: a run's excerpt for readers, one problem of one step a line.

{"schema": 1, "step": 3, "problem_id": "...", "messages": [{"text": ..., "correct": ...}], "responses": [...], ...}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pacore_rl.reporting.jsonl import LineFile, whole_lines
from pacore_rl.samples import Sample

SAMPLES = "samples.jsonl"
"""Its name in the folder of a run."""
SCHEMA = 1
_RECORD = TypeAdapter(Sample)


class SampleFile:
    """Appends samples to ``path``; a ``pacore_rl.interfaces.SampleSink``."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)

    def log_samples(self, samples: Sequence[Sample]) -> None:
        self._file.append(*({"schema": SCHEMA, **dataclasses.asdict(sample)} for sample in samples))

    def close(self) -> None:
        self._file.close()


def read_samples(path: Path) -> tuple[Sample, ...]:
    """The samples in the order of their steps; of a step that was done twice, what was written last.

    Raises ``ValueError`` naming the line that is no sample.
    """
    found: dict[tuple[int, str], Sample] = {}
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            sample = _parse(json.loads(line))
        except (ValueError, ValidationError) as error:
            raise ValueError(
                f"{path}, line {number} is not a sample ({str(error).splitlines()[0]}); it must be an object of schema "
                f"{SCHEMA} as a run writes it. Remove the line, or report without samples by moving the file away."
            ) from error
        found[sample.step, sample.problem_id] = sample
    return tuple(found[key] for key in sorted(found))


def _parse(record: Mapping[str, Any]) -> Sample:
    if not isinstance(record, dict) or record.pop("schema", None) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    return _RECORD.validate_python(record, strict=False)
