"""Connections to one endpoint: pooled, kept alive, TLS verified, without a limit on how long an answer may take.

Certificates are checked against the public authorities, or against those in the file that SSL_CERT_FILE names.

A pool of httpx looks at each of its connections, for each of its connections, whenever a request begins or ends: at
thousands of open calls that is most of the work. So every connection is a transport of httpx of its own here, and the
ones that are free are kept in the order of their last use.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from pacore_rl.inference.settings import ClientSettings, Endpoint

KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 seconds after which uvicorn closes an idle connection, so that no request meets one that closes."""
SHORT_CALL_SECONDS = 30.0
"""Of calls that generate nothing."""
_ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS)


class Transport:
    """Sends requests to one endpoint. Close it."""

    def __init__(self, endpoint: Endpoint, settings: ClientSettings) -> None:
        self.endpoint = endpoint
        parts = urlsplit(endpoint.base_url)
        self._headers = [
            (b"Host", parts.netloc.rpartition("@")[2].encode()),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"*/*"),
            (b"Connection", b"keep-alive"),
            (b"User-Agent", b"pacore-rl"),
        ]
        if endpoint.api_key is not None:
            self._headers.append((b"Authorization", f"Bearer {endpoint.api_key}".encode()))
        self._context = _tls_context()  # one for all: it reads every certificate authority
        host = parts.hostname or ""
        self._proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(parts.scheme)
        # Nothing limits the read: silence is bounded by whoever reads, who knows what it waits for.
        times = {"connect": settings.connect_seconds, "read": None, "write": settings.idle_seconds, "pool": None}
        self._extensions = {"timeout": times}
        self._urls: dict[str, httpx.URL] = {}
        self._free: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()
        """When each was used last, ascending."""
        self._reaper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def post(self, url: str, body: bytes) -> AsyncIterator[httpx.Response]:
        """The response to a POST, its body not read yet. Leaving early closes the connection: the server sees it."""
        async with self._response("POST", url, body) as response:
            yield response

    async def call(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """The whole response of a short call. Raises httpx.HTTPError."""
        content = None if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(SHORT_CALL_SECONDS), self._response(method, url, content) as response:
                await response.aread()
                return response
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {SHORT_CALL_SECONDS:g} s") from None

    async def close(self) -> None:
        """Close every connection that is free; those in use are closed by whoever uses them."""
        if self._reaper is not None:
            self._reaper.cancel()
        while self._free:
            await self._free.popleft()[1].aclose()
        await asyncio.gather(*self._closing)

    @asynccontextmanager
    async def _response(self, method: str, url: str, body: bytes | None) -> AsyncIterator[httpx.Response]:
        lane = self._take()
        try:
            # Parsing an address takes as long as sending it.
            target = self._urls.get(url) or self._urls.setdefault(url, httpx.URL(url))
            length = [] if body is None else [(b"Content-Length", str(len(body)).encode())]
            request = httpx.Request(
                method, target, headers=[*self._headers, *length], content=body, extensions=self._extensions
            )
            response = await lane.handle_async_request(request)
            response.request = request
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._give_back(lane)

    def _take(self) -> httpx.AsyncHTTPTransport:
        """The connection used last, which is the likeliest to be open still, or a new one."""
        if self._free:
            return self._free.pop()[1]
        return httpx.AsyncHTTPTransport(verify=self._context, limits=_ONE_CONNECTION, proxy=self._proxy)

    def _give_back(self, lane: httpx.AsyncHTTPTransport) -> None:
        self._free.append((asyncio.get_running_loop().time(), lane))
        self._plan_reaping()

    def _plan_reaping(self) -> None:
        if self._free and self._reaper is None:
            when = self._free[0][0] + KEEP_ALIVE_SECONDS
            self._reaper = asyncio.get_running_loop().call_at(when, self._reap)

    def _reap(self) -> None:
        """Close what has been idle for too long, so that a burst leaves no sockets behind."""
        self._reaper = None
        loop = asyncio.get_running_loop()
        while self._free and self._free[0][0] + KEEP_ALIVE_SECONDS <= loop.time():
            task = loop.create_task(self._free.popleft()[1].aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._plan_reaping()


def _tls_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE")
        if not path:
            raise
        raise ValueError(
            f"the certificates of SSL_CERT_FILE={path} cannot be read ({error}); name a PEM file, or unset it for the "
            "public authorities."
        ) from error
