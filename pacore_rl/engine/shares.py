"""A rank's share of a learner's batch: each rank cuts it for itself, from rows that it reads in place.

The controller would lay out every token of every rank, twice a step for each learner, while the ranks wait; and the
ranks of a sequence would each be sent the positions of all. Only which row goes where must be decided alike, and that
follows from lengths, prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from pacore_rl.config import LearnerConfig
from pacore_rl.engine.learner_passes import Minibatch
from pacore_rl.ppo.batch import Int64, MicroBatch, gather_flat, pack_rank, split_rows
from pacore_rl.types import Float32, TokenRows


def own_micro_batches(
    settings: LearnerConfig, tokens: TokenRows, rows: Sequence[int] | Int64, *, rank: int
) -> tuple[MicroBatch, ...]:
    """What ``rank`` computes of the given rows."""
    return pack_rank(
        tokens,
        rows,
        rank=rank,
        micro_batch_tokens=settings.micro_batch_tokens,
        num_ranks=settings.num_ranks,
        sequence_parallel=settings.sequence_parallel,
    )


def own_minibatches(
    settings: LearnerConfig,
    tokens: TokenRows,
    old_A: Float32,
    targets_A: Float32,
    num_minibatches: int,
    *,
    seed: Sequence[int],
    rank: int,
) -> list[Minibatch]:
    """What ``rank`` computes of every optimizer step; arguments as in ``Minibatch`` and ``ppo.batch.split_rows``."""
    lengths_B = tokens.response_lengths_B
    minibatches: list[Minibatch] = []
    for rows in split_rows(tokens.num_rows, num_minibatches, seed=seed):
        micros = own_micro_batches(settings, tokens, rows, rank=rank)
        minibatches.append(
            Minibatch(
                micro_batches=micros,
                old=tuple(gather_flat(old_A, micro) for micro in micros),
                targets=tuple(gather_flat(targets_A, micro) for micro in micros),
                num_actions=int(lengths_B[rows].sum()),
            )
        )
    return minibatches
