"""Truncated importance sampling against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pacore_rl.ppo.importance import truncated_importance_weights
from pacore_rl.ppo.losses import policy_loss


def test_weights_by_hand() -> None:
    engine = np.log(np.array([0.5, 0.1, 0.2, 0.9], np.float32))
    trainer = np.log(np.array([0.5, 0.9, 0.1, 0.3], np.float32))
    weights = truncated_importance_weights(trainer, engine, cap=8.0)
    np.testing.assert_allclose(weights, [1.0, 8.0, 0.5, 1 / 3], rtol=1e-5)  # the second ratio is 9, and capped
    assert weights.dtype == np.float32


def test_a_token_that_the_engine_found_impossible_is_capped_not_infinite() -> None:
    weights = truncated_importance_weights(np.zeros(1, np.float32), np.array([-1e4], np.float32), cap=2.0)
    np.testing.assert_allclose(weights, [2.0], rtol=1e-6)


def test_weighting_advantages_weights_the_clipped_loss() -> None:
    """max(-A r, -A clip(r)) times a weight w >= 0 is the same loss with the advantage w A."""
    rng = np.random.default_rng(0)
    new, old, advantages, weights = (torch.from_numpy(rng.normal(size=50).astype(np.float32)) for _ in range(4))
    weights = weights.abs()
    whole = policy_loss(new, old, weights * advantages, clip_range=0.2, num_actions=50).loss
    ratio = torch.exp(new - old)
    by_hand = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
    assert float(whole) == pytest.approx(float((weights * by_hand).sum() / 50), rel=1e-5)
