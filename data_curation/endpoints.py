"""A chat model behind one or more OpenAI-compatible endpoints, on the client of ``pacore_rl.inference``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from data_curation.chat import ChatReply
from pacore_rl.config_endpoints import EndpointConfig
from pacore_rl.inference.client import Client, request_body, with_seed
from pacore_rl.inference.completion import Completion
from pacore_rl.inference.settings import ClientSettings, Endpoint, key_from_environment
from pacore_rl.types import Turn

_REFUSED = ("refused", "overflow")
"""Failures that lie in the request: another one may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointModel:
    """A model behind endpoints. Its calls run in the event loop that opened it."""

    client: Client
    name: str
    options: Mapping[str, Any]
    """Sampling, as the API names it."""

    async def reply(self, conversation: Sequence[Turn], *, seed: int) -> ChatReply:
        """One streamed call, retried where that may help."""
        messages = [{"role": turn.role, "content": turn.content} for turn in conversation]
        body = with_seed(request_body(self.name, messages, self.options), seed)
        return _as_reply(await self.client.complete(body, replica=self.client.route()))


@asynccontextmanager
async def open_model(config: EndpointConfig, *, max_tokens: int, **options: float) -> AsyncIterator[EndpointModel]:
    """The model of ``config``, with its sampling ``options``. Raises ValueError for an address that is none."""
    key = key_from_environment(config.api_key_variable)
    settings = ClientSettings(
        first_token_seconds=config.first_token_seconds,
        idle_seconds=config.idle_seconds,
        max_retries=config.max_retries,
        backoff_seconds=config.backoff_seconds,
        max_open_calls=config.max_concurrent,
    )
    async with Client([Endpoint.of(url, api_key=key) for url in config.base_urls], settings) as client:
        yield EndpointModel(client=client, name=config.model, options={"max_tokens": max_tokens, **options})


def _as_reply(completion: Completion) -> ChatReply:
    failure = completion.failure
    return ChatReply(
        text=completion.content,
        reasoning=completion.reasoning,
        finish=completion.finish,
        num_tokens=completion.usage.generated_tokens,
        failure="" if failure is None else f"{failure.kind}: {failure.message}",
        is_refused=failure is not None and failure.kind in _REFUSED,
    )
