"""Chat models that follow a script, without a network and on a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_curation.chat import ChatModel, ChatReply, OpenModel
from pacore_rl.types import Turn

Script = Callable[[str, int], str | ChatReply]
"""From the latest turn and the seed to the reply; a text is one that stopped by itself."""


@dataclass(slots=True, kw_only=True)
class ScriptedModel:
    script: Script
    name: str = "scripted"
    asked: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    most_at_once: int = 0
    in_flight: int = 0

    async def reply(self, conversation: Sequence[Turn], *, seed: int) -> ChatReply:
        self.asked.append((conversation[-1].content, seed))
        self.in_flight += 1
        self.most_at_once = max(self.most_at_once, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        reply = self.script(conversation[-1].content, seed)
        return ChatReply(text=reply, num_tokens=len(reply.split())) if isinstance(reply, str) else reply

    @property
    def opened(self) -> OpenModel:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[ChatModel]:
            yield self

        return open_it


def down(reason: str = "unreachable: nobody listens") -> ChatReply:
    return ChatReply(text="", finish="failed", failure=reason)


def refused(reason: str = "overflow: the prompt is too long") -> ChatReply:
    return ChatReply(text="", finish="failed", failure=reason, is_refused=True)


Answer = str | None | int | bytes | float
"""A reply's text (or null), a status to fail with, a body as it is, or seconds to stay silent for."""


@contextmanager
def serving(script: Callable[[int, dict[str, Any]], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(address, bodies received) of an OpenAI-compatible server on loopback that answers the n-th request by script."""
    lock, closing, bodies = threading.Lock(), threading.Event(), list[dict[str, Any]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(bodies)
                bodies.append(body)
            answer = script(number, body)
            if isinstance(answer, float):
                closing.wait(answer)
                return
            status, data = (answer, b"{}") if isinstance(answer, int) else (200, answer)
            if not isinstance(data, bytes):
                choice = {"message": {"role": "assistant", "content": data}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 3, "completion_tokens": 11}
                data = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
