"""Progress of long generations: a bar on a terminal, a line now and then in a log; both with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pacore_rl.interfaces import Generator
from pacore_rl.reporting import terminal
from pacore_rl.reporting.console import clock as as_clock
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

LINE_SECONDS = 15.0
"""In a log, a line appears at most this often."""


class ProgressReport:
    """How far a piece of work of ``total`` units is; ``total`` grows where more turns out to be needed."""

    def __init__(
        self,
        unit: str,
        total: int,
        console: Console = terminal.console,
        *,
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[], str] | None = None,
    ) -> None:
        """``note`` gives a word on the state of the work, shown beside it; with one, call ``advance(0)`` as it goes."""
        self._note = note
        self.total = total
        self.done = 0
        self._unit = unit
        self._console = console
        self._clock = clock
        self._started = self._last_line = clock()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Progress(*columns, *left, console=console, transient=True)
            self._task = self._bar.add_task(unit, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, more: int) -> None:
        """``more`` units are about to be worked on: the total is at least those and what is done."""
        self.total = max(self.total, self.done + more)

    def reach(self, done: int, total: int) -> None:
        """``done`` of ``total`` units are done."""
        self.total = total
        self.advance(done - self.done)

    def advance(self, num: int) -> None:
        """``num`` more units are done."""
        self.done += num
        if self._bar is not None:
            note = "" if self._note is None else self._note()
            self._bar.update(self._task, completed=self.done, total=self.total, note=note)
            return
        now = self._clock()
        is_telling = self.done > 0 or self._note is not None
        if now - self._last_line >= LINE_SECONDS and is_telling and self.done < self.total:
            self._last_line = now
            parts = [f"  {self._unit} {self.done:,}/{self.total:,}"]
            if self.done > 0:
                parts.append(f"left {as_clock((now - self._started) / self.done * (self.total - self.done))}")
            if self._note is not None:
                parts.append(self._note())
            self._console.print("  ".join(parts), highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedGenerator:
    """A generator whose responses are counted; a ``pacore_rl.interfaces.Generator``."""

    generator: Generator
    report: ProgressReport

    @property
    def weight_version(self) -> int:
        return self.generator.weight_version

    @property
    def context_window_tokens(self) -> int:
        return self.generator.context_window_tokens

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        """Yield what the generator yields, and count it."""
        self.report.expect(sum(request.num_samples for request in requests))
        for index, trajectories in self.generator.generate(requests, sampling):
            self.report.advance(len(trajectories))
            yield index, trajectories
