"""Who may ask, how much, and how often."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacore_rl.inference.server.errors import ApiError, on_http_error

MIN_RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one server. None is no limit."""

    max_requests: int = 256
    """Chat completions at a time; more are answered 429."""
    requests_per_minute: float | None = None
    """Of each key, or of all callers together where there are no keys."""
    max_trajectories: int = 256
    """Of one request, all rounds and choices."""
    max_body_bytes: int = 8 * 1024**2
    max_total_tokens: int | None = None
    """Test-time compute of one request."""
    max_seconds: float | None = None
    """Of one request."""


class Keys:
    """The API keys that are let in; none lets everyone in."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str | None) -> str:
        """A name of the caller's key that is not the key. Raises ApiError 401."""
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
        # Every key is compared, in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return digest.hex()[:12]


class Gate:
    """Admits requests within the limits. Of one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[str, tuple[float, float]] = {}  # by caller: what it may still ask, and when that was so
        self.num_in_flight = 0

    @contextmanager
    def admit(self, caller: str) -> Iterator[None]:
        """Hold a place. Raises ApiError 429 where there is none, or where the caller asked too often."""
        self._take(caller)
        if self.num_in_flight >= self._limits.max_requests:
            raise ApiError(
                429,
                f"{self.num_in_flight} requests are under way, as many as this server takes; try again later.",
                code="too_many_requests",
                headers={"Retry-After": str(MIN_RETRY_SECONDS)},
            )
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1

    def _take(self, caller: str) -> None:
        rate = self._limits.requests_per_minute
        if rate is None:
            return
        now = time.monotonic()
        left, then = self._buckets.get(caller, (max(rate, 1.0), now))
        left = min(max(rate, 1.0), left + (now - then) * rate / 60)
        if left < 1:
            self._buckets[caller] = (left, now)
            wait = max(MIN_RETRY_SECONDS, round((1 - left) * 60 / rate))
            raise ApiError(
                429,
                f"more than {rate:g} requests a minute; try again in {wait} s.",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )
        self._buckets[caller] = (left - 1, now)


class BodyLimit:
    """ASGI middleware: a body above the limit is refused by its announced length, or while it is read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        error = HTTPException(413, f"the body exceeds {self._max_bytes:,} bytes; shorten the conversation.")
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(value.isdigit() and int(value[:20]) > self._max_bytes for value in lengths):
            response = await on_http_error(_no_request(scope), error)
            return await response(scope, receive, send)
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise error
            return message

        await self._app(scope, limited, send)


def _no_request(scope: Scope) -> Any:
    from fastapi import Request

    return Request(scope)
