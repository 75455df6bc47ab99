"""Server-sent events of one request: progress while the rounds go on, then the closing round as it is written.

Progress comes as comments (lines that begin with a colon), which every client of the protocol skips: they keep the
connection alive and may be read by those who want to.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from pacore_rl.inference.answering import Answered, Observer
from pacore_rl.inference.completion import Completion, Delta
from pacore_rl.inference.server.body import Envelope, finish_reason, outcome, raise_if_failed, usage_object
from pacore_rl.inference.server.errors import ApiError
from pacore_rl.inference.server.reasoning import ReasoningSplitter
from pacore_rl.synthesis.plan import Call

MAX_QUEUED = 64
"""Pieces that a slow reader may be behind; then the endpoint's stream waits too."""
_DONE = b"data: [DONE]\n\n"
_log = logging.getLogger(__name__)

_Item = Answered | ApiError | tuple[int, Delta] | None


class Progress(Observer):
    """How far a request is, and the queue of what it has to say. A None in it says that progress was made."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[_Item] = asyncio.Queue(MAX_QUEUED)
        self._state: dict[str, Any] = {"round": 0, "num_samples": 0, "num_ended": 0, "generated_tokens": 0}

    def on_round(self, call: Call) -> None:
        self._state |= {"round": call.round_index, "num_samples": call.num_samples, "num_ended": 0}
        self._state["is_final"] = call.is_final
        self._tell()

    def on_completion(self, call: Call, sample: int, completion: Completion) -> None:
        self._state["num_ended"] += 1
        self._state["generated_tokens"] += completion.usage.generated_tokens
        if not call.is_final:
            self._tell()

    async def on_delta(self, sample: int, delta: Delta) -> None:
        await self.queue.put((sample, delta))

    def comment(self) -> bytes:
        return f": pacore {json.dumps(self._state)}\n\n".encode()

    def _tell(self) -> None:
        if self.queue.empty():  # else something is being said anyway
            self.queue.put_nowait(None)


async def event_stream(
    answer: Callable[[Observer], Awaitable[Answered]],
    envelope: Envelope,
    *,
    end_of_reasoning: str,
    is_split: bool,
    num_choices: int,
    include_usage: bool,
    include_messages: bool,
    keep_alive_seconds: float,
) -> AsyncGenerator[bytes]:
    """The events of a request. Closing the iterator stops the request and all its calls."""
    progress = Progress()
    splitters = [ReasoningSplitter(end_of_reasoning, is_split=is_split) for _ in range(num_choices)]
    work = asyncio.create_task(_work(answer, progress))
    try:
        for index in range(num_choices):
            yield _chunk(envelope, index, {"role": "assistant", "content": ""})
        while True:
            try:
                async with asyncio.timeout(keep_alive_seconds):
                    item = await progress.queue.get()
            except TimeoutError:
                item = None
            if item is None:
                yield progress.comment()
            elif isinstance(item, ApiError):
                yield _event(item.as_object())
                return
            elif isinstance(item, Answered):
                for event in _ending(item, envelope, splitters, include_usage, include_messages):
                    yield event
                return
            else:
                index, delta = item
                fields = _fields(splitters[index].feed(delta))
                if fields:
                    yield _chunk(envelope, index, fields)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _work(answer: Callable[[Observer], Awaitable[Answered]], progress: Progress) -> None:
    try:
        answered = await answer(progress)
        raise_if_failed(answered)
        await progress.queue.put(answered)
    except ApiError as error:
        await progress.queue.put(error)
    except Exception:  # the stream has begun: its end must say so
        _log.exception("a request failed")
        await progress.queue.put(ApiError(500, "the server failed; its log says why.", code="internal_error"))


def _ending(
    answered: Answered,
    envelope: Envelope,
    splitters: list[ReasoningSplitter],
    include_usage: bool,
    include_messages: bool,
) -> list[bytes]:
    events: list[bytes] = []
    for index, (answer, completion) in enumerate(zip(answered.answers, answered.completions[-1], strict=True)):
        fields = _fields(splitters[index].end())
        if fields:
            events.append(_chunk(envelope, index, fields))
        ended = {"outcome": outcome(answer, completion), "error": answer.reply.error or None}
        events.append(_chunk(envelope, index, {}, finish_reason(answer, completion), pacore=ended))
    if include_usage:
        usage = usage_object(answered, include_messages=include_messages)
        events.append(_event(envelope.wrap("chat.completion.chunk", choices=[], usage=usage)))
    return [*events, _DONE]


def _fields(delta: Delta) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if delta.content:
        fields["content"] = delta.content
    if delta.reasoning:
        fields["reasoning_content"] = delta.reasoning
    if delta.tool_calls:
        fields["tool_calls"] = [dict(call) for call in delta.tool_calls]
    return fields


def _chunk(envelope: Envelope, index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None, **more}
    return _event(envelope.wrap("chat.completion.chunk", choices=[choice]))


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n".encode()
