"""Large message pools: a folder of append-only shards, each a pool file of its own (see ``message_pool``).

    pool/
        shard-000000.jsonl    full, never touched again
        shard-000001.jsonl    the last one: messages are appended to it, until it is full

Messages stay on disk. In memory are counts by problem and, of each message, eight bytes of its id, by which a copied
record is found; so the 16.8 million messages of 700,000 problems need neither fit into memory nor be read at once. A
writer that was killed can have torn the last shard only: its torn record is removed on the next open, and ``missing``
asks for it again. Copying the shards of another pool into the folder under fresh numbers merges the two.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from pacore_rl.append_log import AppendLog
from pacore_rl.spread import InProcess, Spread
from pacore_rl.synthesis.message_pool import WHAT, decode, encode, is_scored
from pacore_rl.types import PoolMessage, Problem

MESSAGES_PER_SHARD = 16_384
"""Some tens of megabytes: large enough to be few, small enough to copy, and to be one task's work."""
SEVERAL = -1
_NAME = re.compile(r"shard-(\d{6})\.jsonl")


class Pool(Protocol):
    """A message pool as those see it who fill it and who filter by it: one file or a folder of shards."""

    @property
    def path(self) -> Path: ...

    def num_scored(self, problem_id: str) -> int:
        """Messages of a problem whose verdict says something of them."""
        ...

    def num_written(self, problem_id: str, model: str) -> int:
        """Messages of a problem by ``model``, scored or not."""
        ...

    def message_accuracy(self, problem_id: str) -> float:
        """Share of right messages among the problem's scored ones. Raises ValueError where none is scored."""
        ...

    def missing(self, problem_ids: Iterable[str], size: int, model: str) -> dict[str, int]:
        """How many more scored messages by ``model`` each problem needs to have ``size``; complete ones left out."""
        ...

    def has_others(self, problem: Problem) -> bool:
        """Whether messages under the problem's id say that they answer another question, or for another truth."""
        ...

    def append(self, messages: Sequence[PoolMessage]) -> None:
        """Add messages; they are on disk when this returns."""
        ...


@dataclass(slots=True, kw_only=True)
class Count:
    """One problem's messages by one model."""

    num_scored: int = 0
    num_correct: int = 0
    num_tokens: int = 0
    """Generated, over all its messages."""
    next_sample: int = 0
    """One more than the highest sample index among them."""
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """The first eight bytes of the id of every message, scored or not."""
    question: int | None = None
    """``Problem.fingerprint`` of what they answer, as a number; None: none notes it, ``SEVERAL``: they differ."""

    @property
    def num(self) -> int:
        """Messages, scored or not."""
        return len(self.ids)

    def add(self, record_id: str, sample: int, message: PoolMessage) -> bool:
        """Count a message; False where it has been counted before."""
        short = int(record_id[:16], 16)
        if short in self.ids:
            return False
        self.ids.append(short)
        self.next_sample = max(self.next_sample, sample + 1)
        self.num_tokens += message.num_tokens
        if is_scored(message):
            self.num_scored += 1
            self.num_correct += message.verdict.correct
        self.note_question(int(message.question, 16) if message.question else None)
        return True

    def note_question(self, question: int | None) -> None:
        """Of a further message."""
        if question is not None and self.question != question:
            self.question = question if self.question is None else SEVERAL


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a pool, or a shard of one, holds: small enough to travel, and to be in memory."""

    by_model: dict[str, dict[str, Count]] = field(default_factory=dict[str, dict[str, Count]])
    """By model, then by problem id."""
    num_duplicates: int = 0

    def add(self, record_id: str, sample: int, message: PoolMessage) -> None:
        """Count one message."""
        problems = self.by_model.setdefault(message.model, {})
        count = problems.setdefault(message.problem_id, Count())
        self.num_duplicates += not count.add(record_id, sample, message)

    def merge(self, other: Counts) -> None:
        """Take over another shard's counts. Raises ValueError where it holds a message that is counted already."""
        for model, problems in other.by_model.items():
            known = self.by_model.setdefault(model, {})
            for problem_id, theirs in problems.items():
                ours = known.setdefault(problem_id, theirs)
                if ours is theirs:
                    continue
                if not set(ours.ids).isdisjoint(theirs.ids):
                    raise ValueError(
                        f"two shards hold the same message of problem {problem_id!r}; remove the one that is a copy."
                    )
                ours.num_scored += theirs.num_scored
                ours.num_correct += theirs.num_correct
                ours.num_tokens += theirs.num_tokens
                ours.next_sample = max(ours.next_sample, theirs.next_sample)
                ours.ids.extend(theirs.ids)
                ours.note_question(theirs.question)
        self.num_duplicates += other.num_duplicates

    def of(self, problem_id: str) -> list[Count]:
        """A problem's counts, one a model."""
        return [problems[problem_id] for problems in self.by_model.values() if problem_id in problems]

    def next_sample(self, problem_id: str) -> int:
        """The sample index that a problem's next message gets."""
        return max((count.next_sample for count in self.of(problem_id)), default=0)


def read_shard(path: Path) -> Iterator[tuple[str, int, PoolMessage]]:
    """(record id, sample, message) of every record; a torn last one is removed. ValueError names a damaged line."""
    for number, line in enumerate(AppendLog(path, what=WHAT).lines(), start=1):
        yield decode(line, f"{path} is damaged at line {number}")


def count_shard(path: Path) -> Counts:
    """One task's work when a pool is opened."""
    counts = Counts()
    for record in read_shard(path):
        counts.add(*record)
    return counts


class ShardedPool:
    """A pool that is a folder; a :class:`Pool`. Open with :meth:`open`."""

    def __init__(self, path: Path, messages_per_shard: int) -> None:
        self._path = path
        self._messages_per_shard = messages_per_shard
        self._known = Counts()
        self._number = 0
        self._last = AppendLog(path / _shard_name(0), what=WHAT)
        self._num_in_last = 0

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        must_exist: bool = False,
        messages_per_shard: int = MESSAGES_PER_SHARD,
        spread: Spread | None = None,
    ) -> Self:
        """Read the counts of the pool in folder ``path``; a missing folder is an empty pool.

        Args:
            spread: where the shards are read, one task each; by default here, one after another.

        Raises ValueError for a damaged record (with its file and line), a record that two shards hold, a gap in the
        shards' numbers, and, with ``must_exist``, for a folder without shards.
        """
        pool = cls(Path(path), messages_per_shard)
        shards = shard_paths(pool.path)
        if must_exist and not shards:
            raise ValueError(
                f"no message pool at {path}; check the path, or generate it with `pacore-rl curate pools`."
            )
        for counts in (spread or InProcess()).map(count_shard, shards[:-1]):
            pool.take(counts)
        if shards:
            pool._open_last(len(shards) - 1)
        return pool

    @property
    def path(self) -> Path:
        """The pool's folder."""
        return self._path

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Problems that have a message."""
        return tuple(dict.fromkeys(id for problems in self._known.by_model.values() for id in problems))

    @property
    def num_messages(self) -> int:
        """Messages of all problems."""
        return sum(count.num for problems in self._known.by_model.values() for count in problems.values())

    @property
    def num_tokens(self) -> int:
        """Generated tokens of all messages."""
        return sum(count.num_tokens for problems in self._known.by_model.values() for count in problems.values())

    @property
    def num_duplicates(self) -> int:
        """Records that repeat an earlier one of their shard and were left out."""
        return self._known.num_duplicates

    def num_scored(self, problem_id: str) -> int:
        """Messages of a problem whose verdict says something of them."""
        return sum(count.num_scored for count in self._known.of(problem_id))

    def num_written(self, problem_id: str, model: str) -> int:
        """Messages of a problem by ``model``, scored or not."""
        count = self._known.by_model.get(model, {}).get(problem_id)
        return 0 if count is None else count.num

    def message_accuracy(self, problem_id: str) -> float:
        """Share of right messages among the problem's scored ones. Raises ValueError where none is scored."""
        counts = self._known.of(problem_id)
        num_scored = sum(count.num_scored for count in counts)
        if not num_scored:
            raise ValueError(
                f"{self._path} has no scored message of problem {problem_id!r}; generate some with "
                "`pacore-rl curate pools`."
            )
        return sum(count.num_correct for count in counts) / num_scored

    def missing(self, problem_ids: Iterable[str], size: int, model: str) -> dict[str, int]:
        """How many more scored messages by ``model`` each problem needs to have ``size``; complete ones left out."""
        needed: dict[str, int] = {}
        known = self._known.by_model.get(model, {})
        for problem_id in problem_ids:
            count = known.get(problem_id)
            have = 0 if count is None else count.num_scored
            if have < size:
                needed[problem_id] = size - have
        return needed

    def has_others(self, problem: Problem) -> bool:
        """Whether messages under the problem's id say that they answer another question, or for another truth."""
        noted = {count.question for count in self._known.of(problem.id)} - {None}
        return bool(noted) and noted != {int(problem.fingerprint, 16)}

    def messages(self, problem_ids: Collection[str]) -> dict[str, tuple[PoolMessage, ...]]:
        """Every message of these problems, read from disk: () for a problem without any."""
        found: dict[str, list[PoolMessage]] = {problem_id: [] for problem_id in problem_ids}
        seen: set[str] = set()
        for shard in shard_paths(self._path):
            for record_id, _, message in read_shard(shard):
                if message.problem_id in found and record_id not in seen:
                    seen.add(record_id)
                    found[message.problem_id].append(message)
        return {problem_id: tuple(messages) for problem_id, messages in found.items()}

    def take(self, counts: Counts) -> None:
        """Know of what a shard on disk holds."""
        self._known.merge(counts)

    def append(self, messages: Sequence[PoolMessage]) -> None:
        """Add messages to the last shard, or to a new one where that is full; they are on disk when this returns.

        Raises ValueError where another process writes to the pool.
        """
        if not messages:
            return
        if self._num_in_last >= self._messages_per_shard:
            self._number, self._num_in_last = self._number + 1, 0
            self._last = AppendLog(self._path / _shard_name(self._number), what=WHAT)
        added, lines = Counts(), list[bytes]()
        for message in messages:
            sample = max(added.next_sample(message.problem_id), self._known.next_sample(message.problem_id))
            record_id, line = encode(message, sample)
            added.add(record_id, sample, message)
            lines.append(line)
        self._last.append(b"".join(lines))
        self._num_in_last += len(lines)
        self._known.merge(added)

    def _open_last(self, number: int) -> None:
        path, counts = self._path / _shard_name(number), Counts()
        self._number, self._last = number, AppendLog(path, what=WHAT)
        for line in self._last.lines():
            self._num_in_last += 1
            counts.add(*decode(line, f"{path} is damaged at line {self._num_in_last}"))
        self._known.merge(counts)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a pool in their order. Raises ValueError where one is missing between others."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the message pool {folder} is not a folder; give the folder of the shards.")
    paths = sorted(path for path in folder.glob("shard-*.jsonl") if _NAME.fullmatch(path.name))
    for number, path in enumerate(paths):
        if path.name != _shard_name(number):
            raise ValueError(
                f"the message pool {folder} has no {_shard_name(number)}, but {path.name}; restore the shard, or "
                "number those that are left without a gap: the messages of the lost one are made again."
            )
    return paths


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.jsonl"
