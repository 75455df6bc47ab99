"""The message pool: round-1 messages cached on disk, scored (paper, section 3.1: 24 per problem).

One JSON record a line, appended and never changed::

    {"id":"6f0c...","schema_version":1,"sample":0,"problem_id":"p1","text":"...",...}

``id`` is a hash of the rest of the line, which holds the content and the sample index: a record that was edited is
found on load, and pool files of different problems may be concatenated, since a record copied twice counts once. A
writer that was killed leaves whole records and perhaps a torn last line; the torn line is removed on the next open
and ``missing`` asks for its message again. ``pool_shards`` holds large pools in folders of such files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from pacore_rl.append_log import AppendLog, from_line, to_line
from pacore_rl.types import PoolMessage, Problem, Verdict

SCHEMA_VERSION = 1
WHAT = "message pool"


def is_scored(message: PoolMessage) -> bool:
    """Whether its verdict says something of the message, rather than of a failure of the scorer or the engine."""
    return message.finish != "failed" and message.verdict.outcome not in ("sandbox_error", "judge_error")


def answer_another(messages: Iterable[PoolMessage], problem: Problem) -> bool:
    """Whether one notes that it answers another question than the problem asks, or was scored for another truth."""
    noted = {message.question for message in messages} - {""}
    return bool(noted) and noted != {problem.fingerprint}


class MessagePool:
    """Scored messages by problem, in memory and in one append-only file. Open with :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(path, what=WHAT)
        self._messages: dict[str, list[PoolMessage]] = {}
        self._record_ids: set[str] = set()
        self._next_sample: dict[str, int] = {}
        self._num_duplicates = 0

    @classmethod
    def open(cls, path: Path | str, *, must_exist: bool = False) -> Self:
        """Read the pool at ``path`` and repair a torn last line; a missing file is an empty pool.

        Raises ValueError for a corrupt or edited record (with its line number), another schema version, and, with
        ``must_exist``, for a missing file.
        """
        pool = cls(Path(path))
        if pool.path.is_file():
            pool._load()
        elif pool.path.exists():
            raise ValueError(f"the message pool {path} is not a file; give the path of a .jsonl file.")
        elif must_exist:
            raise ValueError(f"no message pool at {path}; check the path, or generate it with `pacore-rl pool`.")
        return pool

    @property
    def path(self) -> Path:
        """The pool's file."""
        return self._log.path

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Problems that have a message, in the order of their first one."""
        return tuple(self._messages)

    @property
    def num_messages(self) -> int:
        """Messages of all problems."""
        return sum(len(messages) for messages in self._messages.values())

    @property
    def num_duplicates(self) -> int:
        """Records of the file that repeat an earlier one and were left out."""
        return self._num_duplicates

    def messages(self, problem_id: str) -> tuple[PoolMessage, ...]:
        """Every message of a problem in the order of the file; () for a problem without any."""
        return tuple(self._messages.get(problem_id, ()))

    def message_accuracy(self, problem_id: str) -> float:
        """Share of right messages among the problem's scored ones: all-or-nothing, over the whole pool.

        Messages whose scoring failed through no fault of theirs are in neither count. Raises ValueError where none
        is scored.
        """
        scored = [message for message in self._messages.get(problem_id, ()) if is_scored(message)]
        if not scored:
            raise ValueError(
                f"{self.path} has no scored message of problem {problem_id!r}; generate some with `pacore-rl pool`."
            )
        return sum(message.verdict.correct for message in scored) / len(scored)

    def num_scored(self, problem_id: str) -> int:
        """Messages of a problem whose verdict says something of them."""
        return sum(is_scored(message) for message in self._messages.get(problem_id, ()))

    def num_written(self, problem_id: str, model: str) -> int:
        """Messages of a problem by ``model``, scored or not."""
        return sum(message.model == model for message in self._messages.get(problem_id, ()))

    def missing(self, problem_ids: Iterable[str], size: int, model: str) -> dict[str, int]:
        """How many more scored messages by ``model`` each problem needs to have ``size``; complete ones left out."""
        needed: dict[str, int] = {}
        for problem_id in problem_ids:
            have = sum(message.model == model and is_scored(message) for message in self._messages.get(problem_id, ()))
            if have < size:
                needed[problem_id] = size - have
        return needed

    def has_others(self, problem: Problem) -> bool:
        """Whether messages under the problem's id say that they answer another question, or for another truth."""
        return answer_another(self._messages.get(problem.id, ()), problem)

    def append(self, messages: Sequence[PoolMessage]) -> None:
        """Add messages and return once they are on disk; on an error the file is as it was.

        Raises ValueError where another process has written to the file since it was opened, or is writing to it.
        """
        if not messages:
            return
        records: list[tuple[str, bytes]] = []
        next_sample = {message.problem_id: self._next_sample.get(message.problem_id, 0) for message in messages}
        for message in messages:
            records.append(encode(message, next_sample[message.problem_id]))
            next_sample[message.problem_id] += 1
        self._log.append(b"".join(line for _, line in records))
        self._next_sample.update(next_sample)
        for message, (record_id, _) in zip(messages, records, strict=True):
            self._record_ids.add(record_id)
            self._messages.setdefault(message.problem_id, []).append(message)

    def _load(self) -> None:
        for number, line in enumerate(self._log.lines(), start=1):
            record_id, sample, message = decode(line, f"{self.path} is damaged at line {number}")
            if record_id in self._record_ids:
                self._num_duplicates += 1
                continue
            self._record_ids.add(record_id)
            self._messages.setdefault(message.problem_id, []).append(message)
            # Not the count: after a damaged line was deleted, a used index must not come back.
            self._next_sample[message.problem_id] = max(self._next_sample.get(message.problem_id, 0), sample + 1)


def encode(message: PoolMessage, sample: int) -> tuple[str, bytes]:
    """The id and the line of a problem's message number ``sample``."""
    return to_line({"schema_version": SCHEMA_VERSION, "sample": sample, **asdict(message)})


def decode(line: bytes, where: str) -> tuple[str, int, PoolMessage]:
    """The record's id, its sample index and its message. Raises ValueError, which begins with ``where``, for damage."""
    try:
        record_id, record = from_line(line, what=WHAT)
        if record.pop("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"it has another schema version; this release reads {SCHEMA_VERSION}")
        sample = int(record.pop("sample"))
        record["verdict"] = Verdict(**record["verdict"])
        return record_id, sample, PoolMessage(**record)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"the message pool {where}: {reason}. Delete that line; `pacore-rl pool` makes its message again."
        ) from error
