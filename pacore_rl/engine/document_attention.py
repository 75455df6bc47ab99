"""Attention over packed documents: tokens see their own document, and a branch sees the prefix that it continues.

``position_ids`` say it all (see ``pacore_rl.ppo.batch``): back to 0, a document begins; back to p > 0, a branch
begins that continues the document's first p tokens. transformers' sdpa path needs a mask of size tokens x tokens to see
this, and under sequence parallelism drops the mask, so that documents would silently attend to each other. Here each
row (a document, or a branch with its prefix) is laid out by itself: rows of similar length side by side, padded on the
right, where causality needs no mask. Runs wherever sdpa runs, CPUs included.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

DOCUMENT_ATTENTION = "pacore_documents"

MAX_PADDING_SHARE = 0.25
"""A bucket's longest row exceeds its shortest by at most this share (and ``MAX_PADDING_TOKENS``)."""
MAX_PADDING_TOKENS = 32
MAX_MASK_ELEMENTS = 2**24
"""No mask is larger; rows beyond it are computed whole."""
LONG_ROW_TOKENS = 2**14
"""Where torch prefers cuDNN's attention (H100, H200, B200), that makes a plan for every new shape, in tens of
milliseconds for each of forward, recomputation and backward, and keeps it. From which length on that pays is an
estimate, not measured."""
LONG_ROW_STEPS = 32
"""Long rows have one of so many lengths between a power of two and the next, so that their plans are few."""
SHORT_ROW_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where n rows, padded to L slots each, take their tokens from, and where each token's gradient comes from."""

    shape: tuple[int, int]
    """(n, L)"""
    tokens: Tensor
    """[n * L], packed token of each slot; padding repeats token 0, which no real token sees."""
    own_tokens: Tensor
    """[m], packed tokens that are a row's own (not its prefix), each once."""
    own_slots: Tensor
    """[m], their slots."""
    prefixes: tuple[tuple[int, int, int, int], ...]
    """(first row, last row + 1, first token, prefix length) of neighbouring rows whose slots begin with one prefix."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bucket:
    """Rows of similar length that are computed together."""

    queries: Layout
    keys: Layout
    """The same object as ``queries`` unless there is a mask."""
    mask: Tensor | None
    """[n, 1, Lq, Lk], True where a query sees a key; None where queries and keys are whole rows, seen causally."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowPlan:
    """How T packed tokens are laid out as rows."""

    buckets: tuple[Bucket, ...]
    owner: Tensor
    """[T], the query slot (over all buckets, concatenated) that computes each packed token's output."""
    longest: int
    """Tokens of the longest row."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """R rows of a micro-batch, as arrays [R] of packed positions and lengths."""

    root: Int64
    """First token of the row's document."""
    prefix: Int64
    """Tokens it shares with the document; 0 for the document itself."""
    start: Int64
    """First token of its own."""
    own: Int64
    """Number of tokens of its own."""

    def __getitem__(self, rows: Int64) -> _Rows:
        return _Rows(root=self.root[rows], prefix=self.prefix[rows], start=self.start[rows], own=self.own[rows])


def plan_rows(position_ids: Int64, device: torch.device) -> RowPlan | None:
    """The rows behind ``position_ids`` [T]; None where they are one plain document that needs no padding.

    Raises:
        ValueError: positions that begin neither a document nor a branch of one.
    """
    start = np.flatnonzero(np.append(True, np.diff(position_ids) != 1))
    prefix = position_ids[start]
    root = np.maximum.accumulate(np.where(prefix == 0, start, -1))
    if prefix[0] != 0 or (prefix < 0).any() or (root + prefix > start).any():
        raise ValueError(
            f"position_ids begin with {position_ids[:8].tolist()}...: a micro-batch must begin at position 0, and a "
            "branch that starts at position p must follow a document of at least p tokens."
        )
    if len(start) == 1 and _row_slots(len(position_ids), device) == len(position_ids):
        return None
    rows = _Rows(root=root, prefix=prefix, start=start, own=np.append(start[1:], len(position_ids)) - start)
    owner = torch.empty(len(position_ids), dtype=torch.int64)
    buckets: list[Bucket] = []
    num_slots = 0
    for members in _similar(rows.prefix + rows.own, rows.prefix > 0):
        bucket = _bucket(rows[members], device)
        owner[bucket.queries.own_tokens.cpu()] = num_slots + bucket.queries.own_slots.cpu()
        buckets.append(bucket)
        num_slots += len(bucket.queries.tokens)
    longest = int((rows.prefix + rows.own).max())
    return RowPlan(buckets=tuple(buckets), owner=owner.to(device), longest=longest)


def _row_slots(length: int, device: torch.device) -> int:
    """What a row of ``length`` tokens is padded to (``LONG_ROW_STEPS``)."""
    if length < LONG_ROW_TOKENS or not _prefers_cudnn(device):
        return length
    step = max(1, 2 ** (length.bit_length() - 1) // LONG_ROW_STEPS)
    return -(-length // step) * step


@cache
def _prefers_cudnn(device: torch.device) -> bool:
    """Whether torch computes attention by cuDNN here: its ``check_prefer_cudnn_attention``."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in ((9, 0), (10, 0))


def _similar(lengths: Int64, is_branch: NDArray[np.bool_]) -> list[Int64]:
    """Row numbers in buckets of one kind and similar length; within a bucket in packed order."""
    order = np.lexsort((lengths, is_branch))
    buckets: list[Int64] = []
    first = 0
    for i in range(1, len(order) + 1):
        shortest = lengths[order[first]]
        limit = shortest + min(MAX_PADDING_TOKENS, MAX_PADDING_SHARE * shortest)
        if i == len(order) or lengths[order[i]] > limit or is_branch[order[i]] != is_branch[order[first]]:
            buckets.append(np.sort(order[first:i]))
            first = i
    return buckets


def _bucket(rows: _Rows, device: torch.device) -> Bucket:
    """Rows side by side; branches compute only their own tokens' queries where a mask can say what they see."""
    keys = _layout(rows, _row_slots(int((rows.prefix + rows.own).max()), device), device)
    num_rows, num_keys = keys.shape
    num_queries = int(rows.own.max())
    # CUDA's fused kernels take no mask with grouped heads: there whole rows are cheaper than what a mask falls back to.
    # ``ppo.batch.pack`` bounds them.
    if device.type != "cpu" or not keys.prefixes or num_rows * num_queries * num_keys > MAX_MASK_ELEMENTS:
        return Bucket(queries=keys, keys=keys, mask=None)
    alone = _Rows(root=rows.start, prefix=np.zeros_like(rows.prefix), start=rows.start, own=rows.own)
    last_seen = torch.from_numpy(rows.prefix[:, None] + np.arange(num_queries))
    mask = torch.arange(num_keys) <= last_seen[:, None, :, None]
    return Bucket(queries=_layout(alone, num_queries, device), keys=keys, mask=mask)


def _layout(rows: _Rows, num_slots: int, device: torch.device) -> Layout:
    """Rows laid out as prefix, own tokens, padding up to ``num_slots``."""
    lengths = rows.prefix + rows.own
    column = np.arange(num_slots)
    in_prefix = column < rows.prefix[:, None]
    tokens = column + np.where(in_prefix, rows.root[:, None], (rows.start - rows.prefix)[:, None])
    own = ~in_prefix & (column < lengths[:, None])
    padded = np.where(column < lengths[:, None], tokens, 0)
    return Layout(
        shape=(len(lengths), len(column)),
        tokens=torch.from_numpy(padded.reshape(-1)).to(device),
        own_tokens=torch.from_numpy(tokens[own]).to(device),
        own_slots=torch.from_numpy(np.flatnonzero(own)).to(device),
        prefixes=_shared_prefixes(rows),
    )


def _shared_prefixes(rows: _Rows) -> tuple[tuple[int, int, int, int], ...]:
    """Runs of neighbouring rows with one root and one prefix length; rows without a prefix are left out."""
    cuts = np.flatnonzero((np.diff(rows.root) != 0) | (np.diff(rows.prefix) != 0)) + 1
    edges = [0, *cuts.tolist(), len(rows.root)]
    return tuple((i, j, int(rows.root[i]), int(rows.prefix[i])) for i, j in pairwise(edges) if rows.prefix[i] > 0)


class _ToRows(torch.autograd.Function):
    """[T, ...] packed -> [n, L, ...]. Prefix tokens appear in several rows; their gradients add up.

    The backward copies and sums slices instead of scattering: fast on CPUs, and in a fixed order on GPUs.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.num_tokens = layout, len(packed)
        return packed.index_select(0, layout.tokens).unflatten(0, layout.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        rows = grads[0]
        packed = rows.new_zeros(ctx.num_tokens, *rows.shape[2:])
        packed.index_copy_(0, layout.own_tokens, rows.flatten(0, 1).index_select(0, layout.own_slots))
        for i, j, token, prefix in layout.prefixes:
            packed[token : token + prefix] += rows[i:j, :prefix].sum(dim=0)
        return packed, None


class _FromRows(torch.autograd.Function):
    """[all query slots, ...] -> [T, ...]: each packed token takes the output of the slot that owns it."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, owner: Tensor) -> Tensor:
        ctx.owner, ctx.shape = owner, slots.shape
        return slots.index_select(0, owner)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].new_zeros(ctx.shape).index_copy_(0, ctx.owner, grads[0]), None


def _to_rows(states: Tensor, layout: Layout) -> Tensor:
    """[1, heads, T, D] -> [n, heads, L, D]"""
    rows: Tensor = _ToRows.apply(states[0].transpose(0, 1), layout)  # pyright: ignore[reportAssignmentType]
    return rows.transpose(1, 2)


class _LatestPlan:
    """The plan of the latest ``position_ids``: every layer of a forward pass, and of its recomputation, asks again."""

    def __init__(self) -> None:
        self._key: weakref.ref[Tensor] | None = None
        self._version = -1
        self._plan: RowPlan | None = None

    def of(self, position_ids: Tensor) -> RowPlan | None:
        if self._key is None or self._key() is not position_ids or self._version != position_ids._version:
            self._plan = plan_rows(position_ids[0].cpu().numpy().astype(np.int64), position_ids.device)
            self._key, self._version = weakref.ref(position_ids), position_ids._version
        return self._plan


_latest = _LatestPlan()


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor,
    sequence_position_ids: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers' ``AttentionInterface``.

    Args:
        query: [1, heads, T, D].
        key, value: [1, key-value heads, T, D].
        attention_mask: None; positions carry the structure.
        position_ids: [1, T].
        sequence_position_ids: [1, T], the same numbers under sequence parallelism. There ``position_ids`` are gathered
            anew for every layer; this is one tensor all through a forward pass, whose plan is made once.

    Returns:
        [1, T, heads, D] and None (no attention weights).

    Raises:
        ValueError: a batch of several sequences, a mask, or a row longer than the model's sliding window.
    """
    if query.shape[0] != 1 or position_ids.shape[0] != 1 or attention_mask is not None:
        raise ValueError(
            f"{DOCUMENT_ATTENTION} takes one packed sequence and no mask, but got query {tuple(query.shape)}, "
            f"position_ids {tuple(position_ids.shape)} and a mask of {type(attention_mask).__name__}; pack the rows "
            "with pacore_rl.ppo.batch.pack and pass position_ids [1, T]."
        )
    plan = _latest.of(position_ids if sequence_position_ids is None else sequence_position_ids)
    longest = query.shape[2] if plan is None else plan.longest
    if sliding_window is not None and longest > sliding_window:
        raise ValueError(
            f"a row of {longest} tokens exceeds the model's sliding window of {sliding_window}, which "
            f"{DOCUMENT_ATTENTION} does not compute; train a model with full attention or shorten the rows."
        )
    if plan is None:
        return _attend(query, key, value, None, scaling, dropout).transpose(1, 2).contiguous(), None
    outputs = [
        _attend(
            _to_rows(query, bucket.queries),
            _to_rows(key, bucket.keys),
            _to_rows(value, bucket.keys),
            bucket.mask,
            scaling,
            dropout,
        )
        for bucket in plan.buckets
    ]
    slots = torch.cat([output.transpose(1, 2).flatten(0, 1) for output in outputs])
    packed: Tensor = _FromRows.apply(slots, plan.owner)  # pyright: ignore[reportAssignmentType]
    return packed.unsqueeze(0), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """sdpa with grouped key-value heads, causal unless there is a mask; [n, heads, L, D]."""
    with _kernels(query):
        return nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def _kernels(query: Tensor) -> AbstractContextManager[Any]:
    """Those that short rows may take where torch prefers cuDNN's; else any."""
    short = query.shape[2] < LONG_ROW_TOKENS and _prefers_cudnn(query.device)
    return sdpa_kernel(SHORT_ROW_KERNELS) if short else nullcontext()


def register() -> None:
    """Make ``attn_implementation="pacore_documents"`` known to transformers. Safe to call twice."""
    AttentionInterface.register(DOCUMENT_ATTENTION, document_attention)  # pyright: ignore[reportArgumentType]
