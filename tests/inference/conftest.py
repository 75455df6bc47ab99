from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted_server import QUICK, ScriptedServer
from served import Served, scripted, serving

from pacore_rl.inference.client import Client
from pacore_rl.inference.settings import Endpoint


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    async with Client([Endpoint.of(server.url)], QUICK) as made:
        yield made


@pytest.fixture
async def api(server: ScriptedServer) -> AsyncIterator[Served]:
    server.answer = scripted
    async with serving(server) as running:
        yield running
