"""Asks answered by OpenAI-compatible endpoints, through the client of ``pacore_rl.inference``."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pacore_rl.evaluation.asking import Ask, Then
from pacore_rl.failures import RunStopped
from pacore_rl.inference.answering import Model
from pacore_rl.inference.client import CallState, Client, request_body, with_seed
from pacore_rl.inference.completion import Completion, TokenLimits
from pacore_rl.inference.connect import EndpointError, check_longest, find_model
from pacore_rl.inference.conversation import Message, with_references
from pacore_rl.inference.counting import PromptCounter
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.synthesis.plan import Reply
from pacore_rl.types import Problem

T = TypeVar("T")

CLOSE_SECONDS = 10.0
_Ended = tuple[int, Future[tuple[Completion, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointAsker:
    """A served model. Calls are made in an event loop of their own thread; ``then`` runs in the caller's."""

    client: Client
    model: Model
    counter: PromptCounter
    loop: asyncio.AbstractEventLoop
    end_of_reasoning: str

    @property
    def room_tokens(self) -> int | None:
        return self.model.room_tokens

    def prompt_tokens(self, problem: Problem, messages: Sequence[str]) -> int:
        """Exact, or an upper bound within the room, or an estimate (see ``inference.counting``)."""
        room = self.model.room_tokens
        assert room is not None, "without a window nothing is counted"
        return _in_loop(self.loop, self.counter.count(_conversation(problem, messages), room_tokens=room))

    def check_longest(self, problems: Sequence[Problem]) -> None:
        """Raise EndpointError where the longest problem leaves no room for its answer."""
        conversations = {problem.id: _conversation(problem, ()) for problem in problems}
        with _told_as_settings():
            _in_loop(self.loop, check_longest(self.model, self.counter, conversations))

    def answer(self, asks: Sequence[Ask], then: Then) -> None:
        """Each ask by itself: what a reply gives rise to is asked at once.

        Raises:
            RunStopped: no endpoint can be reached any more, or the key is refused.
        """
        ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()
        under_way: set[Future[tuple[Completion, ...]]] = set()
        num_asked = 0

        def submit(more: Sequence[Ask]) -> None:
            nonlocal num_asked
            for ask in more:
                index, num_asked = num_asked, num_asked + 1
                future = asyncio.run_coroutine_threadsafe(self._ask(ask, index), self.loop)
                under_way.add(future)
                future.add_done_callback(lambda done, index=index: ended.put((index, done)))

        submit(asks)
        try:
            while under_way:
                index, future = ended.get()  # every call has limits of its own, so that this ends
                under_way.discard(future)
                completions = future.result()
                _stop_if_unreachable(completions)
                submit(then(index, tuple(self._reply(completion) for completion in completions)))
        finally:
            for future in under_way:
                future.cancel()

    async def _ask(self, ask: Ask, priority: int) -> tuple[Completion, ...]:
        """The samples of one prompt at one endpoint; the first goes ahead where the prompt is worth caching."""
        body = request_body(self.model.name, _conversation(ask.problem, ask.messages), self.model.options)
        leads = ask.num_samples > 1 and len(body) >= self.client.settings.leader_first_bytes
        with self.client.routed(ask.num_samples) as route:

            async def one(sample: int, state: CallState) -> Completion:
                request = with_seed(body, draw_seed(ask.seed, "rounds/call", sample))
                completion = await self.client.complete(request, replica=route.replica, priority=priority, state=state)
                route.end()
                return completion

            async with asyncio.TaskGroup() as group:
                limits = TokenLimits(
                    max_tokens=self.model.options.get("max_tokens"), window_tokens=self.model.window_tokens
                )
                leader, *others = (CallState(limits=limits) for _ in range(ask.num_samples))
                tasks = [group.create_task(one(0, leader))]
                if leads:
                    await leader.prefilled.wait()
                tasks += [group.create_task(one(sample, state)) for sample, state in enumerate(others, start=1)]
        return tuple(task.result() for task in tasks)

    def _reply(self, completion: Completion) -> Reply:
        return completion.as_reply(self.end_of_reasoning)


@contextmanager
def open_endpoints(
    urls: Sequence[str],
    *,
    model: str | None,
    options: Mapping[str, Any],
    end_of_reasoning: str,
    reserve_tokens: int,
    max_open_calls: int,
    api_key: str | None = None,
) -> Iterator[EndpointAsker]:
    """Connect, for the length of a ``with`` block.

    Args:
        model: its name at the endpoints; None takes the only one there is.
        options: sampling options of every call.

    Raises:
        EndpointError: an endpoint that is down or lacks the model, or a window too small; says what to change.
    """
    endpoints = [Endpoint.of(url, api_key=api_key) for url in urls]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint", daemon=True)
    thread.start()
    client = Client(endpoints, ClientSettings(max_open_calls=max_open_calls))
    try:
        with _told_as_settings():
            found = _in_loop(loop, find_model(client, model, options=options, reserve_tokens=reserve_tokens))
        yield EndpointAsker(
            client=client,
            model=found,
            counter=PromptCounter(client, found.name),
            loop=loop,
            end_of_reasoning=end_of_reasoning,
        )
    finally:
        asyncio.run_coroutine_threadsafe(_end(client), loop).result(CLOSE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_SECONDS)
        loop.close()


@contextmanager
def _told_as_settings() -> Iterator[None]:
    """The options of ``infer`` and ``serve`` that a refusal names, in the terms of a recipe."""
    try:
        yield
    except EndpointError as error:
        raise EndpointError(
            f"{error} (Here: --served-model names the model, and a recipe's sampling.max_response_tokens and "
            "sampling.answer_reserve_tokens are the limit and the reserve.)"
        ) from None


async def _end(client: Client) -> None:
    """Cancel what is in flight and close the connections."""
    waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await client.__aexit__(None, None, None)


def _in_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def _conversation(problem: Problem, messages: Sequence[str]) -> list[dict[str, Any]]:
    turns: list[Message] = [{"role": turn.role, "content": turn.content} for turn in problem.conversation]
    return with_references(turns, messages)


def _stop_if_unreachable(completions: Sequence[Completion]) -> None:
    for completion in completions:
        failure = completion.failure
        if failure is not None and failure.kind in ("unreachable", "unauthorized"):
            raise RunStopped(
                f"{failure.message}. What had been answered is kept; see to the endpoint, and give the same command "
                "again: it goes on from there."
            )
