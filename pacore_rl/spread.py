"""Where the heavy steps of curation run: in this process, in processes of this machine, or as tasks on a Ray cluster.

A step is a function of a chunk of its input, importable by its name; ``map`` calls it for every chunk and hands over
the results in the chunks' order, with a bounded number of chunks and results alive. ``pacore_rl.engine.ray_spread`` is
the one on Ray.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNKS_AHEAD = 2
"""Chunks in flight for each worker: one that it works on, one that waits for it."""


class Spread(Protocol):
    """Somewhere to call a function for many chunks."""

    @property
    def num_workers(self) -> int:
        """Chunks that are worked on at a time."""
        ...

    def map(self, function: Callable[[T], R], chunks: Iterable[T]) -> Iterator[R]:
        """``function(chunk)`` of every chunk, in the chunks' order. What a call raises, this raises."""
        ...


@dataclass(frozen=True, slots=True)
class InProcess:
    """One after another, here."""

    num_workers: int = 1

    def map(self, function: Callable[[T], R], chunks: Iterable[T]) -> Iterator[R]:
        """Each is worked on when its result is asked for."""
        return map(function, chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """On this machine's cores. Functions, chunks and results travel by pickle."""

    num_workers: int

    def map(self, function: Callable[[T], R], chunks: Iterable[T]) -> Iterator[R]:
        """In fresh processes, which end with the iteration."""
        waiting = iter(chunks)
        # Spawned: a fork would take along the threads and locks of whatever this process has loaded.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.num_workers, mp_context=context) as executor:
            flying: deque[Future[R]] = deque(
                executor.submit(function, chunk) for chunk in islice(waiting, CHUNKS_AHEAD * self.num_workers)
            )
            try:
                while flying:
                    result = flying.popleft().result()
                    flying.extend(executor.submit(function, chunk) for chunk in islice(waiting, 1))
                    yield result
            finally:
                executor.shutdown(wait=True, cancel_futures=True)


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items in their order; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


@dataclass(frozen=True, slots=True)
class OnPairs:
    """A function of two arguments as one of pairs, which travels to other processes if the function does."""

    function: Callable[[Any, Any], Any]

    def __call__(self, pair: tuple[Any, Any]) -> Any:
        return self.function(*pair)


def over_parts(spread: Spread) -> Callable[[Callable[[Path, Path], int], Sequence[tuple[Path, Path]]], Iterator[int]]:
    """A ``data_curation.steps.Spread``: parts of a step, each read from one file and written to another."""
    return lambda work, jobs: spread.map(OnPairs(work), jobs)
