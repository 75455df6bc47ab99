"""Truncated importance sampling: what makes tokens of an older policy count rightly in the update of a newer one."""

from __future__ import annotations

import numpy as np

from pacore_rl.types import Float32


def truncated_importance_weights(log_probs_A: Float32, engine_logprobs_A: Float32, *, cap: float) -> Float32:
    """``min(p_trainer / p_engine, C)`` [A] of every action token (paper, Appendix A; Ionides 2008).

    The ratio is between the trainer's policy before this iteration's update, around which PPO clips, and the policy
    that sampled: an older one (partial rollouts), or the same one in the engine's arithmetic. The cap bounds the
    variance. The weight multiplies a token's clipped policy loss; it is never negative, so multiplying the advantage
    by it is the same.

    Args:
        log_probs_A: [A] under the trainer's weights before the update.
        engine_logprobs_A: [A] under the weights that sampled.
        cap: C, at least 1.
    """
    # Capped before the exponential, which could overflow.
    log_ratio = log_probs_A.astype(np.float64) - engine_logprobs_A
    return np.exp(np.minimum(log_ratio, np.log(cap))).astype(np.float32)
