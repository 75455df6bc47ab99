"""The server under load: 200 streams for a minute, callers that leave, and 10,000 requests that are none.

    python scripts/bench/server.py [--streams 200] [--seconds 60] [--malformed 10000]

``pacore-rl serve`` runs as users start it, in a process of its own, over a STUB endpoint that answers at once
(scripts/bench/chat_stub.py). Shown:

- so many callers stream ``pacore:4`` over and over; private memory, open sockets and tasks before (after a warm-up of
  the same load) and after must agree;
- callers that leave mid-stream: the seconds until the stub has lost all their calls, at most 1;
- malformed requests (bodies mutated from a good one, wrong types, broken JSON, odd paths): no answer is a 5xx;
- the addresses it listens at: loopback only; and a body above the limit is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from chat_stub import raise_file_limit, stub

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_LEAVE_SECONDS = 1.0
MAX_GROWTH_MIB = 16.0
SETTLE_SECONDS = 8.0
"""Idle connections are closed after 5."""
MAX_BODY_BYTES = 65_536
GOOD: dict[str, Any] = {
    "model": "pacore:4",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "2 + 2?"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 100,
    "stop": ["END"],
    "seed": 1,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "pacore": {"max_total_tokens": 1000, "max_seconds": 10, "compaction": "none"},
}
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    "",
    "x" * 300,
    "\ud800",
    "\x00",
    [],
    {},
    [None],
    {"a": {"b": [1]}},
    [[[[[[[[]]]]]]]],
    float("nan"),
    float("inf"),
]
PATHS = ["/v1/chat/completions"] * 12 + ["/v1/models/%00", "/v1/models/pacore:0", "/v1/chat/completions/", "/../x"]
METHODS = ["POST"] * 14 + ["GET", "PUT", "DELETE"]


@contextmanager
def served(endpoint: str) -> Iterator[tuple[str, psutil.Process]]:
    """The server's address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pacore_rl", "serve", "--endpoint", endpoint, "--port", str(port)]
    command += ["--max-body-bytes", str(MAX_BODY_BYTES), "--max-open-calls", "2048"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=REPOSITORY)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _is_up(url):
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


async def load(url: str, num_streams: int, seconds: float) -> int:
    """Streams that ended well while so many callers asked over and over."""
    until, body = time.monotonic() + seconds, {**GOOD, "tools": None, "pacore": {}}

    async def caller() -> int:
        num = 0
        async with httpx.AsyncClient(timeout=120) as http:
            while time.monotonic() < until:
                async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                    lines = [line async for line in response.aiter_lines() if line]
                assert response.status_code == 200 and lines[-1] == "data: [DONE]", lines[-3:]
                num += 1
        return num

    return sum(await asyncio.gather(*(caller() for _ in range(num_streams))))


async def state(url: str, process: psutil.Process) -> dict[str, float]:
    """What the server holds, once idle connections are closed."""
    await asyncio.sleep(SETTLE_SECONDS)
    async with httpx.AsyncClient() as http:
        metrics = (await http.get(f"{url}/metrics")).text
    gauges = dict(line.split(" ") for line in metrics.splitlines() if line and line[0] != "#" and "{" not in line)
    return {
        "private_mib": round(process.memory_full_info().uss / 1024**2, 1),
        "sockets": len(process.net_connections()),
        "descriptors": process.num_fds(),
        "tasks": float(gauges["pacore_tasks"]),
        "in_flight": float(gauges["pacore_requests_in_flight"]),
    }


async def leave(url: str, endpoint: str, num: int) -> tuple[int, float]:
    """Calls that were open at the stub, and the seconds until all were gone after their callers had left."""
    body = {**GOOD, "messages": [{"role": "user", "content": "DRIP"}], "tools": None, "pacore": {}, "model": "pacore:8"}
    async with httpx.AsyncClient(timeout=60) as watch:

        async def num_open() -> int:
            return (await watch.get(f"{endpoint.removesuffix('/v1')}/state")).json()["open"]

        limits = httpx.Limits(max_connections=num)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            callers = [asyncio.create_task(http.post(f"{url}/v1/chat/completions", json=body)) for _ in range(num)]
            async with asyncio.timeout(60):
                while (most := await num_open()) < 8 * num:
                    await asyncio.sleep(0.05)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            left = time.monotonic()
        while await num_open():
            await asyncio.sleep(0.01)
        return most, time.monotonic() - left


def malformed(rng: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A method, a path, a body and headers; at least one of them wrong."""
    body = json.loads(json.dumps(GOOD))
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([*GOOD, "messages", "logit_bias", "response_format"])
        body[key] = rng.choice(ODD)
        if key == "messages" and rng.random() < 0.7:
            body[key] = [{"role": rng.choice([*ODD, "user", "tool"]), "content": rng.choice(ODD)}]
    data = json.dumps(body).encode()
    broken = rng.random()
    if broken < 0.15:
        data = data[: rng.randrange(len(data))]
    elif broken < 0.25:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    elif broken < 0.28:
        data = b"[" * rng.randint(1, 20_000)
    elif broken < 0.3:
        data = b" " * (MAX_BODY_BYTES + 1)
    kind = rng.choice(["application/json"] * 8 + ["text/plain", "multipart/form-data", ""])
    headers = {"content-type": kind, "authorization": rng.choice(["", "Bearer", "Bearer x", "Basic eDp5"])}
    return rng.choice(METHODS), rng.choice(PATHS), data, headers


async def fuzz(url: str, num: int, concurrent: int = 32) -> collections.Counter[int]:
    """Answers by status; 0 is a connection that broke."""
    statuses: collections.Counter[int] = collections.Counter()
    requests = iter([malformed(random.Random(i)) for i in range(num)])

    async def caller() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            for method, path, data, headers in requests:
                try:
                    response = await http.request(method, url + path, content=data, headers=headers)
                    statuses[response.status_code] += 1
                    if response.status_code >= 500:
                        print(response.status_code, method, path, data[:300], response.text[:300])
                except httpx.TransportError as error:
                    print(type(error).__name__, method, path, data[:100])
                    statuses[0] += 1

    await asyncio.gather(*(caller() for _ in range(concurrent)))
    return statuses


async def measure(url: str, endpoint: str, process: psutil.Process, arguments: argparse.Namespace) -> dict[str, Any]:
    listens = sorted({c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN})
    await load(url, arguments.streams, min(10.0, arguments.seconds))
    before = await state(url, process)
    num_streams = await load(url, arguments.streams, arguments.seconds)
    after = await state(url, process)
    print(f"{num_streams:,} streams of {arguments.streams} callers in {arguments.seconds:g} s", flush=True)
    print(f"before {before}\nafter  {after}", flush=True)
    num_left, leave_seconds = await leave(url, endpoint, 50)
    print(f"{num_left} calls gone {leave_seconds:.3f} s after their callers", flush=True)
    statuses = await fuzz(url, arguments.malformed)
    print(f"malformed: {dict(sorted(statuses.items()))}", flush=True)
    refused = httpx.post(f"{url}/v1/chat/completions", content=b" " * (MAX_BODY_BYTES + 1)).status_code
    last = await state(url, process)
    print(f"last   {last}", flush=True)
    return {
        "streams": num_streams,
        "before": before,
        "after": after,
        "last": last,
        "cancelled_calls": num_left,
        "cancelled_seconds": round(leave_seconds, 3),
        "malformed": {str(status): num for status, num in sorted(statuses.items())},
        "num_5xx": sum(num for status, num in statuses.items() if status >= 500 or status == 0),
        "listens_at": listens,
        "large_body": refused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--malformed", type=int, default=10_000)
    arguments = parser.parse_args()
    raise_file_limit()
    with stub() as endpoint, served(endpoint) as (url, process):
        found = asyncio.run(measure(url, endpoint, process, arguments))
    before = found["before"]
    checks = {
        "no_leak": all(
            then["private_mib"] - before["private_mib"] <= MAX_GROWTH_MIB
            and all(then[name] <= before[name] for name in ("sockets", "descriptors", "tasks", "in_flight"))
            for then in (found["after"], found["last"])
        ),
        "cancelled_in_time": found["cancelled_seconds"] <= MAX_LEAVE_SECONDS,
        "no_5xx": found["num_5xx"] == 0,
        "loopback_only": found["listens_at"] == ["127.0.0.1"],
        "bounded": found["large_body"] == 413,
    }
    ratio = round(found["cancelled_seconds"] / MAX_LEAVE_SECONDS, 3)
    summary = {"bench": "server", "ratio": ratio, "target": 1.0, "met": all(checks.values()), **checks, **found}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
