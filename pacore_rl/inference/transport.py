"""Connections to one endpoint: pooled, kept alive, TLS verified, without a limit on how long an answer may take.

A pool of httpx looks at each of its connections whenever a request begins or ends. Thousands of open calls are
therefore spread over pools of ``POOL_CONNECTIONS``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from pacore_rl.inference.settings import ClientSettings, Endpoint

POOL_CONNECTIONS = 64
KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 seconds after which uvicorn closes an idle connection, so that no request meets one that closes."""
SHORT_CALL_SECONDS = 30.0
"""Of calls that generate nothing."""


class Transport:
    """Sends requests to one endpoint. Close it."""

    def __init__(self, endpoint: Endpoint, settings: ClientSettings) -> None:
        self.endpoint = endpoint
        headers = {"Content-Type": "application/json", "User-Agent": "pacore-rl"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        context = httpx.create_ssl_context()  # one for all pools: it reads every certificate authority
        timeout = httpx.Timeout(None, connect=settings.connect_seconds, write=settings.idle_seconds)
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=POOL_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self._pools = [
            httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, verify=context)
            for _ in range(-(-settings.max_open_calls // POOL_CONNECTIONS))
        ]
        self._num_open = [0] * len(self._pools)

    @asynccontextmanager
    async def post(self, url: str, body: bytes) -> AsyncIterator[httpx.Response]:
        """The response to a POST, its body not read yet. Leaving early closes the connection: the server sees it."""
        pool = self._num_open.index(min(self._num_open))
        self._num_open[pool] += 1
        try:
            client = self._pools[pool]
            response = await client.send(client.build_request("POST", url, content=body), stream=True)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._num_open[pool] -= 1

    async def call(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """The whole response of a short call. Raises httpx.TransportError."""
        return await self._pools[0].request(method, url, json=body, timeout=SHORT_CALL_SECONDS)

    async def close(self) -> None:
        for pool in self._pools:
            await pool.aclose()
