"""An OpenAI-compatible server that does as it is told, faults included."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from pacore_rl.inference.settings import ClientSettings

QUICK = ClientSettings(
    connect_seconds=0.5,
    first_token_seconds=1.0,
    idle_seconds=0.3,
    max_retries=2,
    backoff_seconds=0.01,
    max_backoff_seconds=0.05,
    max_open_calls=64,
)
"""Limits that a test can wait for."""
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}


@dataclass(frozen=True, kw_only=True)
class Script:
    """One answer."""

    content: str | None = "thinking</think>42"
    reasoning: str | None = None
    reasoning_field: str = "reasoning_content"
    tool_call: Mapping[str, Any] | None = None
    finish: str | None = "stop"
    usage: Any = field(default_factory=lambda: dict(USAGE))
    status: int = 200
    error: Any = "scripted error"
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """The connection breaks after so many events."""
    end_after: int | None = None
    """The stream ends properly, but after so many events."""
    raw_events: tuple[str, ...] | None = None
    """Sent as they are instead of everything above."""
    stall_after: int | None = None
    """Nothing comes any more after so many events."""
    delay_seconds: float = 0.0
    """Before the answer begins; infinite never answers."""
    piece_seconds: float = 0.0
    """Before each event."""


Answer = Callable[[dict[str, Any], int], Script]


class ScriptedServer:
    """Listens on a free port of loopback. ``answer(request, number)`` says what each chat completion gets."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer: Answer = answer or (lambda request, number: Script())
        self.models: list[dict[str, Any]] = [{"id": "tiny", "object": "model", "max_model_len": 4096}]
        self.tokens_per_byte: float | None = None
        """What /tokenize counts; None: there is no such call."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_open = 0
        """Chat completions that are being answered."""
        self.most_open = 0
        self.num_left = 0
        """Chat completions whose client went away."""
        self.num_connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=8192)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            with suppress(Exception):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if path.endswith("/chat/completions"):
            self.requests.append(json.loads(body))
            self.headers.append(headers)
            return await self._chat(reader, writer, len(self.requests) - 1)
        if path.endswith("/models"):
            self._whole(writer, 200, {"object": "list", "data": self.models})
        elif path.endswith("/tokenize") and self.tokens_per_byte is not None:
            text = "".join(str(message["content"]) for message in json.loads(body)["messages"])
            self._whole(writer, 200, {"count": int(len(text.encode()) * self.tokens_per_byte)})
        else:
            self._whole(writer, 404, {"error": {"message": f"no {method} {path}"}})
        await writer.drain()
        return True

    def _whole(self, writer: asyncio.StreamWriter, status: int, content: Any, headers: Mapping[str, str] | None = None):
        data = json.dumps(content).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)

    async def _chat(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        script = self.answer(self.requests[number], number)
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        left = asyncio.create_task(reader.read(1))  # a client that waits for its answer sends nothing
        sending = asyncio.create_task(self._send(writer, script))
        try:
            await asyncio.wait({left, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self.num_left += 1
                return False
            return sending.result()
        finally:
            self.num_open -= 1
            for task in (left, sending):
                task.cancel()
            await asyncio.gather(left, sending, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter, script: Script) -> bool:
        if script.delay_seconds:
            await asyncio.sleep(min(script.delay_seconds, 3600))
        if script.status != 200:
            error = {"error": {"message": script.error, "code": script.status}}
            self._whole(writer, script.status, error, script.headers)
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for position, event in enumerate(script.raw_events if script.raw_events is not None else events(script)):
            if script.piece_seconds:
                await asyncio.sleep(script.piece_seconds)
            if position == script.drop_after:
                writer.transport.abort()
                return False
            if position == script.end_after:
                break
            if position == script.stall_after:
                await asyncio.sleep(3600)
            data = f"data: {event}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def events(script: Script) -> list[str]:
    """The events of an answer, its texts in pieces of three letters."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{script.reasoning_field: piece} for piece in pieces(script.reasoning)]
    deltas += (
        [{"content": None}] if script.content is None else [{"content": piece} for piece in pieces(script.content)]
    )
    if script.tool_call is not None:
        deltas.append({"tool_calls": [dict(script.tool_call)]})
    found = [json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    found.append(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": script.finish}]}))
    if script.usage is not None:
        found.append(json.dumps({"choices": [], "usage": script.usage}))
    return [*found, "[DONE]"]


def pieces(text: str | None) -> list[str]:
    return [text[i : i + 3] for i in range(0, len(text), 3)] if text else []


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition; TimeoutError where it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@contextmanager
def in_thread(answer: Answer | None = None) -> Iterator[ScriptedServer]:
    """A server in a thread with an event loop of its own, for commands that have one themselves."""
    started, stop = threading.Event(), threading.Event()
    server = ScriptedServer(answer)

    async def run() -> None:
        async with server:
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        stop.set()
        thread.join(10)


def numbered(request: dict[str, Any], number: int) -> Script:
    """An answer that is its request's number."""
    return Script(content=f"<think>x</think>{number}", usage={"prompt_tokens": 30, "completion_tokens": 20})
