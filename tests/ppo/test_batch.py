"""Packing: every action once, prompts shared, budgets kept, ranks balanced and in step."""

from __future__ import annotations

import numpy as np
import pytest
from batches import make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pacore_rl.ppo.batch import (
    IDLE,
    count_tokens,
    gather_flat,
    pack,
    pack_rank,
    scatter_flat,
    slice_of,
    split_rows,
)
from pacore_rl.ppo.row_plan import MAX_SLOTS_PER_TOKEN
from pacore_rl.types import TokenRows


def test_layout_of_the_header_example() -> None:
    batch = make_rows([([1, 2, 3], [24, 25, 26]), ([1, 2, 3], [21, 22]), ([4], [23, 19])])
    ((micro,),) = pack(batch, range(3), micro_batch_tokens=100, num_ranks=1)
    assert micro.token_ids.tolist() == [1, 2, 3, 24, 25, 21, 4, 23]
    assert micro.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    assert micro.action_index.tolist() == [2, 3, 4, 2, 5, 6, 7]
    assert micro.labels.tolist() == [24, 25, 26, 21, 22, 23, 19]
    assert micro.slots.tolist() == list(range(7))


def test_slices_of_the_header_example() -> None:
    batch = make_rows([([1, 2, 3], [24, 25, 26]), ([1, 2, 3], [21, 22]), ([4], [23, 19])])
    (first,), (second,) = pack(batch, range(3), micro_batch_tokens=4, num_ranks=2, sequence_parallel=2)
    assert (first.token_ids.tolist(), second.token_ids.tolist()) == ([1, 2, 3, 24], [25, 21, 4, 23])
    assert (first.position_ids.tolist(), second.position_ids.tolist()) == ([0, 1, 2, 3], [4, 3, 0, 1])
    assert (first.action_index.tolist(), second.action_index.tolist()) == ([2, 3, 2], [0, 1, 2, 3])
    assert (first.labels.tolist(), second.labels.tolist()) == ([24, 25, 21], [26, 22, 23, 19])
    assert (first.slots.tolist(), second.slots.tolist()) == ([0, 1, 3], [2, 4, 5, 6])
    for part in (first, second):
        assert part.sequence_position_ids is not None
        assert part.sequence_position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]


def test_padding_is_counted() -> None:
    batch = make_rows([([1, 2], [5, 6, 7, 8])])  # 5 packed tokens
    whole = pack(batch, [0], micro_batch_tokens=9, num_ranks=1)[0][0]
    parts = [slice_of(whole, place, 4) for place in range(4)]
    assert [part.position_ids.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [part.num_padding for part in parts] == [0, 0, 1, 2]
    assert [part.num_actions for part in parts] == [1, 2, 1, 0]
    assert [slice_of(IDLE, place, 2).num_padding for place in range(2)] == [1, 1]
    assert count_tokens([*parts, IDLE]).padding_share == 4 / 9


def test_realistic_lengths_are_hardly_padded() -> None:
    """An iteration of 4 problems x 16 responses, up to the context window, on 4 groups of 8 ranks."""
    rng = np.random.default_rng(0)
    rows = [
        ([p + 1] * 12_000, [9] * int(np.clip(rng.lognormal(9.5, 0.8), 1, 119_000))) for p in range(4) for _ in range(16)
    ]
    per_rank = pack(make_rows(rows), range(64), micro_batch_tokens=16_384, num_ranks=32, sequence_parallel=8)
    tokens = count_tokens([micro for micros in per_rank for micro in micros])
    assert tokens.computed > 1_000_000
    assert tokens.padding_share < 0.01


def test_budget_restarts_a_document_with_its_prompt() -> None:
    batch = make_rows([([1, 2, 3], [9, 9, 9])] * 3)
    ((first, second),) = pack(batch, range(3), micro_batch_tokens=7, num_ranks=1)
    assert first.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert second.position_ids.tolist() == [0, 1, 2, 3, 4]
    assert second.slots.tolist() == [6, 7, 8]


def test_short_responses_to_a_long_prompt_are_laid_out_a_few_at_a_time() -> None:
    """320 + 64 x 4 tokens are within 640, but 64 rows of 324 are 32 times as many slots: 8 times are allowed."""
    batch = make_rows([([1] * 320, [9] * 5)] * 64)
    ((*micros,),) = pack(batch, range(64), micro_batch_tokens=640, num_ranks=1)
    rows = [micro.num_actions // 5 for micro in micros]
    assert rows == [15, 15, 15, 15, 4] and 15 * 324 <= MAX_SLOTS_PER_TOKEN * 640 < 16 * 324
    assert [micro.num_tokens for micro in micros] == [320 + 4 * num for num in rows]
    shared = pack(batch, range(64), micro_batch_tokens=320, num_ranks=2, sequence_parallel=2)
    assert [len(own) for own in shared] == [5, 5], "a group has the slots of all its ranks"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=24),
    budget=st.integers(1, 40),
    num_groups=st.integers(1, 3),
    shared_by=st.sampled_from([1, 2, 4]),
)
def test_every_action_once_within_budget(
    rows: list[tuple[int, int]], budget: int, num_groups: int, shared_by: int
) -> None:
    prompts = [[7], [1, 2, 3], [1, 2, 3, 4], [5] * 12]
    batch = make_rows([(prompts[p], list(range(20, 20 + n))) for p, n in rows])
    per_rank = pack(
        batch,
        range(len(rows)),
        micro_batch_tokens=budget,
        num_ranks=num_groups * shared_by,
        sequence_parallel=shared_by,
    )
    assert len({len(micros) for micros in per_rank}) == 1
    flat = np.random.default_rng(0).random(batch.num_actions).astype(np.float32)
    micros = [micro for rank in per_rank for micro in rank]
    np.testing.assert_array_equal(
        scatter_flat([(m.slots, gather_flat(flat, m)) for m in micros], batch.num_actions), flat
    )
    responses = np.concatenate(batch.responses)
    for micro in micros:
        np.testing.assert_array_equal(responses[micro.slots], micro.labels)
        rows_here = {int(np.searchsorted(np.cumsum(batch.response_lengths_B), slot, "right")) for slot in micro.slots}
        laid_out = sum(len(batch.prompts[row]) + len(batch.responses[row]) - 1 for row in rows_here)
        assert micro.num_tokens <= budget or len(rows_here) <= 1
        assert laid_out <= MAX_SLOTS_PER_TOKEN * budget * shared_by or len(rows_here) <= 1
    for group in range(0, len(per_rank), shared_by):
        for together in zip(*per_rank[group : group + shared_by], strict=True):
            assert len({micro.num_tokens for micro in together}) == 1


@pytest.mark.parametrize(("num_ranks", "shared_by"), [(1, 1), (3, 1), (4, 2), (4, 4)])
def test_a_rank_packs_for_itself_what_all_would_be_given(num_ranks: int, shared_by: int) -> None:
    """Also where rows share the arrays of their prompts, as those of a step do, and not only the tokens."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 250, n, dtype=np.int32) for n in (5, 60, 23)]
    apart = make_rows([(prompts[p], rng.integers(3, 250, int(rng.integers(1, 30)))) for p in rng.integers(0, 3, 20)])
    shared = TokenRows(
        prompts=tuple(next(p for p in prompts if np.array_equal(p, prompt)) for prompt in apart.prompts),
        responses=apart.responses,
    )
    layout = {"micro_batch_tokens": 50, "num_ranks": num_ranks, "sequence_parallel": shared_by}
    rows = rng.permutation(20)[:17]
    everyones = pack(apart, rows, **layout)
    assert len(everyones) == num_ranks
    for rank, expected in enumerate(everyones):
        own = pack_rank(shared, rows, rank=rank, **layout)
        assert len(own) == len(expected)
        for mine, theirs in zip(own, expected, strict=True):
            assert mine.num_padding == theirs.num_padding
            for name in ("token_ids", "position_ids", "action_index", "labels", "slots", "sequence_position_ids"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


def test_ranks_get_equal_cost() -> None:
    rng = np.random.default_rng(0)
    batch = make_rows([([p + 1] * 30, [9] * int(rng.integers(5, 200))) for p in range(8) for _ in range(16)])
    per_rank = pack(batch, range(128), micro_batch_tokens=1000, num_ranks=4)
    tokens = [sum(micro.num_tokens for micro in micros if micro is not IDLE) for micros in per_rank]
    assert max(tokens) - min(tokens) < 400


def test_micro_batches_of_like_cost_meet() -> None:
    batch = make_rows([([p + 1] * 3, [9] * n) for p, n in enumerate([10, 60, 20, 60, 10, 20])])
    per_rank = pack(batch, range(6), micro_batch_tokens=1, num_ranks=2)
    assert [[micro.num_tokens for micro in micros] for micros in per_rank] == [[62, 22, 12], [62, 22, 12]]


def test_split_is_seeded_and_complete() -> None:
    parts = split_rows(10, 3, seed=(0, 5))
    assert sorted(np.concatenate(parts).tolist()) == list(range(10))
    assert [len(part) for part in parts] == [4, 3, 3]
    assert all((a == b).all() for a, b in zip(parts, split_rows(10, 3, seed=(0, 5)), strict=True))
    assert any((a != b).any() for a, b in zip(parts, split_rows(10, 3, seed=(0, 6)), strict=True))
    assert split_rows(4, 1, seed=(0, 1))[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="cannot be split into 5 mini-batches"):
        split_rows(4, 5, seed=(0,))


def test_rows_without_a_response_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has a prompt of 2 tokens and a response of 0"):
        pack(make_rows([([1], [2]), ([1, 2], [])]), range(2), micro_batch_tokens=10, num_ranks=1)


def test_missing_micro_batches_are_noticed() -> None:
    batch = make_rows([([1], [2, 3]), ([4], [5])])
    ((first, _),) = pack(batch, range(2), micro_batch_tokens=1, num_ranks=1)
    with pytest.raises(ValueError, match="1 of 3 action tokens are in no micro-batch"):
        scatter_flat([(first.slots, np.zeros(2, np.float32))], 3)
    with pytest.raises(ValueError, match="1 of 3 action tokens are in no micro-batch and 2 in one more"):
        scatter_flat([(first.slots, np.zeros(2, np.float32))] * 2, 3)
