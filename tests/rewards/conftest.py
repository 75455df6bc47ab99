from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from reward_helpers import boxed, problem

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Finish, Verdict


@pytest.fixture(scope="session")
def scorer() -> Iterator[LocalScorer]:
    shared = LocalScorer(RewardConfig(timeout_seconds=2.5), "</think>")
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def backend() -> Backend:
    """The sandbox of this machine; without one, what needs it is skipped with the reasons."""
    try:
        return choose_backend()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))


@pytest.fixture
def verdict_of(scorer: LocalScorer) -> Callable[..., Verdict]:
    """The verdict of one boxed answer."""

    def score(answer: str, ground_truth: str, *, reward: str = "math", finish: Finish = "stopped") -> Verdict:
        return scorer.score([(problem(ground_truth, reward), boxed(answer), finish)]).result()[0]

    return score
