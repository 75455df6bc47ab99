"""From a step's rows to the micro-batches that a learner's ranks compute: packed, without padding, prompts shared.

Layout of a micro-batch of T packed tokens. Rows with the same prompt form one *document*, whose prompt is there once:

    row 0: prompt a b c, response x y z     row 1: prompt a b c, response u v     row 2: prompt d, response w s

    token_ids     a b c x y | u | d w       the last token of a row predicts nothing and is left out
    position_ids  0 1 2 3 4 | 3 | 0 1       back to 0: a document begins; back to p > 0: a *branch* begins, which
                                            continues the document's first p tokens
    action_index  2 3 4 | 2 5 | 6 7         where each action token is predicted: the state before it
    labels        x y z | u v | w s

The responses of one problem thus cost their own tokens and one prompt, and the result is the same: a prompt's hidden
states do not depend on what follows. ``position_ids`` alone tell the attention which tokens see which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacore_rl.ppo.row_plan import RowPlan, assign_rows
from pacore_rl.types import Float32, Int32, TokenRows

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """What one rank computes in one forward pass, whole or a slice. T packed tokens, a action tokens."""

    token_ids: Int32
    """[T]"""
    position_ids: Int32
    """[T]; where they step back, a document or a branch begins."""
    action_index: Int32
    """[a], packed position whose hidden state predicts the action: the state before it."""
    labels: Int32
    """[a], the action tokens."""
    slots: Int64
    """[a], place of each action in the batch's flat [A] arrays."""
    num_padding: int = 0
    """Of the T tokens, those of no row: they keep ranks in step or slices equal, and nothing sees them."""
    sequence_position_ids: Int32 | None = None
    """[n * T], position_ids of all n slices in order; None where the micro-batch is whole."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_actions(self) -> int:
        return len(self.slots)


IDLE = MicroBatch(
    token_ids=np.zeros(1, np.int32),
    position_ids=np.zeros(1, np.int32),
    action_index=np.zeros(0, np.int32),
    labels=np.zeros(0, np.int32),
    slots=np.zeros(0, np.int64),
    num_padding=1,
)
"""One token and no action: keeps a rank that has run out of rows in step with the collectives of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """What ranks compute in a command."""

    computed: int
    """Tokens of all micro-batches."""
    padding: int
    """Those of no row: ``IDLE`` micro-batches and the ends of slices."""

    @property
    def padding_share(self) -> float:
        return self.padding / self.computed


def count_tokens(micros: Sequence[MicroBatch]) -> TokenCount:
    """The tokens of micro-batches, of one rank or of several."""
    return TokenCount(
        computed=sum(micro.num_tokens for micro in micros), padding=sum(micro.num_padding for micro in micros)
    )


def split_rows(num_rows: int, num_minibatches: int, *, seed: Sequence[int]) -> tuple[Int64, ...]:
    """Row numbers of each optimizer mini-batch, sizes equal to within one row.

    Each seed (run, step) is a fresh shuffle. One mini-batch keeps the rows' order: its gradient does not depend on it.

    Raises:
        ValueError: more mini-batches than rows.
    """
    if not 1 <= num_minibatches <= num_rows:
        raise ValueError(
            f"{num_rows} rows cannot be split into {num_minibatches} mini-batches with a row in each; lower "
            "ppo.critic_minibatches or ppo.actor_minibatches, or raise the rows of a step."
        )
    rows = np.arange(num_rows) if num_minibatches == 1 else np.random.default_rng(seed).permutation(num_rows)
    return tuple(np.array_split(rows, num_minibatches))


def pack(
    tokens: TokenRows,
    rows: Sequence[int] | Int64,
    *,
    micro_batch_tokens: int,
    num_ranks: int,
    sequence_parallel: int = 1,
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Micro-batches of the given rows for every rank: each row once, equal counts (``IDLE`` fills up).

    What a learner's ranks together compute; each lays out its own (``pack_rank``). Rows stay grouped by prompt, are cut
    into groups of ranks of about equal cost, then into micro-batches of at most ``micro_batch_tokens`` packed tokens a
    rank, and ``MAX_SLOTS_PER_TOKEN`` times as many slots (``row_plan``); a longer row goes alone. Ranks wait for each
    other in every micro-batch under ZeRO-3, so those of a group come in falling order of cost. The ranks of a group are
    neighbours, and share each micro-batch in slices.

    Args:
        micro_batch_tokens: tokens of one rank, so that a group packs ``sequence_parallel`` times as many.
        sequence_parallel: ranks of a group, a divisor of ``num_ranks``.

    Raises:
        ValueError: a row without a prompt or without a response.
    """
    plan = assign_rows(tokens, rows, micro_batch_tokens, num_ranks, sequence_parallel)
    groups = [[_build(tokens, micro, plan) for micro in micros] for micros in plan.groups]
    return tuple(
        tuple(slice_of(micro, place, sequence_parallel) for micro in micros)
        for micros in groups
        for place in range(sequence_parallel)
    )


def pack_rank(
    tokens: TokenRows,
    rows: Sequence[int] | Int64,
    *,
    rank: int,
    micro_batch_tokens: int,
    num_ranks: int,
    sequence_parallel: int = 1,
) -> tuple[MicroBatch, ...]:
    """``pack(...)[rank]``, without laying out what other ranks compute: each packs for itself."""
    plan = assign_rows(tokens, rows, micro_batch_tokens, num_ranks, sequence_parallel)
    group, place = divmod(rank, sequence_parallel)
    return tuple(slice_of(_build(tokens, micro, plan), place, sequence_parallel) for micro in plan.groups[group])


def slice_of(micro: MicroBatch, place: int, num_slices: int) -> MicroBatch:
    """One of equal runs of tokens of a whole micro-batch, with the actions that are predicted there.

    The end is filled up with tokens that continue its last row, so that no other row is there for attention to plan.
    """
    if num_slices == 1:
        return micro
    size = -(-micro.num_tokens // num_slices)
    first = place * size
    filler = np.arange(size * num_slices - micro.num_tokens, dtype=np.int32)
    position_ids = np.append(micro.position_ids, micro.position_ids[-1] + 1 + filler)
    token_ids = np.zeros(size, np.int32)
    real = micro.token_ids[first : first + size]
    token_ids[: len(real)] = real
    own = (micro.action_index >= first) & (micro.action_index < first + size)
    return MicroBatch(
        token_ids=token_ids,
        position_ids=position_ids[first : first + size],
        action_index=micro.action_index[own] - np.int32(first),
        labels=micro.labels[own],
        slots=micro.slots[own],
        num_padding=size - min(max(micro.num_tokens - micro.num_padding - first, 0), size),
        sequence_position_ids=position_ids,
    )


def gather_flat(flat_A: Float32, micro: MicroBatch) -> Float32:
    """The micro-batch's part [a] of a flat array [A]."""
    return flat_A[micro.slots]


def scatter_flat(parts: Iterable[tuple[Int64, Float32]], num_actions: int) -> Float32:
    """The flat array [A] of parts [a] and their ``MicroBatch.slots`` [a]; the inverse of ``gather_flat``.

    Raises:
        ValueError: parts that do not cover every action exactly once.
    """
    flat = np.zeros(num_actions, np.float32)
    covered = np.zeros(num_actions, np.bool_)
    num_given = 0
    for slots, part in parts:
        flat[slots] = part
        covered[slots] = True
        num_given += len(slots)
    num_covered = int(covered.sum())
    if not num_given == num_covered == num_actions:
        raise ValueError(
            f"{num_actions - num_covered} of {num_actions} action tokens are in no micro-batch and "
            f"{num_given - num_covered} in one more than theirs; pass every micro-batch of a packing exactly once."
        )
    return flat


def _build(tokens: TokenRows, rows: list[int], plan: RowPlan) -> MicroBatch:
    """Lay out one micro-batch as the module's header shows; ``IDLE`` of no rows."""
    if not rows:
        return IDLE
    token_ids: list[Int32] = []
    positions: list[Int32] = []
    index: list[Int64] = []
    labels: list[Int32] = []
    slots: list[Int64] = []
    length = 0
    document_start = 0
    previous: int | None = None
    for row in rows:
        prompt, response = tokens.prompts[row], tokens.responses[row]
        first = 0
        if plan.prompt_of[row] == previous:
            first = len(prompt)
        else:
            document_start = length
            token_ids.append(prompt)
        token_ids.append(response[:-1])
        end = len(prompt) + len(response) - 1
        positions.append(np.arange(first, end, dtype=np.int32))
        # The first action is predicted by the prompt's last token, the others by this row's own response tokens.
        own = length + len(prompt) - first + np.arange(len(response) - 1)
        index.append(np.concatenate([[document_start + len(prompt) - 1], own]))
        labels.append(response)
        slots.append(plan.starts_B[row] + np.arange(len(response)))
        length += end - first
        previous = plan.prompt_of[row]
    return MicroBatch(
        token_ids=np.concatenate(token_ids).astype(np.int32, copy=False),
        position_ids=np.concatenate(positions),
        action_index=np.concatenate(index).astype(np.int32),
        labels=np.concatenate(labels).astype(np.int32, copy=False),
        slots=np.concatenate(slots),
    )
