"""OpenAI-compatible endpoints, on the client of ``pacore_rl.inference``: a chat model, and a proposer of pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from data_curation.chat import ChatReply, FailureWatch, each, in_thread
from data_curation.proposals import Ask, Proposal
from pacore_rl.config import Config
from pacore_rl.config_endpoints import EndpointConfig
from pacore_rl.evaluation.responses import evaluation_sampling
from pacore_rl.inference.client import CallState, Client, request_body, with_seed
from pacore_rl.inference.completion import Completion, TokenLimits
from pacore_rl.inference.settings import ClientSettings, Endpoint, key_from_environment
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.synthesis.prompt import build_conversation
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
        body = with_seed(request_body(self.name, _as_messages(conversation), self.options), seed)
        return _as_reply(await self.client.complete(body, replica=self.client.route()))


@asynccontextmanager
async def open_model(config: EndpointConfig, *, max_tokens: int, **options: float) -> AsyncIterator[EndpointModel]:
    """The model of ``config``, with its sampling ``options``. Raises ValueError for an address that is none."""
    async with _client_of(config) as client:
        yield EndpointModel(client=client, name=config.model, options={"max_tokens": max_tokens, **options})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProposer:
    """Round-1 trajectories from endpoints: a ``proposals.Proposer``.

    The samples of a problem go to one endpoint, whose prefix cache then reads the prompt once. A sample that fails
    after its retries is a ``failed`` proposal; too many of them in a row raise ``EndpointDown``.
    """

    endpoint: EndpointConfig
    config: Config
    """Sampling, and the marker that ends the reasoning."""
    done: str
    """Where finished work is kept, for messages."""

    def propose(self, asks: Sequence[Ask]) -> Iterator[tuple[int, tuple[Proposal, ...]]]:
        """Yield (index of the ask, its proposals in order) as asks are answered.

        Raises ``EndpointDown``, and ValueError for an address that is none.
        """
        return in_thread(lambda: self._propose(asks))

    async def _propose(self, asks: Sequence[Ask]) -> AsyncIterator[tuple[int, tuple[Proposal, ...]]]:
        watch = FailureWatch(self.endpoint, done=self.done)
        async with _client_of(self.endpoint) as client:

            async def answer(index: int) -> tuple[int, tuple[Proposal, ...]]:
                return index, await self._answer(asks[index], client, watch)

            # More problems than calls are open: a slot that comes free never waits for the next problem.
            num_workers = 2 * self.endpoint.max_concurrent * len(self.endpoint.base_urls)
            async for answered in each(range(len(asks)), answer, num_workers=num_workers):
                yield answered

    async def _answer(self, ask: Ask, client: Client, watch: FailureWatch) -> tuple[Proposal, ...]:
        replica = client.route()
        body = request_body(self.endpoint.model, _as_messages(build_conversation(ask.problem, ())), self._options())
        numbers = range(ask.first_sample, ask.first_sample + ask.num_samples)
        bodies = [with_seed(body, draw_seed(ask.seed, "sample", number)) for number in numbers]
        limits = self._limits()
        calls = (client.complete(one, replica=replica, state=CallState(limits=limits)) for one in bodies)
        completions = await asyncio.gather(*calls)
        for completion in completions:
            watch.see(_as_reply(completion))
        return tuple(
            Proposal(
                text=completion.as_reply(self.config.model.end_of_reasoning).text,
                finish=completion.finish,
                num_tokens=completion.usage.generated_tokens,
            )
            for completion in completions
        )

    def _limits(self) -> TokenLimits:
        """What no trajectory's count exceeds: they are a pool's test-time compute."""
        return TokenLimits(
            max_tokens=evaluation_sampling(self.config).max_response_tokens,
            window_tokens=self.config.model.context_window_tokens,
        )

    def _options(self) -> dict[str, float]:
        sampling = evaluation_sampling(self.config)
        options: dict[str, float] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.max_response_tokens < self.config.model.context_window_tokens:
            options["max_tokens"] = sampling.max_response_tokens
        return options  # without max_tokens: what the server's window leaves


def _as_messages(conversation: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in conversation]


def _client_of(config: EndpointConfig) -> Client:
    key = key_from_environment(config.api_key_variable)
    settings = ClientSettings(
        connect_seconds=config.connect_seconds,
        first_token_seconds=config.first_token_seconds,
        idle_seconds=config.idle_seconds,
        max_retries=config.max_retries,
        backoff_seconds=config.backoff_seconds,
        max_open_calls=config.max_concurrent,
    )
    return Client([Endpoint.of(url, api_key=key) for url in config.base_urls], settings)


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
