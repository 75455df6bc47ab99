"""PPO's clipped policy loss and clipped value loss, as sums over action tokens.

One denominator: a caller divides by the action-token count of the *whole* optimizer mini-batch, whatever part of it
the given tokens are. Sums over micro-batches and ranks then add up to the loss of the mini-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyLoss:
    """Sums over the given action tokens; every field a scalar tensor, all but ``loss`` detached."""

    loss: Tensor
    """Sum of token losses divided by the global action count; differentiable."""
    clipped: Tensor
    """Tokens whose clipped term is the one that counts."""
    kl: Tensor
    """Sum of ``ratio - 1 - log ratio``, the low-variance estimator of KL(old || new) (Schulman 2020, "k3")."""
    ratio: Tensor
    """Sum of ``new / old`` probability ratios."""
    ratio_max: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValueLoss:
    """Sums over the given action tokens; every field a scalar tensor, all but ``loss`` detached."""

    loss: Tensor
    """Sum of token losses divided by the global action count; differentiable."""
    clipped: Tensor
    """Tokens whose value left the clip range."""


def policy_loss(
    log_probs_a: Tensor, old_log_probs_a: Tensor, advantages_a: Tensor, *, clip_range: float, num_actions: int
) -> PolicyLoss:
    """``sum_t max(-A_t r_t, -A_t clip(r_t, 1 - c, 1 + c)) / num_actions`` (PPO, arXiv 1707.06347, equation 7).

    Args:
        log_probs_a: [a] fp32, differentiable.
        old_log_probs_a: [a] of the trainer's policy before this iteration's updates.
        advantages_a: [a].
        clip_range: c.
        num_actions: action tokens of the whole optimizer mini-batch, over all ranks and micro-batches.
    """
    log_ratio = log_probs_a - old_log_probs_a
    ratio = torch.exp(log_ratio)
    free = -advantages_a * ratio
    held = -advantages_a * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = torch.maximum(free, held).sum() / num_actions
    with torch.no_grad():
        return PolicyLoss(
            loss=loss,
            clipped=(held > free).sum(),
            kl=(ratio - 1.0 - log_ratio).sum(),
            ratio=ratio.sum(),
            ratio_max=ratio.max() if ratio.numel() else ratio.new_zeros(()),
        )


def value_loss(
    values_a: Tensor, old_values_a: Tensor, returns_a: Tensor, *, clip_range: float, num_actions: int
) -> ValueLoss:
    """``sum_t 0.5 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / num_actions``.

    The value clipping of the PPO reference implementation, as in Open-Reasoner-Zero (paper, section 3.1).

    Args:
        values_a: [a] fp32, differentiable.
        old_values_a: [a] before this iteration's update.
        returns_a: [a] regression targets.
        clip_range: c.
        num_actions: action tokens of the whole optimizer mini-batch, over all ranks and micro-batches.
    """
    change = values_a - old_values_a
    held = old_values_a + change.clamp(-clip_range, clip_range)
    errors = torch.maximum((values_a - returns_a).square(), (held - returns_a).square())
    return ValueLoss(
        loss=0.5 * errors.sum() / num_actions,
        clipped=(change.detach().abs() > clip_range).sum(),
    )
