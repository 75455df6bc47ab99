"""Who writes round-1 trajectories for a pool: our own engines on Ray, or any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pacore_rl.config import Config
from pacore_rl.evaluation.responses import evaluation_sampling
from pacore_rl.interfaces import ChatTokenizer, Generator
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.types import Finish, GenerationRequest, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Samples ``first_sample`` to ``first_sample + num_samples - 1`` of a problem."""

    problem: Problem
    num_samples: int
    first_sample: int
    seed: int
    """Sample i draws from a stream fixed by (seed, i), whatever was asked for before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One trajectory, as text."""

    text: str
    """Reasoning and conclusion, as the model wrote them."""
    finish: Finish
    num_tokens: int
    """Generated tokens, the reasoning's included."""


class Proposer(Protocol):
    """Writes trajectories."""

    def propose(self, asks: Sequence[Ask]) -> Iterator[tuple[int, tuple[Proposal, ...]]]:
        """Yield (index of the ask, its ``num_samples`` proposals in order) as asks are answered, in any order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProposer:
    """vLLM engines under Ray: a ``pacore_rl.interfaces.Generator``."""

    generator: Generator
    tokenizer: ChatTokenizer
    config: Config

    def propose(self, asks: Sequence[Ask]) -> Iterator[tuple[int, tuple[Proposal, ...]]]:
        """One ``generate`` call for all asks, which keeps the engines full to its end."""
        requests = [
            GenerationRequest(
                prompt_ids=self.tokenizer.encode_chat(build_conversation(ask.problem, ())),
                num_samples=ask.num_samples,
                first_sample=ask.first_sample,
                seed=ask.seed,
            )
            for ask in asks
        ]
        for index, trajectories in self.generator.generate(requests, evaluation_sampling(self.config)):
            yield (
                index,
                tuple(
                    Proposal(text=one.text, finish=one.finish, num_tokens=len(one.response_ids)) for one in trajectories
                ),
            )
