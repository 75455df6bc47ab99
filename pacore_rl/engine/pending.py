"""Results under way on Ray workers: every wait has a limit, and every error says which worker raised it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError

from pacore_rl.engine.whereabouts import Whereabouts, require_answers
from pacore_rl.failures import WorkerDied

T = TypeVar("T")

MISTAKES = (ValueError, FloatingPointError, OSError)
"""What a worker raises about the user's settings, the numbers of a step or the disk: its peers live."""


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
    handles: Sequence[Any] = ()
    """The workers themselves, to ask whether they still live; () does not ask."""
    health_timeout_seconds: float = 60.0
    """A worker that says nothing for this long, not even where it runs, is lost."""
    stall_timeout_seconds: float | None = None
    """One that is late and makes no step (``Whereabouts.num_steps``) for this long is lost too; None does not ask."""

    def result(self) -> T:
        """Wait for every worker and combine what they return.

        The first failure is raised at once: its peers wait in a collective for the worker that failed.

        Raises:
            TimeoutError: a worker took longer than the limit.
            WorkerDied: a worker's process is gone, or does not answer.
            Exception: whatever a worker raised, as it is, with a note of who raised it.
        """
        names = dict(zip(self.refs, self.workers, strict=True))
        waiting = list(self.refs)
        deadline = time.monotonic() + self.timeout_seconds
        steps: dict[int, int] = {}
        stepped = time.monotonic()
        while waiting:
            left = max(0.0, deadline - time.monotonic())
            done, waiting = ray.wait(waiting, num_returns=1, timeout=min(left, self.health_timeout_seconds))
            if not done and time.monotonic() < deadline:
                before, steps = steps, self._num_steps(waiting)
                if steps != before:
                    stepped = time.monotonic()
                self._require_steps(steps, time.monotonic() - stepped)
                continue
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
                if not isinstance(error, MISTAKES):
                    self._require_answers(error)  # a rank whose peer died says only that a connection broke
                error.add_note(f"raised by {names[done[0]]} during {self.what}")
                raise
        return self.combine(ray.get(list(self.refs)))

    def _num_steps(self, waiting: Sequence[Any]) -> dict[int, int]:
        """Steps by position of those that are waited for. Raises ``WorkerDied`` where a worker does not answer."""
        places = self._require_answers()
        return {number: places[number].num_steps for number in places if self.refs[number] in waiting}

    def _require_steps(self, steps: Mapping[int, int], seconds: float) -> None:
        """Raise ``WorkerDied`` where none of the late ones has made a step: in a collective, all wait for one."""
        if steps and self.stall_timeout_seconds is not None and seconds > self.stall_timeout_seconds:
            raise WorkerDied(
                f"{', '.join(self.workers[number] for number in steps)} made no step for {seconds:.0f} s "
                f"(surviving.stall_timeout_seconds) during {self.what}: hung, perhaps in a collective. Look for a lost "
                "link or a GPU error; raise the limit where a micro-batch may take that long."
            )

    def _require_answers(self, cause: Exception | None = None) -> dict[int, Whereabouts]:
        return require_answers(self.handles, self.workers, self.what, self.health_timeout_seconds, cause)
