"""The server in a test's event loop, over a scripted endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from openai import AsyncOpenAI
from scripted_server import QUICK, Script, ScriptedServer

from pacore_rl.inference.answering import Model
from pacore_rl.inference.server.app import Server, ServerOptions, make_app
from pacore_rl.inference.server.chat import ServedModel
from pacore_rl.inference.server.limits import Limits
from pacore_rl.inference.server.run import HttpServer
from pacore_rl.inference.settings import Endpoint
from pacore_rl.synthesis.plan import Stragglers

ASK: list[Any] = [{"role": "user", "content": "2 + 2?"}]


@dataclass
class Served:
    """A server that runs."""

    url: str
    openai: AsyncOpenAI
    server: Server
    uvicorn: uvicorn.Server


@asynccontextmanager
async def serving(
    endpoint: ScriptedServer,
    *,
    keys: tuple[str, ...] = (),
    endpoint_key: str | None = None,
    keep_alive_seconds: float = 10.0,
    stragglers: Stragglers | None = None,
    grace_seconds: int = 5,
    **limits: Any,
) -> AsyncIterator[Served]:
    options = ServerOptions(
        endpoints=(Endpoint.of(endpoint.url, api_key=endpoint_key),),
        client=QUICK,
        served=ServedModel(
            model=Model(name="tiny", window_tokens=4096, reserve_tokens=1024, options={"temperature": 1.0}),
            compaction="after_reasoning",
            end_of_reasoning="</think>",
            stragglers=stragglers,
        ),
        keys=keys,
        limits=Limits(**limits),
        keep_alive_seconds=keep_alive_seconds,
    )
    app = make_app(options)
    running = HttpServer(app, host="127.0.0.1", port=0, grace_seconds=grace_seconds)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.005)
    port = running.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=keys[0] if keys else "none", max_retries=0) as client:
            yield Served(url=url, openai=client, server=app.state.server, uvicorn=running)
    finally:
        running.should_exit = True
        await task


def scripted(request: Mapping[str, Any], number: int) -> Script:
    return Script(content=f"<think>so</think> {number}", usage={"prompt_tokens": 30, "completion_tokens": 20})


def create(api: Served, **more: Any) -> Any:
    return api.openai.chat.completions.create(**{"model": "pacore-low", "messages": ASK, **more})
