"""How long a prompt is, in tokens, as the endpoint's model counts.

A token has at least one byte, so most prompts are known to fit without asking. Near the limit the endpoint is asked
(vLLM's ``/tokenize``); where it has no such call, the length is estimated from the prompts it has counted so far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx

from pacore_rl.inference.client import Client
from pacore_rl.inference.conversation import Message

TEMPLATE_TOKENS = 64
"""What a chat template may add to each message; generous."""
BYTES_PER_TOKEN = 2.0
"""Taken until a prompt has been counted; English has about four, other scripts and mathematics less."""
MARGIN = 1.1
"""By which an estimate exceeds what was seen."""


class PromptCounter:
    """Counts prompts for one model."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._can_ask = True
        self._tokens_per_byte = 1 / BYTES_PER_TOKEN
        self._has_learnt = False
        self.num_estimated = 0
        """Prompts whose length was estimated."""

    def learn(self, messages: Sequence[Message], prompt_tokens: int) -> None:
        """A prompt's length as the server counted it; the densest one seen makes the estimates."""
        size = _num_bytes(messages)
        if prompt_tokens > 0 and size >= 256:  # in a short one the template weighs too much
            seen = prompt_tokens / size
            known = self._tokens_per_byte if self._has_learnt else 0.0
            self._tokens_per_byte, self._has_learnt = max(seen, known), True

    def bound(self, messages: Sequence[Message]) -> int:
        """No prompt is longer, in tokens."""
        return _num_bytes(messages) + TEMPLATE_TOKENS * len(messages)

    async def count(self, messages: Sequence[Message], *, room_tokens: int) -> int:
        """The prompt's tokens: exact, or estimated, or an upper bound that is within ``room_tokens``."""
        size, bound = _num_bytes(messages), self.bound(messages)
        if bound <= room_tokens:
            return bound
        if self._can_ask:
            counted = await self._ask(messages)
            if counted is not None:
                return counted
        self.num_estimated += 1
        return int(size * self._tokens_per_byte * MARGIN) + TEMPLATE_TOKENS * len(messages)

    async def _ask(self, messages: Sequence[Message]) -> int | None:
        body = {"model": self._model, "messages": list(messages)}
        replica = self._client.route()
        try:
            response = await replica.transport.call("POST", f"{replica.endpoint.root_url}/tokenize", body)
            if response.status_code in (404, 405, 501):
                self._can_ask = False
            count = response.json()["count"] if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError):  # it counts otherwise, or not at all
            return None
        return count if isinstance(count, int) and count >= 0 else None


def _num_bytes(messages: Sequence[Message]) -> int:
    return len(json.dumps(list(messages), ensure_ascii=False).encode("utf-8", "surrogatepass"))
