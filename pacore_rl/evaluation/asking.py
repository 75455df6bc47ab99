"""Who generates for an evaluation: the engine here, an endpoint in ``pacore_rl.evaluation.endpoint``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pacore_rl.interfaces import ChatTokenizer, Generator
from pacore_rl.synthesis.plan import Reply
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.types import GenerationRequest, Int32, Problem, Sampling, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """``num_samples`` independent trajectories from P(x, M)."""

    problem: Problem
    messages: tuple[str, ...]
    """M, in the prompt's order; () asks the plain problem."""
    num_samples: int
    seed: int


Then = Callable[[int, tuple[Reply, ...]], Sequence[Ask]]
"""``(index of the ask, its num_samples replies) -> further asks``. Asks are counted from 0 in the order in which they
were handed over: those given at first, then those that came of replies."""


class Asker(Protocol):
    """Answers asks."""

    @property
    def room_tokens(self) -> int | None:
        """Longest prompt in tokens; None where it is not known, and nothing is left out of a prompt."""
        ...

    def prompt_tokens(self, problem: Problem, messages: Sequence[str]) -> int:
        """Length of the prompt P(x, M)."""
        ...

    def answer(self, asks: Sequence[Ask], then: Then) -> None:
        """Call ``then`` in this thread with the replies to each ask, as they end and in any order; answer what it
        returns too, and come back when nothing is left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAsker:
    """An engine, token ids in and out."""

    generator: Generator
    tokenizer: ChatTokenizer
    sampling: Sampling
    reserve_tokens: int
    """Of the window, for the answer."""
    _encoded: dict[tuple[str, tuple[str, ...]], Int32] = field(default_factory=dict[tuple[str, tuple[str, ...]], Int32])
    """Ids of the wave's prompts that have been counted: the one counted last is most often the one that is sent."""

    @property
    def room_tokens(self) -> int | None:
        return self.generator.context_window_tokens - self.reserve_tokens

    def prompt_tokens(self, problem: Problem, messages: Sequence[str]) -> int:
        return len(self._encode(problem, tuple(messages)))

    def _encode(self, problem: Problem, messages: tuple[str, ...]) -> Int32:
        key = (problem.id, messages)
        if key not in self._encoded:
            self._encoded[key] = self.tokenizer.encode_chat(build_conversation(problem, messages))
        return self._encoded[key]

    def answer(self, asks: Sequence[Ask], then: Then) -> None:
        """In waves: what replies give rise to is generated together, once their wave is over."""
        first, wave = 0, list(asks)
        while wave:
            requests = [
                GenerationRequest(
                    prompt_ids=self._encode(ask.problem, ask.messages),
                    num_samples=ask.num_samples,
                    seed=ask.seed,
                )
                for ask in wave
            ]
            self._encoded.clear()
            following: list[Ask] = []
            num_answered = 0
            for index, trajectories in self.generator.generate(requests, self.sampling):
                num_answered += 1
                following += then(first + index, tuple(_reply(trajectory) for trajectory in trajectories))
            assert num_answered == len(wave), f"the generator answered {num_answered} of {len(wave)} requests"
            first, wave = first + len(wave), following


def _reply(trajectory: Trajectory) -> Reply:
    return Reply(
        text=trajectory.text,
        finish=trajectory.finish,
        generated_tokens=len(trajectory.response_ids),
        prompt_tokens=len(trajectory.prompt_ids),
    )
