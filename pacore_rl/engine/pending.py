"""Results under way on Ray workers: every wait has a limit, and every error says which worker raised it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError

from pacore_rl.failures import WorkerDied

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RayPending(Generic[T]):
    """One object reference per worker, and what to make of their values. Implements ``interfaces.Pending``."""

    what: str
    """The command, for messages."""
    workers: Sequence[str]
    """A name for each reference."""
    refs: Sequence[Any]
    timeout_seconds: float
    limit_name: str
    """The setting that holds ``timeout_seconds``."""
    combine: Callable[[list[Any]], T]
    """From the workers' values, in order, to the result."""

    def result(self) -> T:
        """Wait for every worker and combine what they return.

        The first failure is raised at once: its peers wait in a collective for the worker that failed.

        Raises:
            TimeoutError: a worker took longer than the limit.
            WorkerDied: a worker's process is gone.
            Exception: whatever a worker raised, as it is, with a note of who raised it.
        """
        names = dict(zip(self.refs, self.workers, strict=True))
        waiting = list(self.refs)
        deadline = time.monotonic() + self.timeout_seconds
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                late = ", ".join(names[ref] for ref in waiting)
                raise TimeoutError(
                    f"{late}: {self.what} did not end within {self.timeout_seconds:g} s ({self.limit_name}). "
                    "Look for a hung or starved process, or raise the limit."
                )
            try:
                ray.get(done[0])
            except RayActorError as error:
                raise WorkerDied(
                    f"{names[done[0]]} died during {self.what} (out of memory, or killed); "
                    "see Ray's logs of that worker, and lower micro_batch_tokens or offload where memory ran out."
                ) from error
            except Exception as error:
                error.add_note(f"raised by {names[done[0]]} during {self.what}")
                raise
        return self.combine(ray.get(list(self.refs)))
