"""What a step's updates leave behind, and the metrics made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pacore_rl.config import Config
from pacore_rl.experience import Scored
from pacore_rl.metrics import in_area, off_policy_metrics, step_metrics
from pacore_rl.types import ExperienceBatch, Float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """The outcome of one step's learning."""

    log_probs_A: Float32
    entropy_A: Float32
    old_values_A: Float32
    """All [A], under the weights before the updates."""
    returns_A: Float32
    """[A]"""
    actor: Mapping[str, float] | None
    """Of the actor's update; None where it made none."""
    critic: Mapping[str, float]
    """Of the critic's."""
    skipped: bool
    """Whether the step was not learned from (``surviving.on_logprob_gap=skip``)."""

    def metrics(
        self, rows: Sequence[Scored], batch: ExperienceBatch, config: Config, *, sampled_by: int
    ) -> dict[str, float]:
        """All of the step but its times. ``sampled_by``: the version of the weights before the updates."""
        metrics = step_metrics(
            rows=rows,
            batch=batch,
            log_probs_A=self.log_probs_A,
            entropy_A=self.entropy_A,
            old_values_A=self.old_values_A,
            returns_A=self.returns_A,
        )
        metrics |= in_area("policy", self.actor or {}) | in_area("critic", self.critic)
        if self.skipped:
            metrics["policy/skipped_step"] = 1.0
        if config.ppo.importance_cap is not None:
            metrics |= off_policy_metrics(batch, self.log_probs_A, cap=config.ppo.importance_cap, version=sampled_by)
        return metrics
