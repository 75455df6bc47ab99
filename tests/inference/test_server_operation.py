"""The server in operation: limits, keys, health, metrics, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from scripted_server import Script, ScriptedServer, until
from served import Served, create, scripted, serving


async def test_a_body_above_the_limit_is_refused(server: ScriptedServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1_000

    async with serving(server, max_body_bytes=5_000) as api, httpx.AsyncClient() as http:
        for content in (b" " * 10_000, pieces()):
            response = await http.post(
                f"{api.url}/v1/chat/completions", content=content, headers={"content-type": "application/json"}
            )
            assert response.status_code == 413 and "exceeds 5,000 bytes" in response.json()["error"]["message"]


async def test_keys_are_asked_for_where_there_are_some(server: ScriptedServer) -> None:
    server.answer = scripted
    async with serving(server, keys=("one", "two")) as api, httpx.AsyncClient() as http:
        assert (await create(api)).choices[0].message.content == "4"
        for path in ("v1/models", "metrics"):
            assert (await http.get(f"{api.url}/{path}")).status_code == 401
            assert (await http.get(f"{api.url}/{path}", headers={"authorization": "Bearer no"})).status_code == 401
            assert (await http.get(f"{api.url}/{path}", headers={"authorization": "Bearer two"})).status_code == 200
        assert (await http.get(f"{api.url}/health")).status_code == 200
    assert server.headers[0].get("authorization") is None  # a caller's key stays here


async def test_requests_above_the_limits_are_told_to_come_again(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=0.3)
    async with serving(server, max_requests=1) as api:
        first = asyncio.create_task(create(api))
        await until(lambda: api.server.gate.num_in_flight == 1)
        with pytest.raises(openai.RateLimitError) as raised:
            await create(api, stream=True)
        assert raised.value.response.headers["retry-after"] == "1"
        assert (await first).choices
    server.answer = scripted
    async with serving(server, requests_per_minute=2) as api:
        await create(api)
        await create(api)
        with pytest.raises(openai.RateLimitError, match="2 requests a minute"):
            await create(api)


async def test_health_readiness_and_metrics(server: ScriptedServer, api: Served) -> None:
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{api.url}/health")).json() == {"status": "ok"}
        assert (await http.get(f"{api.url}/ready")).status_code == 200
        await create(api)
        text = (await http.get(f"{api.url}/metrics")).text
    for line in (
        'pacore_requests_total{outcome="ok"} 1.0',
        'pacore_generated_tokens_total{round="0"} 80.0',
        "pacore_upstream_calls 5.0",
        "pacore_requests_in_flight 0.0",
    ):
        assert line in text


async def test_without_its_endpoint_it_is_alive_and_not_ready() -> None:
    async with ScriptedServer() as gone:
        pass
    async with serving(gone) as api, httpx.AsyncClient() as http:
        assert (await http.get(f"{api.url}/health")).status_code == 200
        assert (await http.get(f"{api.url}/ready")).status_code == 503
        with pytest.raises(openai.APIStatusError) as raised:
            await create(api)
        assert raised.value.status_code == 502 and raised.value.code == "endpoint_unreachable"


async def test_what_is_under_way_ends_when_the_server_is_stopped(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(piece_seconds=0.03)
    async with serving(server) as api:
        stream = await create(api, stream=True)
        api.uvicorn.should_exit = True
        content = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert content == "42"


async def test_what_outlasts_the_grace_is_told_and_its_calls_are_stopped(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(content="</think>" + "42" * 100, piece_seconds=0.1)
    async with serving(server, grace_seconds=1) as api:
        stream = await create(api, stream=True)
        whole = asyncio.create_task(create(api, model="pacore:1"))
        await until(lambda: len(server.requests) == 5)
        started = asyncio.get_running_loop().time()
        api.uvicorn.should_exit = True
        with pytest.raises(openai.APIError, match="is being stopped; ask again"):
            _ = [chunk async for chunk in stream]
        with pytest.raises(openai.InternalServerError) as raised:
            await whole
        assert raised.value.status_code == 503 and raised.value.code == "server_stopped"
        assert 1 <= asyncio.get_running_loop().time() - started < 5
    await until(lambda: server.num_left == 5)
