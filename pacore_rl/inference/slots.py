"""Back-pressure: how many calls may be open to one endpoint, less while it says that it is busy."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

EASE_SECONDS = 1.0
"""A burst of refusals halves the limit once."""


class Slots:
    """At most ``limit`` holders at a time; of those that wait, the one of the lowest priority number comes first.

    The limit halves with each refusal (at most once in ``EASE_SECONDS``), and grows by one for as many successes as it
    is large: additive increase, multiplicative decrease.
    """

    def __init__(self, most: int) -> None:
        assert most > 0
        self._most = most
        self._limit = float(most)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._counter = itertools.count()
        self._eased_at = float("-inf")
        self.num_open = 0
        self.num_waiting = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    @asynccontextmanager
    async def slot(self, priority: int = 0) -> AsyncIterator[None]:
        """Hold a slot, after waiting for it."""
        await self._acquire(priority)
        try:
            yield
        finally:
            self._release()

    def ease(self) -> None:
        """The endpoint refused a call because it is busy."""
        now = asyncio.get_running_loop().time()
        if now - self._eased_at >= EASE_SECONDS:
            self._eased_at = now
            self._limit = max(1.0, self._limit / 2)

    def grow(self) -> None:
        """The endpoint answered a call."""
        if self._limit < self._most:
            self._limit = min(float(self._most), self._limit + 1 / self._limit)
            self._wake()

    async def _acquire(self, priority: int) -> None:
        if self.num_open < self.limit and not self.num_waiting:
            self.num_open += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._counter), turn))
        self.num_waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was handed a slot while it was being cancelled
                self._release()
            else:
                self.num_waiting -= 1
            raise

    def _release(self) -> None:
        self.num_open -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.num_open < self.limit:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.cancelled():  # those that gave up stay in the heap until their turn
                self.num_waiting -= 1
                self.num_open += 1
                turn.set_result(None)
