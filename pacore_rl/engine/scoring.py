"""A run's scorer: on the cluster (``ray_answers``), or in this process's children."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import ray

from pacore_rl.config import Config, RewardConfig
from pacore_rl.engine.ray_answers import RayAnswers, spare_shares
from pacore_rl.machine import num_cores
from pacore_rl.rewards.scorer import RuleScorer, open_scorer
from pacore_rl.types import Problem


class RayScorer(RuleScorer):
    """Scores on the cluster; its memory and its rules are in this process."""

    _answers: RayAnswers

    def __init__(
        self,
        config: RewardConfig,
        end_of_reasoning: str,
        *,
        start_timeout_seconds: float,
        rewards: Collection[str] = (),
    ) -> None:
        answers = RayAnswers(config, start_timeout_seconds=start_timeout_seconds, rewards=rewards)
        super().__init__(config, end_of_reasoning, answers)


@contextmanager
def open_run_scorer(config: Config, problems: Iterable[Problem]) -> Iterator[RuleScorer]:
    """The scorer of a run's compacted messages, where ``reward.placement`` says; to be opened after the engine.

    Args:
        problems: whose rewards must be usable on every node that scores.
    """
    if not scores_on_cluster(config.reward):
        with open_scorer(config.reward) as local:
            yield local
        return
    scorer = RayScorer(
        config.reward,
        "",
        start_timeout_seconds=config.cluster.start_timeout_seconds,
        rewards={config.reward.custom.name or problem.reward for problem in problems},
    )
    try:
        yield scorer
    finally:
        scorer.close()


def scores_on_cluster(reward: RewardConfig) -> bool:
    """What ``reward.placement`` asks for; auto: on a cluster of several nodes with CPUs to spare for it."""
    if reward.placement != "auto":
        return reward.placement == "ray"
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return False
    if reward.num_workers is None:
        return sum(spare_shares()) > num_cores()
    return ray.available_resources().get("CPU", 0.0) >= reward.num_workers
