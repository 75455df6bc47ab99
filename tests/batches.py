"""Batches of a few rows, written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacore_rl.types import ExperienceBatch, TokenRows

Tokens = list[int] | NDArray[Any]


def make_rows(rows: Sequence[tuple[Tokens, Tokens]]) -> TokenRows:
    """Rows of (prompt, response)."""
    return TokenRows(
        prompts=tuple(np.array(prompt, np.int32) for prompt, _ in rows),
        responses=tuple(np.array(response, np.int32) for _, response in rows),
    )


def make_batch(rows: Sequence[tuple[Tokens, Tokens]], rewards: NDArray[Any] | None = None) -> ExperienceBatch:
    """A batch of (prompt, response) rows, without rewards 0."""
    tokens = make_rows(rows)
    return ExperienceBatch(
        rows=tokens,
        engine_logprobs_A=np.zeros(tokens.num_actions, np.float32),
        rewards_B=np.zeros(len(rows), np.float32) if rewards is None else rewards.astype(np.float32),
        weight_versions_A=np.zeros(tokens.num_actions, np.int32),
    )
