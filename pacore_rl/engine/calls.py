"""One generation on all engines: who has which jobs, and what becomes of them where an engine is lost.

Every job is with exactly one engine from the moment it is handed out until its response is here. So what a lost engine
takes with it is known, is asked for again, and nothing comes twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from pacore_rl.engine.generation import Response
from pacore_rl.engine.rollout_worker import News
from pacore_rl.engine.routing import Job, Route
from pacore_rl.engine.whereabouts import roll_call
from pacore_rl.failures import WorkerDied
from pacore_rl.types import GenerationRequest, Sampling

if TYPE_CHECKING:
    from pacore_rl.engine.rollout import RolloutGroup


class EngineLost(Exception):
    """One engine is dead, hung or out of order; its responses under way are lost."""

    def __init__(self, worker: int, why: str) -> None:
        super().__init__(why)
        self.worker = worker


class Calls:
    """The streams of one ``RolloutGroup.stream``."""

    def __init__(
        self, group: RolloutGroup, requests: Sequence[GenerationRequest], sampling: Sampling, route: Route
    ) -> None:
        self.streams: dict[Any, int] = {}
        """Ray's generators, with their workers."""
        self._group, self._route, self._sampling = group, route, sampling
        self._shared = ray.put(list(requests))  # workers fetch the prompts once; jobs are two numbers
        self._call = uuid.uuid4().hex
        self._held: dict[int, set[Job]] = {}
        """Jobs by worker that were handed out and have not ended."""
        self._progress: dict[int, tuple[int, float]] = {}
        """Engine steps by worker, and since when there were no more."""
        self._next_check = time.monotonic() + self._patience

    @property
    def _patience(self) -> float:
        return self._group.config.surviving.health_timeout_seconds

    def begin(self) -> None:
        for worker, jobs in enumerate(self._route.hand_out()):
            if jobs:
                self._ask(worker, jobs)

    def ask_again(self, worker: int) -> None:
        """Give a worker's successor what the worker had."""
        jobs = sorted(self._held.pop(worker, ()))
        if jobs or self._route.has_waiting:
            self._ask(worker, jobs)

    def drop(self, worker: int) -> list[Job]:
        """Jobs that a lost worker had, when nobody waits for them any more."""
        return sorted(self._held.pop(worker, ()))

    def stop(self) -> list[Job]:
        """Interrupt all workers; the jobs that none of them has."""
        self._group.tell(self.streams.values(), News(call=self._call, stop=True))
        return self._route.withdraw()

    def hand_on(self, worker: int, ended: Sequence[Response]) -> None:
        """Give the workers what they have room for; once nothing waits any more, all hear that this was all."""
        if not self._route.has_waiting:
            return
        for response in ended:
            self._route.ended(worker, response.job)
        shares = self._route.hand_out()
        for other in self.streams.values():
            if shares[other] or not self._route.has_waiting:
                self._held.setdefault(other, set()).update(shares[other])
                news = News(call=self._call, jobs=shares[other], more=self._route.has_waiting)
                self._group.tell([other], news)

    def next_responses(self) -> tuple[int, list[Response]]:
        """A worker and responses of it that ended; a stream that is through is dropped, and gives none.

        Raises:
            EngineLost: a worker is dead, hung or out of order. Its stream is dropped.
            TimeoutError: nothing ended for ``run.worker_timeout_seconds``.
            ValueError: a worker refuses what it was asked for.
        """
        deadline = time.monotonic() + self._group.timeout_seconds
        ready: list[Any] = []
        while not ready:
            left = max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(self.streams), num_returns=1, timeout=min(left, self._patience))
            if time.monotonic() >= self._next_check:
                self._check_health()
            if not ready and time.monotonic() >= deadline:
                self._group.raise_late(sorted(self.streams.values()), "generating")
        stream = ready[0]
        worker = self.streams[stream]
        try:
            reference = next(stream)
            responses: list[Response] = self._group.result(reference, self._group.name_of(worker), "generating")
        except StopIteration:
            del self.streams[stream]
            assert not self._held.get(worker), f"rollout worker {worker} ended with {self._held[worker]} to do"
            return worker, []
        except RayActorError as error:
            del self.streams[stream]
            raise EngineLost(worker, f"is lost ({error})") from error
        except (WorkerDied, RuntimeError) as error:
            del self.streams[stream]
            raise EngineLost(worker, f"is lost ({error})") from error
        self._held[worker] -= {response.job for response in responses}
        return worker, responses

    def _ask(self, worker: int, jobs: list[Job]) -> None:
        self._held[worker] = set(jobs)
        self._progress.pop(worker, None)  # of a predecessor
        method = self._group.handles[worker].generate.options(num_returns="streaming")
        more = self._route.has_waiting
        self.streams[method.remote(self._call, self._shared, self._sampling, jobs, more=more)] = worker

    def _check_health(self) -> None:
        """Look for an engine that does not answer, or that has jobs and makes no step."""
        self._next_check = time.monotonic() + self._patience
        for stream, worker in list(self.streams.items()):
            why = self._what_is_wrong(worker)
            if why is not None:
                del self.streams[stream]
                raise EngineLost(worker, why)

    def _what_is_wrong(self, worker: int) -> str | None:
        handle = self._group.handles[worker]
        wrong, places = roll_call([handle], self._patience)
        if wrong:
            return wrong[0]
        num_steps, now = places[0].num_steps, time.monotonic()
        before, since = self._progress.get(worker, (-1, now))
        if num_steps != before or not self._held.get(worker):
            self._progress[worker] = (num_steps, now)
        elif now - since > self._group.config.surviving.stall_timeout_seconds:
            return f"has made no step for {now - since:.0f} s (surviving.stall_timeout_seconds)"
        return None
