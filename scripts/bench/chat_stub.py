"""A chat endpoint that answers at once, for benchmarks of what calls it. Start with :func:`stub`, in its own process.

A prompt with the word HOLD gets the beginning of an answer and then nothing until ``POST /release``; one with DRIP gets
a piece every 50 ms for as long as the caller stays. ``GET /state`` counts what is open and what was left.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

_MODELS = json.dumps({"object": "list", "data": [{"id": "stub", "object": "model", "max_model_len": 131072}]})
_USAGE = {"prompt_tokens": 30, "completion_tokens": 3}
_WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"content": "</think>4"}, "finish_reason": "stop"}], "usage": _USAGE}
)
DRIP_SECONDS = 0.05


def _event(choices: list[object], usage: object = None) -> bytes:
    data = f"data: {json.dumps({'choices': choices, 'usage': usage})}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def _delta(text: str) -> bytes:
    return _event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_TAIL = (
    _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _event([], _USAGE)
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)
_STREAM = _HEAD + _delta("</think>") + _delta("4") + _TAIL
_BEGUN = _HEAD + _delta("</think>")


class _State:
    def __init__(self) -> None:
        self.num_requests = 0
        self.num_connections = 0
        self.held: set[_Connection] = set()
        self.num_left = 0


class _Connection(asyncio.Protocol):
    def __init__(self, state: _State) -> None:
        self._state = state
        self._data = b""
        self._drip: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._state.num_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.num_connections -= 1
        if self._drip is not None:
            self._drip.cancel()
        if self in self._state.held:
            self._state.held.discard(self)
            self._state.num_left += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                if line[:15].lower() == b"content-length:":
                    length = int(line[15:])
            if len(rest) < length:
                return
            self._data = rest[length:]
            self._answer(head, rest[:length])

    def release(self) -> None:
        if self._drip is not None:
            self._drip.cancel()
        self._transport.write(_delta("4") + _TAIL)

    def _answer(self, head: bytes, body: bytes) -> None:
        state = self._state
        if b"/chat/completions" in head[:64]:
            state.num_requests += 1
            if b"HOLD" in body or b"DRIP" in body:
                state.held.add(self)
                self._transport.write(_BEGUN)
                if b"DRIP" in body:
                    self._next_drip()
            elif b'"stream":true' in body:
                self._transport.write(_STREAM)
            else:
                self._json(_WHOLE)
        elif b"/state" in head[:64]:
            counts = {"open": len(state.held), "left": state.num_left, "requests": state.num_requests}
            self._json(json.dumps({**counts, "connections": state.num_connections}))
        elif b"/release" in head[:64]:
            for connection in tuple(state.held):
                state.held.discard(connection)
                connection.release()
            self._json("{}")
        else:
            self._json(_MODELS)

    def _next_drip(self) -> None:
        if self in self._state.held:
            self._transport.write(_delta("word "))
            self._drip = asyncio.get_running_loop().call_later(DRIP_SECONDS, self._next_drip)

    def _json(self, text: str) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(text), text.encode())
        )


def raise_file_limit() -> None:
    """As many open files as the system lets this process have: a socket is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(pipe: Connection) -> None:
    async def serve() -> None:
        state = _State()
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(state), "127.0.0.1", 0, backlog=8192
        )
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    raise_file_limit()
    asyncio.run(serve())


@contextmanager
def stub() -> Iterator[str]:
    """The address of a stub that runs in a process of its own, ``http://127.0.0.1:PORT/v1``."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join(10)
