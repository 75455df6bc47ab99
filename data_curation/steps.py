"""The way from raw sources to ``problems.parquet``: steps over parts on disk, each resumable.

    OUT/parts/1_read/part-00000.parquet      candidates that go on
    OUT/parts/1_read/part-00000.drops.jsonl  what the step dropped of that part
    OUT/parts/1_read/step.json               the settings it was made with, and what went in

A part is there when its Parquet file is: it is written last, and renamed into place. A run that was killed does the
missing parts; a step whose settings, or whose input, have changed is done anew with all that follow. No more than a
part of candidates is in memory at a time, beside the indices of duplicates.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_curation.records import Candidate, Drop, Filter, SlowFilter
from data_curation.store import count_candidates, read_candidates, read_drops, write_candidates, write_drops
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.progress import ProgressReport

PART = "part-{:05d}.parquet"
VERSION = 1
"""To be raised when a filter decides otherwise than before: steps that earlier code has made are then done anew."""


class Spread(Protocol):
    """How parts are worked on: one after the other here, or many at a time on a cluster."""

    def __call__(self, work: Callable[[Path, Path], int], jobs: Sequence[tuple[Path, Path]], /) -> Iterator[int]:
        """Call ``work(source, target)`` for every job, in any order; yield what it returns as jobs end.

        Raises what a job raises; what other jobs have written stays.
        """
        ...


def one_by_one(work: Callable[[Path, Path], int], jobs: Sequence[tuple[Path, Path]]) -> Iterator[int]:
    """In this process; a :class:`Spread`."""
    for source, target in jobs:
        yield work(source, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiftPart:
    """Sift one part with a filter; can be sent to another process."""

    filter: Filter

    def __call__(self, source: Path, target: Path) -> int:
        """The number of candidates that were sifted."""
        candidates = read_candidates(source)
        sifted = self.filter(candidates)
        write_part(target, sifted.kept, sifted.drops)
        return len(candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A finished step: its folder and the key of its settings, which the key of the next one contains."""

    name: str
    folder: Path
    key: str

    @property
    def parts(self) -> tuple[Path, ...]:
        """Its parts in order."""
        return _parts(self.folder)

    def candidates(self) -> Iterator[Candidate]:
        """What goes on, a part in memory at a time."""
        for part in self.parts:
            yield from read_candidates(part)

    def drops(self) -> Iterator[Drop]:
        """What was dropped."""
        for part in self.parts:
            yield from read_drops(drops_of(part))


def read_step(
    work: Path,
    records: Callable[[], Iterator[Candidate | Drop]],
    *,
    settings: object,
    records_per_part: int,
) -> Step:
    """The first step: cut the records of all sources into parts. Parts that are there are read past, not written."""
    folder, key, done = _open(work, "1_read", settings, upstream="")
    step = Step(name="read", folder=folder, key=key)
    if done:
        return step
    kept: list[Candidate] = []
    drops: list[Drop] = []
    number = 0
    with ProgressReport("records read", 0) as report:
        for record in records():
            if isinstance(record, Candidate):
                kept.append(record)
            else:
                drops.append(record)
            if len(kept) + len(drops) == records_per_part:
                number = _flush(folder, number, kept, drops)
                report.expect(records_per_part)
                report.advance(records_per_part)
        if kept or drops:
            number = _flush(folder, number, kept, drops)
    if not step.parts:
        raise ValueError("the sources hold no record at all; check curation.sources.")
    _close(folder, key)
    return step


def filter_step(
    work: Path, before: Step, number: int, filter: Filter, *, settings: object, spread: Spread = one_by_one
) -> Step:
    """A step that looks at each candidate by itself."""
    folder, key, done = _open(work, f"{number}_{filter.name}", settings, upstream=before.key)
    step = Step(name=filter.name, folder=folder, key=key)
    if done:
        return step
    jobs = [(part, folder / part.name) for part in before.parts if not (folder / part.name).is_file()]
    if isinstance(filter, SlowFilter):
        _sift_slowly(filter, jobs)
    else:
        with ProgressReport(f"{filter.name}: parts", len(jobs)) as report:
            for _ in spread(SiftPart(filter=filter), jobs):
                report.advance(1)
    _close(folder, key)
    return step


def _sift_slowly(filter: SlowFilter, jobs: Sequence[tuple[Path, Path]]) -> None:
    """Part by part in this process, since the filter spreads its own work; progress within a part too."""
    sizes = [count_candidates(source) for source, _ in jobs]
    with ProgressReport(f"{filter.name}: problems", sum(sizes)) as report:
        before = 0
        for (source, target), size in zip(jobs, sizes, strict=True):

            def reach(done: int, total: int, before: int = before, size: int = size) -> None:
                report.reach(before + size * done // max(1, total), report.total)

            filter.on_progress = reach
            SiftPart(filter=filter)(source, target)
            before += size
            report.reach(before, report.total)


def ordered_step(
    work: Path,
    before: Step,
    number: int,
    filter: Filter,
    *,
    settings: object,
    survey: Callable[[Sequence[Candidate]], None] | None = None,
) -> Step:
    """A step whose filter remembers what it has seen: parts go through it in order, and from the first on."""
    folder, key, done = _open(work, f"{number}_{filter.name}", settings, upstream=before.key)
    step = Step(name=filter.name, folder=folder, key=key)
    if done:
        return step
    if survey is not None:
        with ProgressReport(f"{filter.name}: parts surveyed", len(before.parts)) as report:
            for part in before.parts:
                survey(read_candidates(part))
                report.advance(1)
    with ProgressReport(f"{filter.name}: parts", len(before.parts)) as report:
        for part in before.parts:
            SiftPart(filter=filter)(part, folder / part.name)
            report.advance(1)
    _close(folder, key)
    return step


def write_part(target: Path, kept: Sequence[Candidate], drops: Sequence[Drop]) -> None:
    """The drops, then the candidates, whose file says that the part is done."""
    write_drops(drops_of(target), drops)
    write_candidates(target, kept)


def drops_of(part: Path) -> Path:
    """The file of a part's drops."""
    return part.with_suffix(".drops.jsonl")


def settings_key(*settings: object) -> str:
    """A hash of settings, equal for equal ones."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _open(work: Path, name: str, settings: object, *, upstream: str) -> tuple[Path, str, bool]:
    """The folder of a step, the key of its settings, and whether it is finished with them."""
    folder, key = work / name, settings_key(VERSION, name, settings, upstream)
    state = _state(folder)
    if state is not None and state.get("key") != key:
        shutil.rmtree(folder)  # made with other settings, or of another input
        state = None
    if state is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_state(folder, {"key": key, "done": False})
        return folder, key, False
    num_parts = len(_parts(folder))
    is_whole = (
        state.get("num_parts", num_parts) == num_parts
    )  # one that was removed, since it is damaged, is made again
    return folder, key, bool(state.get("done")) and is_whole


def _close(folder: Path, key: str) -> None:
    _write_state(folder, {"key": key, "done": True, "num_parts": len(_parts(folder))})


def _parts(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("part-*.parquet")))


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    text = json.dumps(state)
    write_atomically(folder / "step.json", lambda file: file.write(text.encode()))


def _state(folder: Path) -> dict[str, Any] | None:
    path = folder / "step.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); remove {folder}, and its step is done again.") from error


def _flush(folder: Path, number: int, kept: list[Candidate], drops: list[Drop]) -> int:
    target = folder / PART.format(number)
    if not target.is_file():
        write_part(target, kept, drops)
    kept.clear()
    drops.clear()
    return number + 1
