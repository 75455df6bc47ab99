"""Which engine generates which response: all shared out at once, or each where there is room. Plain arithmetic.

A job is (index of a request, sample). A route hands out jobs and is told which have ended; it never looks at a clock,
so that the same events give the same decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

from pacore_rl.types import GenerationRequest, Sampling

Job = tuple[int, int]
"""(index of the request, sample)"""
Routing = Literal["static", "dynamic"]


class Route(Protocol):
    """What is left to hand out, and to whom it goes."""

    @property
    def has_waiting(self) -> bool:
        """Whether there are jobs that no engine has."""
        ...

    def hand_out(self) -> list[list[Job]]:
        """Jobs that each engine gets now."""
        ...

    def ended(self, engine: int, job: Job) -> None:
        """Note that an engine is done with a job."""
        ...

    def withdraw(self) -> list[Job]:
        """Take back all jobs that no engine has."""
        ...


class StaticRoute:
    """Everything at once: what an engine computes together depends on nothing but the requests."""

    has_waiting = False

    def __init__(self, requests: Sequence[GenerationRequest], sampling: Sampling, num_engines: int) -> None:
        self._shares = [
            [(index, sample) for index in share for sample in range(requests[index].num_samples)]
            for share in assign(requests, sampling, num_engines)
        ]

    def hand_out(self) -> list[list[Job]]:
        shares, self._shares = self._shares, [[] for _ in self._shares]
        return shares

    def ended(self, engine: int, job: Job) -> None:
        """Nothing follows from it."""

    def withdraw(self) -> list[Job]:
        return []


class DynamicRoute:
    """Late binding: an engine holds ``capacity`` jobs at most, and the others wait for whoever has room first.

    The engine with the fewest outstanding tokens (budgets of the jobs it holds) is served first. It goes on with the
    problem it took from last, whose prompt is in its prefix cache; when nothing of that waits, it takes a problem that
    nobody has begun; when there is none, it helps with the one of which most waits. So a problem's responses part only
    where an engine would have less to do than others.
    """

    def __init__(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, num_engines: int, *, capacity: int
    ) -> None:
        self._budgets = [token_budget(request, sampling) for request in requests]
        self._waiting = {index: deque(range(r.num_samples)) for index, r in enumerate(requests) if r.num_samples}
        """By request: samples nobody has. A request with none is absent."""
        self._untouched = deque(self._waiting)
        """Requests that nobody has begun, in order."""
        self._room = [capacity] * num_engines
        self._outstanding_tokens = [0] * num_engines
        self._last: list[int | None] = [None] * num_engines
        """The request that each engine took from last."""

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def hand_out(self) -> list[list[Job]]:
        shares: list[list[Job]] = [[] for _ in self._room]
        while self._waiting and any(self._room):
            engine = min(
                (engine for engine, room in enumerate(self._room) if room),
                key=lambda engine: (self._outstanding_tokens[engine], engine),
            )
            shares[engine].append(self._take(engine))
        return shares

    def ended(self, engine: int, job: Job) -> None:
        self._room[engine] += 1
        self._outstanding_tokens[engine] -= self._budgets[job[0]]

    def withdraw(self) -> list[Job]:
        jobs = [(index, sample) for index, samples in self._waiting.items() for sample in samples]
        self._waiting.clear()
        return jobs

    def _take(self, engine: int) -> Job:
        index = self._last[engine]
        if index is None or index not in self._waiting:
            index = (
                self._untouched.popleft()
                if self._untouched
                else max(self._waiting, key=lambda index: (len(self._waiting[index]), -index))
            )
        sample = self._waiting[index].popleft()
        if not self._waiting[index]:
            del self._waiting[index]
        self._last[engine] = index
        self._room[engine] -= 1
        self._outstanding_tokens[engine] += self._budgets[index]
        return index, sample


def token_budget(request: GenerationRequest, sampling: Sampling) -> int:
    """Tokens that a response to the request may still get from ``sampling``, at most."""
    generated = 0 if request.continues is None else len(request.continues.response_ids)
    return max(0, sampling.max_response_tokens - generated)


def assign(requests: Sequence[GenerationRequest], sampling: Sampling, num_workers: int) -> list[list[int]]:
    """Request indices of each worker, in order, so that their loads are near each other.

    The load of a request is its tokens at most, prompts once and budgets once per sample. The heaviest request goes
    first, each to the worker with the least so far; ties go to the lower number, so that the same requests are always
    spread alike.
    """
    loads = [len(request.prompt_ids) + request.num_samples * token_budget(request, sampling) for request in requests]
    totals = [0] * num_workers
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    for index in sorted(range(len(requests)), key=lambda index: -loads[index]):
        worker = totals.index(min(totals))
        totals[worker] += loads[index]
        shares[worker].append(index)
    return [sorted(share) for share in shares]
