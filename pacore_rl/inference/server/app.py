"""The application: an OpenAI-compatible API whose models are levels of PaCoRe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from pacore_rl import __version__
from pacore_rl.inference.answering import Answered, Answerer, Observer
from pacore_rl.inference.client import Client
from pacore_rl.inference.server.body import Envelope, completion_object
from pacore_rl.inference.server.chat import MODEL_IDS, Chat, ServedModel, configuration_of, prepare
from pacore_rl.inference.server.errors import (
    ApiError,
    json_response,
    on_api_error,
    on_http_error,
    on_invalid_request,
)
from pacore_rl.inference.server.events import event_stream
from pacore_rl.inference.server.limits import BodyLimit, Gate, Keys, Limits
from pacore_rl.inference.server.metrics import ServerMetrics
from pacore_rl.inference.server.schemas import ChatRequest
from pacore_rl.inference.settings import ClientSettings, Endpoint

READY_SECONDS = 5.0
"""How long an answer to whether the endpoints are there is taken for true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a server is made of."""

    endpoints: tuple[Endpoint, ...]
    client: ClientSettings
    served: ServedModel
    keys: tuple[str, ...] = ()
    limits: Limits
    keep_alive_seconds: float = 10.0
    """A stream is never silent for longer."""


class Server:
    """What the requests of one application share; lives in its event loop."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.keys = Keys(options.keys)
        self.gate = Gate(options.limits)
        self.client = Client(options.endpoints, options.client)
        self.answerer = Answerer(self.client, options.served.model)
        self.metrics = ServerMetrics(self.client)
        self.stopped = asyncio.Event()
        """Set: what is under way is cut off."""
        self._ready = (float("-inf"), False)

    async def answer(self, chat: Chat, observer: Observer) -> Answered:
        """The answer to a request. Raises ApiError where the server is stopped before it."""
        work = asyncio.ensure_future(chat.answer(observer))
        stopped = asyncio.ensure_future(self.stopped.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise ApiError(503, "the server is being stopped; ask again once it is back.", code="server_stopped")
        finally:
            await _cancel(work, stopped)

    async def is_ready(self) -> bool:
        """Whether an endpoint answers."""
        now = time.monotonic()
        if now - self._ready[0] > READY_SECONDS:
            found = await asyncio.gather(*(self._answers(i) for i in range(len(self.client.replicas))))
            self._ready = (now, any(found))
        return self._ready[1]

    async def _answers(self, index: int) -> bool:
        replica = self.client.replicas[index]
        try:
            response = await replica.transport.call("GET", f"{replica.endpoint.base_url}/models")
        except httpx.HTTPError:
            return False
        return response.status_code == 200


def make_app(options: ServerOptions) -> FastAPI:
    """The application of one server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = Server(options)
        app.state.server = server
        async with server.client:
            yield

    app = FastAPI(
        title="PaCoRe",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            RequestValidationError: on_invalid_request,
        },
    )
    app.add_middleware(BodyLimit, max_bytes=options.limits.max_body_bytes)
    _add_routes(app)
    return app


def _server(request: Request) -> Server:
    return request.app.state.server


def _caller(server: Annotated[Server, Depends(_server)], authorization: Annotated[str | None, Header()] = None) -> str:
    """Who asks; ApiError 401 for a key that is not known."""
    return server.keys.check(authorization)


def _add_routes(app: FastAPI) -> None:
    app.get("/health")(_health)
    app.get("/ready")(_ready)
    app.get("/metrics")(_metrics)
    app.get("/v1/models")(_models)
    app.get("/v1/models/{model:path}")(_model)
    app.post("/v1/chat/completions")(_chat_completions)


async def _health() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


async def _ready(server: Annotated[Server, Depends(_server)]) -> Response:
    """An endpoint answers too."""
    if await server.is_ready():
        return json_response({"status": "ready"})
    return json_response({"status": "no endpoint answers"}, 503)


async def _metrics(server: Annotated[Server, Depends(_server)], caller: Annotated[str, Depends(_caller)]) -> Response:
    """In Prometheus' text format."""
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")


async def _models(caller: Annotated[str, Depends(_caller)]) -> Response:
    """The levels. ``pacore:32,4`` and its like are served too."""
    return json_response({"object": "list", "data": [_model_object(id) for id in MODEL_IDS]})


async def _model(model: str, caller: Annotated[str, Depends(_caller)]) -> Response:
    """One level."""
    configuration_of(model)
    return json_response(_model_object(model))


async def _chat_completions(
    body: ChatRequest,
    request: Request,
    server: Annotated[Server, Depends(_server)],
    caller: Annotated[str, Depends(_caller)],
) -> Response:
    """Answer a conversation through rounds of parallel calls."""
    chat = prepare(body, server.options.served, server.options.limits, server.answerer)
    envelope = Envelope(body.model)
    if body.stream:
        # The place is taken here, where a refusal can still be a status, and given back by the stream's end.
        watch = _Watch(server, caller)
        watch.begin()
        return EventResponse(_events(watch, chat, body, envelope), watch)
    watch = _Watch(server, caller)
    watch.begin()
    try:
        answered = await _unless_left(request, server.answer(chat, Observer()))
        if answered is None:
            return Response(status_code=499)  # nobody reads it
        content = completion_object(envelope, answered, include_messages=body.pacore.include_messages)
        server.metrics.answered(answered)
        watch.outcome = "ok"
        return json_response(content)
    except ApiError as error:
        watch.outcome = str(error.status)
        raise
    finally:
        watch.end()


class EventResponse(StreamingResponse):
    """A stream whose place is given back and whose calls are stopped however it ends, begun or not."""

    def __init__(self, events: AsyncGenerator[bytes], watch: _Watch) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._watch.end()


class _Watch:
    """A request's place and its line in the metrics."""

    def __init__(self, server: Server, caller: str) -> None:
        self.server = server
        self._admission = server.gate.admit(caller)
        self._started = time.monotonic()
        self.outcome = "cancelled"

    def begin(self) -> None:
        try:
            self._admission.__enter__()
        except ApiError as error:
            self.server.metrics.ended(str(error.status), 0.0)
            raise
        self.server.metrics.in_flight.inc()

    def end(self) -> None:
        self._admission.__exit__(None, None, None)
        self.server.metrics.in_flight.dec()
        self.server.metrics.ended(self.outcome, time.monotonic() - self._started)


async def _events(watch: _Watch, chat: Chat, body: ChatRequest, envelope: Envelope) -> AsyncGenerator[bytes]:
    server = watch.server

    async def answer(observer: Observer) -> Answered:
        answered = await server.answer(chat, observer)
        server.metrics.answered(answered)
        watch.outcome = "failed" if all(completion.failure for completion in answered.completions[-1]) else "ok"
        return answered

    events = event_stream(
        answer,
        envelope,
        end_of_reasoning=chat.plan.end_of_reasoning,
        is_split=chat.is_split,
        num_choices=chat.plan.num_answers,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        include_messages=body.pacore.include_messages,
        keep_alive_seconds=server.options.keep_alive_seconds,
    )
    async with aclosing(events):
        async for event in events:
            yield event


async def _unless_left(request: Request, answer: Any) -> Answered | None:
    """The answer; None, its calls stopped, where the client has gone."""
    work = asyncio.ensure_future(answer)
    left = asyncio.ensure_future(_until_left(request))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        await _cancel(work, left)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _model_object(id: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": 0, "owned_by": "pacore-rl"}
