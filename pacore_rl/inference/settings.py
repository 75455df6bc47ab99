"""How a client treats its endpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from pacore_rl.api_keys import without_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One OpenAI-compatible server."""

    base_url: str
    """With the path that comes before ``/chat/completions``, without a closing slash."""
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, *, api_key: str | None = None) -> Self:
        """Read an address as users write it: ``http://host:8000/v1``, with or without the path of one of its calls.

        Raises ValueError for what is no http or https address.
        """
        cleaned = url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
        parts = urlsplit(cleaned)
        try:
            valid = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                f"the endpoint {url!r} is no address of a server; give one such as http://127.0.0.1:8000/v1."
            )
        if not parts.path:
            cleaned += "/v1"
        return cls(base_url=cleaned, api_key=api_key)

    def told(self, text: str) -> str:
        """What it said, or what is said of it, without its key: for every message."""
        return without_key(text, self.api_key)

    @property
    def root_url(self) -> str:
        """The server without ``/v1``, where vLLM has its own calls."""
        return self.base_url.removesuffix("/v1")


def key_from_environment(variable: str) -> str | None:
    """The API key in an environment variable; None where it is unset or empty."""
    return os.environ.get(variable) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Limits of one client. No limit is on a call as a whole, which would favour short answers over long ones."""

    connect_seconds: float = 10.0
    first_token_seconds: float = 1_800.0
    """From the request to the first byte of its answer: the time in the server's queue, and the prefill."""
    idle_seconds: float = 300.0
    """Between two pieces of an answer."""
    max_retries: int = 5
    backoff_seconds: float = 1.0
    """Before the first retry; it doubles with each, and is drawn anew between half and one and a half of that."""
    max_backoff_seconds: float = 60.0
    """Where doubling ends, and the most that a server's ``Retry-After`` counts for; before the draw."""
    max_open_calls: int = 512
    """Of each endpoint. Less are open while it says that it is busy."""
    leader_first_bytes: int = 2_048
    """A round whose request is at least this long lets its first sample fill the server's prefix cache."""
    leader_seconds: float = 120.0
    """So long the others wait for it at most once it is sent: a long prefill, not an endpoint that hangs."""

    def __post_init__(self) -> None:
        wrong = [
            name
            for name in ("connect_seconds", "first_token_seconds", "idle_seconds", "max_open_calls", "leader_seconds")
            if not getattr(self, name) > 0
        ] + [name for name in ("max_retries", "backoff_seconds", "max_backoff_seconds") if not getattr(self, name) >= 0]
        if wrong:
            raise ValueError(f"{wrong[0]}={getattr(self, wrong[0])} is too low; limits are above 0, retries 0 or more.")
