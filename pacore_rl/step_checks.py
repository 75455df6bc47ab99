"""What the trainer looks at before it learns from a step, and what follows where something is wrong.

    scoring failed too often           stop
    tokens of other weights            a bug of ours
    engine and trainer disagree        surviving.on_logprob_gap: stop, skip, warn
    all rewards equal for long         surviving.on_equal_rewards: warn, stop

A loss or gradient that is no number is seen in the learner (``surviving.on_nonfinite``), a full disk when a checkpoint
is written (``surviving.on_disk_full``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from pacore_rl.config import Config
from pacore_rl.experience import Scored
from pacore_rl.failures import RunStopped
from pacore_rl.metrics import scoring_failures
from pacore_rl.types import ExperienceBatch, Float32

_log = logging.getLogger(__name__)


def check_scoring(rows: Sequence[Scored], config: Config) -> None:
    """Stop a run whose scoring fails too often: masked rows would silently change what is learned."""
    failed, limit = scoring_failures(rows), config.reward.max_failed_share
    if failed > limit * len(rows):
        reasons = sorted({row.verdict.reason for row in rows if row.verdict.outcome.endswith("_error")})
        raise RunStopped(
            f"{failed} of {len(rows)} scorings failed through no fault of the responses, above "
            f"reward.max_failed_share={limit}. Causes: {'; '.join(reasons[:3])}. "
            "Repair the scorer (see `pacore-rl doctor`) and go on with --resume auto."
        )


def check_on_policy(batch: ExperienceBatch, version: int, config: Config) -> None:
    """Strictly on-policy is checked, not assumed: every token must come from the weights about to be updated."""
    if config.ppo.oversample:
        assert (batch.weight_versions_A <= version).all(), "tokens from weights that do not exist yet"
        return
    assert (batch.weight_versions_A == version).all(), (
        f"tokens of weight versions {np.unique(batch.weight_versions_A).tolist()} in the step that trains {version}"
    )


def agrees(batch: ExperienceBatch, log_probs_A: Float32, version: int, config: Config) -> bool:
    """Whether to learn from a step: engine and trainer agree about tokens that the same weights sampled, or may differ.

    Raises:
        RunStopped: they disagree, and ``surviving.on_logprob_gap`` is stop.
    """
    limit, is_current = config.ppo.max_logprob_gap, batch.weight_versions_A == version
    if limit is None or not is_current.any():
        return True
    gap = float(np.abs(log_probs_A - batch.engine_logprobs_A)[is_current].mean())
    if gap <= limit:  # a gap that is not a number is no agreement
        return True
    message = (
        f"engine and trainer disagree by {gap:.3g} nats a token about what weight version {version} sampled, "
        f"above ppo.max_logprob_gap={limit}. Compare model.dtype and model.rope_scaling on both sides; if the "
        "gap grew slowly with bfloat16, raise the limit or set ppo.importance_cap."
    )
    if config.surviving.on_logprob_gap == "stop":
        raise RunStopped(message)
    _log.warning("%s surviving.on_logprob_gap=%s.", message, config.surviving.on_logprob_gap)
    return config.surviving.on_logprob_gap == "warn"


def count_equal_rewards(rewards_B: Float32, before: int, config: Config) -> int:
    """Steps in a row in which all rewards were equal, this one included; ``before`` is the count so far.

    Raises:
        RunStopped: as many as ``surviving.equal_rewards_steps``, and ``surviving.on_equal_rewards`` is stop.
    """
    if rewards_B.min() != rewards_B.max():
        return 0
    count, limit = before + 1, config.surviving.equal_rewards_steps
    if count % limit == 0:
        message = (
            f"all rewards were {rewards_B[0]:g} for {count} steps in a row: there is nothing to learn from. Look at "
            "response/* and reward/unparsed_share: are answers cut off, or the problems too hard or too easy?"
        )
        if config.surviving.on_equal_rewards == "stop":
            raise RunStopped(f"{message} (surviving.equal_rewards_steps={limit}, surviving.on_equal_rewards=stop)")
        _log.warning("%s", message)
    return count
