"""Chat completions from one or many OpenAI-compatible endpoints.

Every call is streamed: that is how a broken one is told from a long one, and how leaving it reaches the server. A
retry waits without a slot, may go to another endpoint, and asks the same with the same seed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import httpx

from pacore_rl.inference.chat_stream import NO_LIMITS, ChatStream, StreamError
from pacore_rl.inference.completion import RETRYABLE, Completion, Delta, Failure, FailureKind, TokenLimits, Usage
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.inference.slots import Slots
from pacore_rl.inference.transport import Transport
from pacore_rl.retry_after import backoff_seconds, retry_after_seconds

MAX_ERROR_BYTES = 65_536
REST_SECONDS = 5.0
"""An endpoint that is down is avoided for as long, where there are others: one that cannot be reached, and one whose
last ``MAX_FAULTS`` attempts broke. As they fail fast it has the fewest open calls, and would draw all the others."""
MAX_FAULTS = 3
_OVERFLOW_WORDS = ("context length", "context_length", "context window")

OnDelta = Callable[[Delta], Awaitable[None]]


class _AttemptFailed(Exception):
    def __init__(self, failure: Failure, *, after_seconds: float = 0.0) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.after_seconds = after_seconds


@dataclass(slots=True, kw_only=True)
class CallState:
    """A call as it goes, for whoever made it: watch it, or leave it and keep what has arrived."""

    limits: TokenLimits = NO_LIMITS
    """What the server's counts are held against."""
    stream: ChatStream = field(init=False)
    """Of the attempt under way."""
    wasted_tokens: int = 0
    """Pieces of attempts that broke."""
    num_attempts: int = 0
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has had a slot: what comes before is our own queue, and says nothing of the server."""
    prefilled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the server has read the prompt, or an attempt has failed."""

    def __post_init__(self) -> None:
        self.stream = ChatStream(self.limits)

    def partial(self) -> Completion:
        """An ``unfinished`` completion of what has arrived."""
        completion = self.stream.partial()
        usage = replace(completion.usage, wasted_tokens=self.wasted_tokens)
        return replace(completion, usage=usage, num_attempts=self.num_attempts)


class Replica:
    """One endpoint, its connections and its slots."""

    def __init__(self, endpoint: Endpoint, settings: ClientSettings) -> None:
        self.endpoint = endpoint
        self.transport = Transport(endpoint, settings)
        self.slots = Slots(settings.max_open_calls)
        self.num_calls = 0
        """Calls that were routed here and have not ended; those that wait or have not begun are among them."""
        self.down_until = float("-inf")
        self.num_faults = 0
        """Attempts that have broken since the last one that ended well."""


class Route:
    """The load of a round on its endpoint."""

    def __init__(self, replica: Replica, num_calls: int) -> None:
        self.replica = replica
        self.num_left = num_calls
        replica.num_calls += num_calls

    def end(self, num_calls: int = 1) -> None:
        """So many of its calls have ended."""
        self.num_left -= num_calls
        self.replica.num_calls -= num_calls


@dataclass(slots=True, kw_only=True)
class ClientCounters:
    """What a client has done so far."""

    num_calls: int = 0
    num_retries: int = 0
    num_pieces: int = 0
    """Streamed pieces, about one a token."""
    failures: dict[str, int] = field(default_factory=dict)
    """Failed attempts by kind."""


class Client:
    """Use as an async context manager, within one event loop."""

    def __init__(self, endpoints: Sequence[Endpoint], settings: ClientSettings | None = None) -> None:
        if not endpoints:
            raise ValueError("no endpoint was given; name at least one, such as http://127.0.0.1:8000/v1.")
        self.settings = settings or ClientSettings()
        self.replicas = tuple(Replica(endpoint, self.settings) for endpoint in dict.fromkeys(endpoints))
        self.counters = ClientCounters()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None):
        for replica in self.replicas:
            await replica.transport.close()

    @contextmanager
    def routed(self, num_calls: int) -> Iterator[Route]:
        """The endpoint for a round of so many calls, which count as its load from now on."""
        route = Route(self.route(), num_calls)
        try:
            yield route
        finally:
            route.end(route.num_left)

    def route(self) -> Replica:
        """Of the endpoints that are up the one with the fewest calls."""
        now = asyncio.get_running_loop().time()
        up = [replica for replica in self.replicas if replica.down_until <= now] or self.replicas
        return min(up, key=lambda replica: replica.num_calls)

    async def complete(
        self,
        body: bytes,
        *,
        replica: Replica,
        priority: int = 0,
        state: CallState | None = None,
        on_delta: OnDelta | None = None,
    ) -> Completion:
        """The completion of one streamed request (see :func:`request_body`), after retries; a failure is typed.

        ``on_delta`` is given every piece, and the stream waits for it; once it has been given one, a call that breaks
        is not made again, since what was handed on cannot be taken back.
        """
        state = state or CallState()
        self.counters.num_calls += 1
        try:
            while True:
                try:
                    async with replica.slots.slot(priority):
                        state.num_attempts += 1
                        state.sent.set()
                        completion = await self._attempt(replica, body, state, on_delta)
                    replica.slots.grow()
                    replica.num_faults = 0
                    usage = replace(completion.usage, wasted_tokens=state.wasted_tokens)
                    return replace(completion, usage=usage, num_attempts=state.num_attempts)
                except _AttemptFailed as error:
                    failure = replace(error.failure, message=replica.endpoint.told(error.failure.message))
                    pieces = state.stream.num_pieces
                    self._note(replica, failure)
                    if not self._may_retry(failure, state, delivered=on_delta is not None and pieces > 0):
                        return _failed(failure, state)
                    self.counters.num_retries += 1
                    state.wasted_tokens += pieces
                    state.stream = ChatStream(state.limits)
                    state.prefilled.set()
                    await asyncio.sleep(self._wait_seconds(state.num_attempts, error.after_seconds))
                    replica = self._move(replica)
        finally:
            state.sent.set()
            state.prefilled.set()

    def _may_retry(self, failure: Failure, state: CallState, *, delivered: bool) -> bool:
        self.counters.failures[failure.kind] = self.counters.failures.get(failure.kind, 0) + 1
        return failure.kind in RETRYABLE and state.num_attempts <= self.settings.max_retries and not delivered

    def _note(self, replica: Replica, failure: Failure) -> None:
        if failure.kind not in RETRYABLE:  # of the request, not of the endpoint
            return
        if failure.kind == "busy":
            replica.slots.ease()
            return
        replica.num_faults += 1
        if failure.kind == "unreachable" or replica.num_faults >= MAX_FAULTS:
            replica.down_until = asyncio.get_running_loop().time() + REST_SECONDS

    def _move(self, replica: Replica) -> Replica:
        """Where the next attempt goes: to another endpoint where this one is down."""
        return replica if replica.down_until <= asyncio.get_running_loop().time() else self.route()

    def _wait_seconds(self, num_attempts: int, after_seconds: float) -> float:
        first, limit = self.settings.backoff_seconds, self.settings.max_backoff_seconds
        return backoff_seconds(num_attempts, after_seconds, first=first, limit=limit)

    async def _attempt(self, replica: Replica, body: bytes, state: CallState, on_delta: OnDelta | None) -> Completion:
        url = f"{replica.endpoint.base_url}/chat/completions"
        loop, settings = asyncio.get_running_loop(), self.settings
        try:
            async with (
                asyncio.timeout(settings.connect_seconds + settings.first_token_seconds) as limit,
                replica.transport.post(url, body) as response,
            ):
                if response.status_code != 200:
                    raise await _refusal(response)
                whole = "event-stream" not in response.headers.get("content-type", "")
                unstreamed: list[bytes] = []
                async for data in response.aiter_raw() if not whole else response.aiter_bytes():
                    state.prefilled.set()
                    if whole:
                        unstreamed.append(data)
                    else:
                        limit.reschedule(None)  # whoever takes the pieces may take their time
                        await self._hand_on(state.stream.feed(data), on_delta)
                    limit.reschedule(loop.time() + settings.idle_seconds)
                if whole:
                    limit.reschedule(None)
                    await self._hand_on(state.stream.feed_whole(b"".join(unstreamed)), on_delta)
        except TimeoutError as error:
            raise _AttemptFailed(_timeout(state, settings)) from error
        except StreamError as error:
            raise _AttemptFailed(Failure(kind=error.kind, message=error.message)) from error
        except httpx.HTTPError as error:
            raise _AttemptFailed(_broken(error, state, url)) from error
        try:
            return state.stream.end()
        except StreamError as error:
            raise _AttemptFailed(Failure(kind=error.kind, message=error.message)) from error

    async def _hand_on(self, deltas: Sequence[Delta], on_delta: OnDelta | None) -> None:
        self.counters.num_pieces += len(deltas)
        if on_delta is not None:
            for delta in deltas:
                await on_delta(delta)


def request_body(model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> bytes:
    """The body of a streamed request without its seed, as JSON: what the samples of a round have in common."""
    body = {
        **options,
        "model": model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def with_seed(body: bytes, seed: int) -> bytes:
    """The body of one sample."""
    return b'%s,"seed":%d}' % (body[:-1], seed)


def _failed(failure: Failure, state: CallState) -> Completion:
    usage = Usage(wasted_tokens=state.wasted_tokens + state.stream.num_pieces)
    return Completion(
        content="",
        reasoning="",
        finish="overflow" if failure.kind == "overflow" else "failed",
        finish_reason=None,
        usage=usage,
        num_attempts=state.num_attempts,
        failure=failure,
    )


def _timeout(state: CallState, settings: ClientSettings) -> Failure:
    if state.stream.num_pieces:
        return Failure(kind="timeout", message=f"nothing came for {settings.idle_seconds:g} s within an answer")
    return Failure(kind="timeout", message=f"no answer began within {settings.first_token_seconds:g} s")


def _broken(error: httpx.HTTPError, state: CallState, url: str) -> Failure:
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
        return Failure(kind="unreachable", message=f"{url} cannot be reached ({reason})")
    kind: FailureKind = "cut" if isinstance(error, httpx.TransportError) else "unreadable"
    return Failure(kind=kind, message=f"the connection broke after {state.stream.num_pieces} pieces ({reason})")


async def _refusal(response: httpx.Response) -> _AttemptFailed:
    """The failure that a status other than 200 is."""
    status = response.status_code
    data = b""
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) >= MAX_ERROR_BYTES:
            break
    message = error_message(data)
    kind: FailureKind = "refused"
    if status in (401, 403):
        kind = "unauthorized"
    elif status in (429, 503):
        kind = "busy"
    elif status >= 500 or status == 408:
        kind = "server_error"
    elif status in (400, 413, 422) and any(word in message.lower() for word in _OVERFLOW_WORDS):
        kind = "overflow"
    return _AttemptFailed(
        Failure(kind=kind, message=f"the server answered {status}: {message}", status=status),
        after_seconds=retry_after_seconds(response.headers.get("retry-after")),
    )


def error_message(data: bytes) -> str:
    """The message of an error response: what the API's error object says, or the beginning of the text."""
    text = data[:MAX_ERROR_BYTES].decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text[:500]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)[:500]
