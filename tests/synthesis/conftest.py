"""Small implementations of the protocols that synthesis is written against."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from pacore_rl.types import (
    Finish,
    GenerationRequest,
    Int32,
    Outcome,
    PoolMessage,
    Problem,
    Sampling,
    Trajectory,
    Turn,
    Verdict,
)


class ByteTokenizer:
    """One token per UTF-8 byte; a turn is rendered as ``<role>content`` and the assistant is asked with ``<>``."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode_chat(self, conversation: Sequence[Turn]) -> Int32:
        self.num_encoded += 1
        text = "".join(f"<{turn.role}>{turn.content}" for turn in conversation) + "<>"
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def decode(self, token_ids: Int32) -> str:
        return bytes(token_ids.astype(np.uint8)).decode("utf-8", "replace")

    def count(self, text: str) -> int:
        return len(text.encode())


class ScriptedGenerator:
    """Answers request by request, the last one first, with ``reply(prompt, request seed, sample)``."""

    weight_version = 3

    def __init__(self, reply: Callable[[str, int, int], tuple[str, Finish]], context_window_tokens: int) -> None:
        self.reply = reply
        self.context_window_tokens = context_window_tokens
        self.prompts: list[list[str]] = []
        """Prompts of each call of :meth:`generate`."""

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        prompts = [ByteTokenizer().decode(request.prompt_ids) for request in requests]
        self.prompts.append(prompts)
        for i in reversed(range(len(requests))):
            request = requests[i]
            replies = [self.reply(prompts[i], request.seed, sample) for sample in range(request.num_samples)]
            yield i, tuple(trajectory(text, finish, request.prompt_ids) for text, finish in replies)


def trajectory(text: str, finish: Finish, prompt_ids: Int32) -> Trajectory:
    response_ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
    return Trajectory(
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        logprobs=np.zeros(len(response_ids), dtype=np.float32),
        text=text,
        finish=finish,
        weight_versions=np.full(len(response_ids), ScriptedGenerator.weight_version, np.int32),
    )


def seeded_reply(prompt: str, seed: int, sample: int) -> tuple[str, Finish]:
    """A reply that depends on everything a reply may depend on."""
    digest = hashlib.sha256(f"{prompt}|{seed}|{sample}".encode()).hexdigest()
    return f"<think>{digest[: 1 + int(digest[0], 16)]}</think>\n\n{digest[:6]}", "stopped"


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def make_generator() -> Callable[..., ScriptedGenerator]:
    def make(
        reply: Callable[[str, int, int], tuple[str, Finish]] = seeded_reply, context_window_tokens: int = 10_000
    ) -> ScriptedGenerator:
        return ScriptedGenerator(reply, context_window_tokens)

    return make


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    def make(id: str = "p0", question: str = "What is 2 + 2?") -> Problem:
        return Problem(id=id, conversation=(Turn(role="user", content=question),), ground_truth="4")

    return make


@pytest.fixture
def make_message() -> Callable[..., PoolMessage]:
    def make(
        problem_id: str = "p0",
        text: str = "4",
        *,
        correct: bool = False,
        outcome: Outcome = "scored",
        finish: Finish = "stopped",
        num_tokens: int = 10,
        model: str = "m",
    ) -> PoolMessage:
        verdict = Verdict(reward=float(correct), correct=correct, outcome=outcome, reason="compared", answer=text)
        return PoolMessage(
            problem_id=problem_id, text=text, finish=finish, verdict=verdict, num_tokens=num_tokens, model=model
        )

    return make
