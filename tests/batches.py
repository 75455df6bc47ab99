"""Batches of a few rows, written out."""

from __future__ import annotations

import numpy as np

from pacore_rl.types import ExperienceBatch


def make_batch(rows: list[tuple[list[int], list[int]]]) -> ExperienceBatch:
    """A batch of (prompt, response) rows."""
    lengths = np.array([len(response) for _, response in rows], np.int32)
    return ExperienceBatch(
        token_ids=tuple(np.array(prompt + response, np.int32) for prompt, response in rows),
        prompt_lengths_B=np.array([len(prompt) for prompt, _ in rows], np.int32),
        response_lengths_B=lengths,
        engine_logprobs_A=np.zeros(lengths.sum(), np.float32),
        rewards_B=np.zeros(len(rows), np.float32),
        weight_versions_A=np.zeros(lengths.sum(), np.int32),
    )
