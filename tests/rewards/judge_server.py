"""A scripted OpenAI-compatible endpoint on a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | None | int | float
"""A reply's text (or null), a status to fail with (it sends the key back), or (a float) seconds to stay silent for."""
Script = Callable[[int, dict[str, Any]], Answer]
"""The answer to the n-th request, counted from 0, with its body."""


@dataclass(slots=True)
class JudgeServer:
    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return [body["seed"] for body in self.bodies]

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


@contextmanager
def serving(script: Script) -> Iterator[JudgeServer]:
    lock = threading.Lock()
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server_record.bodies)
                server_record.bodies.append(body)
                server_record.keys.append(self.headers.get("authorization"))
            answer = script(number, body)
            if isinstance(answer, float):
                closing.wait(answer)
                return
            refusal = {"error": {"message": f"you sent {self.headers.get('authorization')}"}}
            status, content = (answer, refusal) if isinstance(answer, int) else (200, _completion(answer))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server_record = JudgeServer(url=f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server_record
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def _completion(text: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "created": int(time.time())}
