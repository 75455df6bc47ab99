"""What a call to an endpoint gives: pieces while it streams, a typed completion at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pacore_rl.synthesis.plan import Reply
from pacore_rl.types import Finish

FailureKind = Literal[
    "unreachable", "timeout", "cut", "busy", "server_error", "unreadable", "refused", "unauthorized", "overflow"
]
"""Why a call failed.

unreachable   no connection
timeout       nothing came for too long
cut           the stream ended before its answer did
busy          429 or 503
server_error  another 5xx, or an error within the stream
unreadable    the answer is no chat completion
refused       another 4xx: asking again would not help
unauthorized  401 or 403
overflow      the prompt does not fit the context window
"""
RETRYABLE: frozenset[FailureKind] = frozenset({"unreachable", "timeout", "cut", "busy", "server_error", "unreadable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a call gave no completion."""

    kind: FailureKind
    message: str
    status: int | None = None
    """Of the HTTP response, where there was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of an answer, as it arrived."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """As the API streams them: fragments with an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call."""

    prompt_tokens: int = 0
    cached_tokens: int | None = None
    """None where the server does not say."""
    generated_tokens: int = 0
    wasted_tokens: int = 0
    """Pieces that attempts had streamed before they broke."""
    is_estimated: bool = False
    """The server's counts were missing or impossible: the pieces were counted, each of at least one token."""


MAX_HIDDEN_TOKENS = 131_072
"""Where no limit is known, a server is believed so many: some reason without showing it."""
MAX_TOKENS_PER_CHAR = 4
"""A character has at most four bytes, and a token at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """Of one call, as far as they are known. A count above them is wrong, whatever the server says."""

    max_tokens: int | None = None
    """The request's own limit."""
    window_tokens: int | None = None
    """The model's context window."""

    def may_prompt(self, num_tokens: int) -> bool:
        """Whether the prompt may have so many."""
        return self.window_tokens is None or num_tokens <= self.window_tokens

    def may_generate(self, num_tokens: int, *, num_chars: int) -> bool:
        """Whether an answer that showed so many characters may have cost so many tokens."""
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            return False
        room = self.window_tokens or self.max_tokens or MAX_HIDDEN_TOKENS
        return num_tokens <= max(room, MAX_TOKENS_PER_CHAR * num_chars)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """How a call ended, after its retries."""

    content: str
    reasoning: str
    """What the server set apart as reasoning; "" where it leaves it in ``content``."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish: Finish
    finish_reason: str | None
    """The server's own word."""
    usage: Usage
    num_attempts: int = 1
    failure: Failure | None = None
    """Set where ``finish`` is ``failed`` or ``overflow``."""

    def as_reply(self, end_of_reasoning: str) -> Reply:
        """The reply of a round: reasoning that was set apart is put back before the conclusion, marker between."""
        text = self.content
        if self.reasoning:
            text = self.reasoning + (end_of_reasoning + self.content if self.content.strip() else "")
        return Reply(
            text=text,
            finish=self.finish,
            generated_tokens=self.usage.generated_tokens,
            prompt_tokens=self.usage.prompt_tokens,
            cached_tokens=self.usage.cached_tokens,
            wasted_tokens=self.usage.wasted_tokens,
            is_estimated=self.usage.is_estimated,
            error="" if self.failure is None else f"{self.failure.kind}: {self.failure.message}",
        )
