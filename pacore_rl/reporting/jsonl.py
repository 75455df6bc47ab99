"""Metrics as JSON Lines: one object a line, ``{"schema": 1, "step": 3, "reward/mean": 0.42, ...}``.

JSON has no NaN and no infinity: they are written as the texts "nan", "inf" and "-inf", and read back as numbers.
A last line without an end is one that is being written, or that a crash cut short: readers leave it out.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

SCHEMA = 1
ONLINE_POOL = "online_pool.jsonl"
JOURNALS = ("metrics.jsonl", "samples.jsonl", ONLINE_POOL)
"""Files of a run folder to which steps add lines; a run that goes on from a checkpoint cuts them back to it. Messages
that the policy wrote later are another policy's: the steps are made again."""
_log = logging.getLogger(__name__)


class LineFile:
    """Appends objects to ``path``, a line each; a line is on the disk before ``append`` returns.

    A run that resumes opens the same file: a last line that a crash cut short is removed first.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self._file = path.open("ab", buffering=0)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write the records, after what is there.

        Raises:
            ValueError: NaN and infinities.
            OSError: the disk is full, or a limit of the file's size is reached; names the file.
        """
        lines = [json.dumps(record, allow_nan=False, ensure_ascii=False) for record in records]
        # A lone surrogate, which a tokenizer may leave, has no UTF-8: it is written as a question mark.
        whole = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        try:
            written = self._file.write(whole)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}; mend it, then go on with --resume auto", self._file.name
            ) from error
        if written != len(whole):
            raise OSError(
                errno.ENOSPC,
                f"only {written} of {len(whole)} bytes found room; make some, then go on with --resume auto",
                self._file.name,
            )
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that have an end."""
    # Not splitlines: it would also split at U+2028 and its like, which JSON leaves as they are.
    return path.read_bytes().decode("utf-8").split("\n")[:-1]


class JsonlSink:
    """Appends a step's metrics to ``path``, on the disk before ``log`` returns."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line. Raises ``ValueError`` for a metric that is not a number."""
        line: dict[str, float | str] = {"schema": SCHEMA, "step": step}
        for key, value in metrics.items():
            line[key] = _writable(key, value)
        self._file.append(line)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The metrics of every step in order, each with its ``step``; a repeated step keeps the latest value of each key.

    Raises ``ValueError`` naming the line that is no metrics line.
    """
    by_step: dict[int, dict[str, float]] = {}
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            record = json.loads(line)
            if record.pop("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            values = {key: float(value) for key, value in record.items()}
            by_step.setdefault(int(values["step"]), {}).update(values)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is not a line of metrics ({error}); it must be an object with schema {SCHEMA} "
                "and a step. Remove the line, or give the metrics.jsonl of a run."
            ) from error
    return [by_step[step] for step in sorted(by_step)]


def length(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def cut_back(path: Path, num_bytes: int) -> None:
    """Remove what was appended past ``num_bytes``: lines of steps that a resumed run makes again.

    Raises:
        ValueError: the file is shorter than that.
    """
    size = length(path)
    if size < num_bytes:
        raise ValueError(
            f"{path} has {size} bytes, and had {num_bytes} when the checkpoint was written: lines are missing. Put the "
            "file back, or start a new run from the checkpoint's actor folder."
        )
    if size > num_bytes:
        os.truncate(path, num_bytes)


def _writable(key: str, value: float) -> float | str:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The metric {key} is {value!r}; it must be a number.") from error
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return int(number) if isinstance(value, int) else number


def cut_torn_line(path: Path) -> None:
    """Cut what follows the last line end: a line that a crash left unfinished. A missing file is left alone."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        whole = _end_of_last_line(file, size)
        if whole < size:
            _log.warning("%s ended in an unfinished line of %d bytes, left by a crash; removed it", path, size - whole)
            file.truncate(whole)
            os.fsync(file.fileno())


def _end_of_last_line(file: BinaryIO, size: int, block: int = 65_536) -> int:
    position = size
    while position > 0:
        start = max(0, position - block)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0
