"""What a training step is made of: draws, scored responses, and the batch that PPO sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pacore_rl.failures import RunStopped
from pacore_rl.types import ExperienceBatch, Int32, MessageSet, Problem, TokenRows, Trajectory, Verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """One problem of a step with the messages its G responses share."""

    problem: Problem
    message_set: MessageSet
    prompt_ids: Int32
    """[prompt]"""
    seed: int
    """Of its responses."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One response and what became of it."""

    draw: Draw
    trajectory: Trajectory
    verdict: Verdict
    sample: int = 0
    """Which of the draw's responses it is."""


def is_trainable(row: Scored) -> bool:
    """Whether PPO may learn from the row: it has tokens, and its reward is about the response, not about us."""
    return row.trajectory.response_ids.size > 0 and not row.verdict.outcome.endswith("_error")


def experience_batch(rows: Sequence[Scored]) -> ExperienceBatch:
    """Rows as PPO sees them.

    Raises:
        RunStopped: there is no row to learn from.
    """
    if not rows:
        raise RunStopped(
            "no response of this step can be learned from: all are empty, overflow the context window or failed to "
            "be scored. Look at response/* metrics; raise model.context_window_tokens or check the chat template."
        )
    trajectories = [row.trajectory for row in rows]
    return ExperienceBatch(
        rows=TokenRows.of(trajectories),
        engine_logprobs_A=np.concatenate([t.logprobs for t in trajectories]),
        rewards_B=np.array([row.verdict.reward for row in rows], dtype=np.float32),
        weight_versions_A=np.concatenate([t.weight_versions for t in trajectories]),
    )
