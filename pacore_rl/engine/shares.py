"""A learner's batch, cut into each rank's share, and what the ranks say put together again."""

from __future__ import annotations

from collections.abc import Sequence

from pacore_rl.config import LearnerConfig
from pacore_rl.engine.learner_passes import Minibatch, StepResult
from pacore_rl.ppo.batch import Int64, MicroBatch, gather_flat, pack, scatter_flat, split_rows
from pacore_rl.types import ExperienceBatch, Float32


def pack_for(
    settings: LearnerConfig, batch: ExperienceBatch, rows: Sequence[int] | Int64
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Micro-batches of the given rows for each rank of a learner."""
    return pack(
        batch,
        rows,
        micro_batch_tokens=settings.micro_batch_tokens,
        num_ranks=settings.num_ranks,
        sequence_parallel=settings.sequence_parallel,
    )


def cut_minibatches(
    settings: LearnerConfig,
    batch: ExperienceBatch,
    old_A: Float32,
    targets_A: Float32,
    num_minibatches: int,
    *,
    seed: Sequence[int],
) -> list[list[Minibatch]]:
    """Each rank's part of every optimizer step; arguments as in ``Minibatch`` and ``ppo.batch.split_rows``."""
    per_rank: list[list[Minibatch]] = [[] for _ in range(settings.num_ranks)]
    for rows in split_rows(batch.num_rows, num_minibatches, seed=seed):
        num_actions = int(batch.response_lengths_B[rows].sum())
        for minibatches, micros in zip(per_rank, pack_for(settings, batch, rows), strict=True):
            minibatches.append(
                Minibatch(
                    micro_batches=micros,
                    old=tuple(gather_flat(old_A, micro) for micro in micros),
                    targets=tuple(gather_flat(targets_A, micro) for micro in micros),
                    num_actions=num_actions,
                )
            )
    return per_rank


def flat(per_rank: Sequence[Sequence[MicroBatch]], parts: Sequence[Sequence[Float32]], num_actions: int) -> Float32:
    """Every rank's parts as one [A] array."""
    pairs = [
        (micro, part)
        for micros, own in zip(per_rank, parts, strict=True)
        for micro, part in zip(micros, own, strict=True)
    ]
    return scatter_flat(pairs, num_actions)


def total(results: Sequence[StepResult], name: str) -> float:
    return sum(result.sums[name] for result in results)
