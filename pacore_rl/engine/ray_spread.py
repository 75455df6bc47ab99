"""Curation's heavy steps as Ray tasks: one task a chunk, one core a task, wherever the cluster has room."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from pacore_rl.engine.address import join
from pacore_rl.spread import CHUNKS_AHEAD

T = TypeVar("T")
R = TypeVar("R")

MAX_RETRIES = 3
"""Of a task whose node died; what the function itself raises is not tried again."""

LIMIT_SECONDS = 4 * 3600.0
"""Longest wait for the oldest task in flight: a part of records, a problem's programs, a shard."""


@contextmanager
def joined_cores(address: str) -> Iterator[RaySpread]:
    """All cores of the cluster at ``address``, which is left on the way out. Raises ValueError where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    join(address)
    try:
        yield RaySpread.on_all_cores()
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySpread:
    """A ``pacore_rl.spread.Spread`` on the cluster that this process is connected to (``ray.init``).

    Results come in the chunks' order; ``CHUNKS_AHEAD`` chunks a worker are in flight, so that the controller holds
    neither all chunks nor all results.
    """

    num_workers: int
    """Tasks at a time; the cluster's cores, where nothing else runs on them."""

    @classmethod
    def on_all_cores(cls) -> RaySpread:
        """As many tasks as the cluster has cores. Raises ValueError where this process is not connected to one."""
        if not ray.is_initialized():
            raise ValueError("this process is not connected to a Ray cluster; call ray.init, or work in-process.")
        return cls(num_workers=max(1, int(ray.cluster_resources().get("CPU", 1))))

    def map(self, function: Callable[[T], R], chunks: Iterable[T]) -> Iterator[R]:
        """``function(chunk)`` of every chunk, in order. Raises what a call raises.

        Tasks in flight then end by themselves: ``ray.cancel`` races with their end, and a lost race aborts this process
        (ray-project/ray#54260).
        """
        task: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_call)  # pyright: ignore[reportCallIssue]
        shared = ray.put(function)  # once, with whatever it holds: an index of evaluation problems, say
        waiting = iter(chunks)
        flying: deque[Any] = deque(
            task.remote(shared, chunk) for chunk in islice(waiting, CHUNKS_AHEAD * self.num_workers)
        )
        while flying:
            try:
                result: Any = ray.get(flying[0], timeout=LIMIT_SECONDS)
            except GetTimeoutError as error:
                raise TimeoutError(
                    f"a task of curation was not done within {LIMIT_SECONDS:.0f} s; is the cluster busy with "
                    "something else? What was done before is kept: start again."
                ) from error
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            flying.popleft()
            flying.extend(task.remote(shared, chunk) for chunk in islice(waiting, 1))
            yield result


def _call(function: Callable[[T], R], chunk: T) -> R:
    """One task."""
    return function(chunk)
