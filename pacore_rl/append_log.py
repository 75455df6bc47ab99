"""Lines appended to one file and never changed: what pools and caches that survive a kill are made of.

A record is one line of JSON, ``{"id":"6f0c...", ...}``, whose ``id`` is a hash of the rest of the line: equal work
gives equal records, and one that was edited is found when it is read. A writer that was killed leaves whole lines and
perhaps a torn last one, which the next reader removes, saying so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

_ID_PREFIX = b'{"id":"'
_ID_HEX = 24
_REST = len(_ID_PREFIX) + _ID_HEX + 2  # past the id's closing quote and comma
_log = logging.getLogger(__name__)


class AppendLog:
    """The file's lines. One process writes at a time; any number may read."""

    def __init__(self, path: Path, *, what: str) -> None:
        """``what`` the file is, for error messages: "message pool"."""
        self.path = path
        self.end_bytes = 0
        """Bytes of the file that are whole lines known to this object."""
        self._what = what

    def lines(self) -> Iterator[bytes]:
        """Every whole line of the file, its end left out; a torn last line is removed where nobody is writing it.

        Raises ValueError where all that is there is a line of something else.
        """
        self.end_bytes = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    self._require_record(line)
                    self._remove_torn_line(self.end_bytes + len(line))
                    return
                self.end_bytes += len(line)
                yield line[:-1]

    def append(self, data: bytes) -> None:
        """Add whole lines and return once they are on disk; on an error, such as a full disk, the file is as it was.

        Raises ValueError where another process has written to the file since it was read, or is writing to it.
        """
        assert data.endswith(b"\n"), "whole lines are appended"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file,
            _writer_lock(file.fileno()) as is_ours,
        ):
            if not is_ours or os.fstat(file.fileno()).st_size != self.end_bytes:
                raise ValueError(
                    f"another process has changed the {self._what} {self.path}; let one process write to it at a "
                    "time, and start this one again: it goes on from what is there."
                )
            try:
                file.seek(self.end_bytes)
                view = memoryview(data)
                while view:  # a raw write may be partial
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(self.end_bytes)
                raise
        if self.end_bytes == 0:
            _sync_folder(self.path.parent)  # the file's name must survive a crash too
        self.end_bytes += len(data)

    def _require_record(self, torn: bytes) -> None:
        """Refuse a file of something else, of which the last line would be taken for the torn record of a kill."""
        if torn[: len(_ID_PREFIX)] != _ID_PREFIX[: len(torn)] and self.end_bytes == 0:
            raise ValueError(
                f"{self.path} is no {self._what}: its only line is no record of one. It is left as it is; give the "
                f"path of a {self._what}, or of a file that does not exist yet."
            )

    def _remove_torn_line(self, size_bytes: int) -> None:
        # Only where no writer is at work: what looks torn may be its next record on the way.
        if not os.access(self.path, os.W_OK):
            return
        with self.path.open("r+b") as file, _writer_lock(file.fileno()) as is_ours:
            if is_ours and os.fstat(file.fileno()).st_size == size_bytes:
                file.truncate(self.end_bytes)
                os.fsync(file.fileno())
                _log.warning(
                    "%s ended in a torn record of %d bytes, left by a kill: removed, it will be made again",
                    self.path,
                    size_bytes - self.end_bytes,
                )


def to_line(fields: Mapping[str, Any]) -> tuple[str, bytes]:
    """The id of a record and its line, with the line's end."""
    rest = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")[1:]
    record_id = _hash(rest)
    return record_id, b"".join((_ID_PREFIX, record_id.encode(), b'",', rest, b"\n"))


def from_line(line: bytes, *, what: str) -> tuple[str, dict[str, Any]]:
    """The id and the fields of a record. Raises ValueError where it was changed or cut after it was written."""
    if not line.startswith(_ID_PREFIX):
        raise ValueError(f"it is not a record of a {what}")
    record_id = line[len(_ID_PREFIX) : len(_ID_PREFIX) + _ID_HEX].decode("ascii", "replace")
    if record_id != _hash(line[_REST:]):
        raise ValueError("its content does not match its id, so it was changed or cut after it was written")
    fields: dict[str, Any] = json.loads(line.decode("utf-8", "surrogatepass"))
    del fields["id"]
    return record_id, fields


class KeyedLog:
    """Results by what they were computed from, in one append-only file: a cache that survives a kill.

    In memory is where each stands, not what it is: findings about code hold whole test suites.
    """

    SCHEMA_VERSION = 1

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(path, what="cache")
        self._places: dict[bytes, tuple[int, int]] = {}
        """By key: where its line begins, and its length in bytes without the line's end."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the cache at ``path``; a missing file is an empty one. Raises ValueError naming a damaged line."""
        cache = cls(path)
        if path.exists():
            for number, line in enumerate(cache._log.lines(), start=1):
                try:
                    _, fields = from_line(line, what="cache")
                    if fields["schema_version"] != cls.SCHEMA_VERSION:
                        raise ValueError(f"it has another schema version; this release reads {cls.SCHEMA_VERSION}")
                    if "value" not in fields:
                        raise ValueError("it holds no value")
                    cache._places[bytes.fromhex(fields["key"])] = (cache._log.end_bytes - len(line) - 1, len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"the cache {path} is damaged at line {number}: {error}. Delete that line; what it held is "
                        "computed again."
                    ) from error
        return cache

    @property
    def path(self) -> Path:
        """The file."""
        return self._log.path

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: Sequence[str | int | float]) -> dict[str, Any] | None:
        """What ``put`` stored under an equal key; None where nothing is."""
        place = self._places.get(_key(key))
        if place is None:
            return None
        start, length = place
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(length)
        try:
            return from_line(line, what="cache")[1]["value"]
        except ValueError as error:
            raise ValueError(
                f"the cache {self.path} was changed while it was in use: {error}. Start again; that names the damage."
            ) from error

    def put(self, key: Sequence[str | int | float], value: dict[str, Any]) -> None:
        """Remember ``value`` (JSON), on disk when this returns."""
        self.put_all([(key, value)])

    def put_all(self, items: Sequence[tuple[Sequence[str | int | float], dict[str, Any]]]) -> None:
        """Remember the value of each key, all on disk when this returns."""
        start, lines = self._log.end_bytes, list[bytes]()
        places: dict[bytes, tuple[int, int]] = {}
        for key, value in items:
            name = _key(key)
            _, line = to_line({"schema_version": self.SCHEMA_VERSION, "key": name.hex(), "value": value})
            places[name] = (start, len(line) - 1)
            start += len(line)
            lines.append(line)
        if lines:
            self._log.append(b"".join(lines))
            self._places |= places


def _key(parts: Sequence[str | int | float]) -> bytes:
    text = json.dumps(list(parts)).encode()
    return hashlib.blake2b(text, digest_size=16).digest()


def _hash(rest: bytes) -> str:
    return hashlib.blake2b(rest, digest_size=_ID_HEX // 2).hexdigest()


@contextmanager
def _writer_lock(descriptor: int) -> Iterator[bool]:
    """Hold the file's writer lock; False where another process does.

    It is given back by name: closing the file is not enough while a process that another thread is starting still has
    its descriptors, between fork and exec.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
