"""The engine's protocols in a few lines of Python: characters as tokens, and a policy given as a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pacore_rl.config import Config
from pacore_rl.types import (
    Finish,
    GenerationRequest,
    Int32,
    PoolMessage,
    Problem,
    Sampling,
    Trajectory,
    Turn,
    Verdict,
)

Policy = Callable[[str, np.random.Generator], tuple[str, Finish]]
"""(prompt text, stream of this sample) -> (response text, how it ended)."""


class CharacterTokenizer:
    """One token a character; the template is a newline after each turn."""

    def encode_chat(self, conversation: Sequence[Turn]) -> Int32:
        text = "".join(f"{turn.content}\n" for turn in conversation)
        return np.array([ord(character) for character in text], dtype=np.int32)

    def decode(self, token_ids: Int32) -> str:
        return "".join(chr(token) for token in token_ids)

    def count(self, text: str) -> int:
        return len(text)


@dataclass(kw_only=True)
class FakeGenerator:
    """Answers as its policy says, last request first: order of arrival must not matter."""

    policy: Policy
    context_window_tokens: int = 100_000
    weight_version: int = 3
    calls: list[list[GenerationRequest]] = field(default_factory=list[list[GenerationRequest]])

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        self.calls.append(list(requests))
        for index in reversed(range(len(requests))):
            request = requests[index]
            rngs = [np.random.default_rng((request.seed, sample)) for sample in range(request.num_samples)]
            yield index, tuple(self._answer(request.prompt_ids, rng) for rng in rngs)

    def _answer(self, prompt_ids: Int32, rng: np.random.Generator) -> Trajectory:
        text, finish = self.policy("".join(chr(token) for token in prompt_ids), rng)
        ids = np.array([ord(character) for character in text], dtype=np.int32)
        return Trajectory(
            prompt_ids=prompt_ids,
            response_ids=ids,
            logprobs=np.zeros(len(ids), dtype=np.float32),
            text=text,
            finish=finish,
            weight_versions=np.full(len(ids), self.weight_version, np.int32),
        )


@dataclass(frozen=True)
class Done:
    verdicts: list[Verdict]

    def result(self) -> list[Verdict]:
        return self.verdicts


class FakeScorer:
    """Exact match on what the box holds; the answer 'crash' stands for a sandbox that broke."""

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Done:
        return Done([verdict_of(problem, message, finish) for problem, message, finish in items])


def verdict_of(problem: Problem, message: str, finish: Finish = "stopped") -> Verdict:
    found = re.search(r"\[(\w+)\]", message)
    if found is None:
        return Verdict(reward=0.0, correct=False, outcome="unparsed", reason="no box")
    answer = found.group(1)
    if answer == "crash":
        return Verdict(reward=0.0, correct=False, outcome="sandbox_error", reason="the sandbox broke")
    correct = answer == problem.ground_truth and finish == "stopped"
    return Verdict(reward=float(correct), correct=correct, outcome="scored", reason="compared", answer=answer)


def problem_of(index: int, **tags: str | int | float) -> Problem:
    return Problem(
        id=f"p{index}",
        conversation=(Turn(role="user", content=f"Problem {index}?"),),
        ground_truth=f"right{index}",
        tags=tags,
    )


def message_of(problem: Problem, answer: str, num_tokens: int = 10) -> PoolMessage:
    text = f"[{answer}]"
    return PoolMessage(
        problem_id=problem.id,
        text=text,
        finish="stopped",
        verdict=verdict_of(problem, text),
        num_tokens=num_tokens,
        model="start",
    )


def config_of(*, min_messages: int = 2, max_messages: int = 2) -> Config:
    return Config.model_validate(
        {
            "model": {"path": "none", "context_window_tokens": 100_000},
            "data": {"problems": "none.jsonl", "pool": "none.pool"},
            "synthesis": {"min_messages": min_messages, "max_messages": max_messages},
            "sampling": {"max_response_tokens": 1000},
        }
    )


def verdict(answer: str | None, correct: bool = False) -> Verdict:
    return Verdict(
        reward=float(correct),
        correct=correct,
        outcome="scored" if answer is not None else "unparsed",
        reason="given",
        answer=answer,
    )
