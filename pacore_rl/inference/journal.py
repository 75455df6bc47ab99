"""Completions on disk, so that a run that was killed within a problem does not generate its calls again.

One JSON object a line, keyed by a hash of the whole request, seed included: asking the same gives what was given
before. Lines are handed to the operating system at once, which outlives a killed process; a machine that fails may
lose the last of them, and those calls are made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from pacore_rl.inference.completion import Completion, Usage
from pacore_rl.reporting.jsonl import cut_torn_line

SCHEMA_VERSION = 1


class CallJournal:
    """An ``answering.Journal`` in one file. Holds positions in memory, not texts."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; a torn last line is removed. Raises ValueError for a line that is no record."""
        self.path = path
        self.num_replayed = 0
        """Completions that were given back."""
        self._positions: dict[str, int] = {}
        cut_torn_line(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        position = 0
        for number, line in enumerate(self._file, start=1):
            try:
                record = json.loads(line)
                if record["schema_version"] != SCHEMA_VERSION:
                    raise ValueError("another schema version")
                self._positions[record["key"]] = position
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no call ({error}); delete the file to begin anew."
                ) from error
            position += len(line)
        self._end = position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._positions)

    def get(self, request: bytes) -> Completion | None:
        """The completion of an earlier request that was the same; None where there is none."""
        position = self._positions.get(_key(request))
        if position is None:
            return None
        self._file.seek(position)
        fields: dict[str, Any] = json.loads(self._file.readline())["completion"]
        self.num_replayed += 1
        fields["usage"] = Usage(**fields["usage"])
        return Completion(**{**fields, "tool_calls": tuple(fields["tool_calls"])})

    def put(self, request: bytes, completion: Completion) -> None:
        """Keep a completion. Raises OSError where it cannot be written."""
        key = _key(request)
        record = {"schema_version": SCHEMA_VERSION, "key": key, "completion": asdict(completion)}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        view = memoryview(line)
        while view:  # a raw write may be partial
            view = view[self._file.write(view) :]
        self._positions[key] = self._end
        self._end += len(line)

    def close(self) -> None:
        self._file.close()
        if not self._positions:
            self.path.unlink(missing_ok=True)


def _key(request: bytes) -> str:
    return hashlib.blake2b(request, digest_size=16).hexdigest()
