"""A model that curation asks by chat: the protocol, and what many calls at once need.

Judges, writers of tests and proposers of pools are all written against :class:`ChatModel`; ``endpoints`` has the one
behind OpenAI-compatible endpoints, tests script it in a line.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pacore_rl.config_endpoints import EndpointConfig
from pacore_rl.failures import RunStopped
from pacore_rl.types import Finish, Turn

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What a call came to, after its retries."""

    text: str
    """The reply, reasoning that the server sets apart left out; "" where there is none."""
    reasoning: str = ""
    """What the server sets apart."""
    finish: Finish = "stopped"
    num_tokens: int = 0
    """Generated tokens, the reasoning's included."""
    failure: str = ""
    """Why there is no reply; set where ``finish`` is ``failed`` or ``overflow``."""
    is_refused: bool = False
    """The failure lies in what was asked: the endpoint itself works."""


class ChatModel(Protocol):
    """Answers conversations. Never raises for what a network or a model does."""

    @property
    def name(self) -> str:
        """What tells its replies from another model's."""
        ...

    async def reply(self, conversation: Sequence[Turn], *, seed: int) -> ChatReply:
        """One sampled reply; the same seed asks for the same one again."""
        ...


OpenModel = Callable[[], AbstractAsyncContextManager[ChatModel]]
"""Opens a model within the event loop that will ask it."""


class EndpointDown(RunStopped):
    """Too many calls failed for the work to go on; what was done is on disk."""


class FailureWatch:
    """Stops the work where an endpoint is down, rather than let every item fail after its retries."""

    def __init__(self, config: EndpointConfig, *, done: str) -> None:
        """``done``: where finished work is kept, for the message."""
        self._config, self._done = config, done
        self._in_a_row = 0

    def see(self, reply: ChatReply) -> None:
        """Note a reply. Raises ``EndpointDown`` at ``max_failures_in_a_row``."""
        if not reply.failure or reply.is_refused:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= self._config.max_failures_in_a_row:
            raise EndpointDown(
                f"{self._in_a_row} calls in a row failed at {', '.join(self._config.base_urls)}, the last with: "
                f"{reply.failure}. Repair the endpoint and start again; what was done so far is kept in {self._done} "
                "and is not asked for again."
            )


async def each(items: Iterable[T], work: Callable[[T], Awaitable[R]], *, num_workers: int) -> AsyncIterator[R]:
    """``work(item)`` of every item, as they end, ``num_workers`` at a time; items are taken when there is room.

    What a call raises ends the others and is raised.
    """
    flying, ended = set[asyncio.Future[R]](), set[asyncio.Future[R]]()
    try:
        for item in items:
            flying.add(asyncio.ensure_future(work(item)))
            if len(flying) >= num_workers:
                ended, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for one in ended:
                    yield one.result()
        while flying:
            ended, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                yield one.result()
    finally:
        for one in flying:
            one.cancel()
        await asyncio.gather(*flying, *ended, return_exceptions=True)  # whatever else they raised is heard


def in_thread(iteration: Callable[[], AsyncIterator[R]]) -> Iterator[R]:
    """An async iteration for those who are not: it goes on in a thread while its results are worked on here.

    What it raises is raised here; leaving early cancels it and waits for its end.
    """
    loop = asyncio.new_event_loop()
    ended: queue.SimpleQueue[tuple[R] | BaseException | None] = queue.SimpleQueue()

    async def run() -> None:
        try:
            async for result in iteration():
                ended.put((result,))
        except BaseException as error:  # handed over, also a cancellation
            ended.put(error)
        else:
            ended.put(None)

    task = loop.create_task(run())

    def work() -> None:
        try:
            loop.run_until_complete(task)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=work, name="async iteration", daemon=True)
    thread.start()
    try:
        while (result := ended.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        with suppress(RuntimeError):  # it has ended, and its loop is closed
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
