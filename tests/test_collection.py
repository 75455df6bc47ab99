"""Collecting a step's rows: strictly on-policy, and with responses that another step goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pacore_rl.collection import Collector, collect
from pacore_rl.config import Config
from pacore_rl.interfaces import ResponseStream
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

RIGHT = Verdict(reward=1.0, correct=True, outcome="scored", reason="equal")


class Letters:
    """One token a character."""

    def encode_chat(self, conversation: Sequence[Turn]) -> Int32:
        return np.frombuffer(conversation[-1].content.encode(), np.uint8).astype(np.int32)

    def decode(self, token_ids: Int32) -> str:
        return bytes(token_ids.astype(np.uint8)).decode()

    def count(self, text: str) -> int:
        return len(text)


@dataclass
class LongTailed:
    """A generator that ends ``enough`` responses, the last ones first, and interrupts the others."""

    weight_version: int = 0
    context_window_tokens: int = 512
    asked: list[list[GenerationRequest]] = field(default_factory=list)
    burst: int = 0
    """Responses that end after ``enough`` was reached."""

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> Iterator[Any]:
        raise AssertionError("training takes responses one by one")

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, *, enough: int | None = None
    ) -> ResponseStream:
        self.asked.append(list(requests))
        num_ended = 0
        # The last first: the collector must not depend on the order.
        for index, request in reversed(list(enumerate(requests))):
            for sample in range(request.num_samples):
                ends = enough is None or num_ended < enough + self.burst
                num_ended += ends
                yield index, sample, self.trajectory(request, "stopped" if ends else "unfinished")

    def trajectory(self, request: GenerationRequest, finish: Finish) -> Trajectory:
        old = request.continues
        versions = np.append(old.weight_versions if old else np.empty(0, np.int32), self.weight_version)
        return Trajectory(
            prompt_ids=request.prompt_ids,
            response_ids=np.arange(len(versions), dtype=np.int32),
            logprobs=np.zeros(len(versions), np.float32),
            text=r"</think>\boxed{1}",
            finish=finish,
            weight_versions=versions.astype(np.int32),
        )


@dataclass
class Always:
    """Scores everything as right."""

    num_scored: int = 0

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Any:
        self.num_scored += len(items)
        assert all(finish == "stopped" for _, _, finish in items)
        return SimpleNamespace(result=lambda: [RIGHT] * len(items))


def problem(i: int) -> Problem:
    return Problem(id=f"p{i}", conversation=(Turn(role="user", content=f"problem {i}"),), ground_truth="1")


def message(problem_id: str, text: str, model: str = "base") -> PoolMessage:
    return PoolMessage(problem_id=problem_id, text=text, finish="stopped", verdict=RIGHT, num_tokens=1, model=model)


@pytest.fixture
def collector(tiny_config: Callable[..., Config]) -> Callable[..., Collector]:
    def build(**sections: dict[str, Any]) -> Collector:
        problems = [problem(i) for i in range(13)]
        engine: Any = SimpleNamespace(generator=LongTailed())
        return Collector(
            config=tiny_config(**sections),
            engine=engine,
            scorer=Always(),
            tokenizer=Letters(),
            problems=problems,
            pool={p.id: [message(p.id, f"cached {i}") for i in range(6)] for p in problems},
        )

    return build


def test_strictly_on_policy_every_response_belongs_to_its_step(collector: Callable[..., Collector]) -> None:
    collecting = collector()
    for step in (1, 2, 3):
        draws = collecting.draw(step)
        rows = collect(collecting.generate(draws))
        assert [row.draw.problem.id for row in rows] == [draw.problem.id for draw in draws for _ in range(4)]
        assert not collecting.unfinished and not collecting.surplus
    # No problem comes twice in an epoch of 3 steps x 4 problems.
    seen = [draw.problem.id for step in (1, 2, 3) for draw in collecting.draw(step)]
    assert len(set(seen)) == 12


@pytest.mark.parametrize("burst", [0, 3])
def test_partial_rollouts_lose_nothing_and_count_nothing_twice(burst: int, collector: Callable[..., Collector]) -> None:
    collecting = collector(ppo={"oversample": 0.5, "importance_cap": 8.0})
    generator: Any = collecting.engine.generator
    generator.burst = burst
    started, trained = 0, 0
    for step in range(1, 8):
        generator.weight_version = step - 1
        draws = collecting.draw(step)
        assert len(draws) == (6 if step == 1 else 4)
        started += 4 * len(draws)
        rows = collect(collecting.generate(draws))
        trained += len(rows)
        assert len(rows) == 16  # 4 problems x 4 responses, as in a step that waits for all
        assert len(collecting.unfinished) + len(collecting.surplus) == started - trained == 8
        for item in collecting.unfinished:
            assert item.trajectory.finish == "unfinished"
            assert item.trajectory.weight_versions[-1] == step - 1
    scorer: Any = collecting.scorer
    assert scorer.num_scored == trained + len(collecting.surplus)
    resumed = [request for request in generator.asked[-1] if request.continues is not None]
    assert resumed and all(request.num_samples == 1 for request in resumed)
    assert all(request.continues.finish == "unfinished" for request in resumed)
    assert len({request.seed for request in resumed}) == len(resumed)


def test_oversampling_draws_each_round_once(collector: Callable[..., Collector]) -> None:
    collecting = collector(ppo={"oversample": 0.5, "importance_cap": 8.0})
    drawn = []
    for step in (1, 2, 3, 4):
        drawn += collecting.problems_of(step)
        collecting.generate(collecting.draw(step))
    # Steps 1 to 4 take rounds 1 to 4 and the first half of round 5, in order, each problem of a round once.
    assert [number for number, _ in drawn] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 2
    assert len({(number, p.id) for number, p in drawn}) == 18


def test_online_messages_mix_with_cached_ones(collector: Callable[..., Collector]) -> None:
    collecting = collector(
        synthesis={"min_messages": 4, "max_messages": 4, "refresh_every_steps": 2, "online_share": 0.5}
    )
    ids = [p.id for p in collecting.problems]
    collecting.online = {i: [message(i, f"online {n}", model="run-step-3") for n in range(6)] for i in ids}
    for draw in collecting.draw(1):
        texts = draw.message_set.messages
        assert len(set(texts)) == 4
        assert sum(text.startswith("online") for text in texts) == 2
    orders = {
        tuple(text.startswith("online") for text in d.message_set.messages) for s in (1, 2) for d in collecting.draw(s)
    }
    assert len(orders) > 1  # the two kinds are shuffled together
