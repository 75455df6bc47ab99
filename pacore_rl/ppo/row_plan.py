"""Which rank computes which rows, and in which micro-batch: decided from lengths and prompts alone.

rows -> grouped by prompt -> one part of about equal cost for each group of ranks -> micro-batches within a budget
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacore_rl.types import TokenRows

Int64 = NDArray[np.int64]

ATTENTION_PARITY_TOKENS = 49_152
"""Row length at which causal attention costs as much as everything else in a layer: about 12 x hidden size (4,096 in an
8B model), from 24 hidden^2 operations a token against 2 hidden x length. It only balances ranks; it changes no result.
"""
MAX_SLOTS_PER_TOKEN = 8
"""The rows of a micro-batch, shared prompts counted in each, have at most this many tokens for each of its budget: as
many slots attention lays out (``engine.document_attention``). An 8B model, its layers recomputed, takes 1/18 of a
token's memory for a slot, so a micro-batch that is full in both ways 1.4 times that of a row as long as the budget
(``planning.formulas``). Prompts with longer responses than 1/7 of them are packed as without this bound; shorter
responses take a few more micro-batches, each with the prompt again.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """Who computes what: decided from lengths and prompts alone, before any token is laid out."""

    groups: list[list[list[int]]]
    """Row numbers of each micro-batch of each group of ranks; as many micro-batches in each, the last ones empty."""
    prompt_of: dict[int, int]
    """Row number to a number of its prompt: rows with equal prompts share it."""
    starts_B: Int64
    """[B], where each row's actions begin in flat arrays [A]."""


def assign_rows(
    tokens: TokenRows,
    rows: Sequence[int] | Int64,
    micro_batch_tokens: int,
    num_ranks: int,
    sequence_parallel: int,
) -> RowPlan:
    """Who computes which of the given rows; arguments and errors as ``ppo.batch.pack`` says."""
    assert num_ranks % sequence_parallel == 0, (num_ranks, sequence_parallel)
    _check_rows(tokens, rows)
    prompt_of = _number_prompts(tokens, rows)
    num_groups = num_ranks // sequence_parallel
    groups = [
        _fill(tokens, part, prompt_of, micro_batch_tokens * sequence_parallel)
        for part in _balance(tokens, _group_by_prompt(prompt_of), prompt_of, num_groups)
    ]
    if num_groups > 1:
        for micros in groups:
            micros.sort(key=lambda rows: sum(_costs(tokens, rows, prompt_of)), reverse=True)
    longest = max(len(micros) for micros in groups)
    lengths_B = tokens.response_lengths_B
    return RowPlan(
        groups=[micros + [[]] * (longest - len(micros)) for micros in groups],
        prompt_of=prompt_of,
        starts_B=np.cumsum(lengths_B, dtype=np.int64) - lengths_B,
    )


def _check_rows(tokens: TokenRows, rows: Sequence[int] | Int64) -> None:
    for row in rows:
        prompt, response = len(tokens.prompts[row]), len(tokens.responses[row])
        if prompt < 1 or response < 1:
            raise ValueError(
                f"row {row} has a prompt of {prompt} tokens and a response of {response}; both must have at least one. "
                "Leave out rows without a response."
            )


def _number_prompts(tokens: TokenRows, rows: Sequence[int] | Int64) -> dict[int, int]:
    """Row number to the number of its prompt, in order of first appearance; equal prompts have one number."""
    number_of_content: dict[bytes, int] = {}
    number_of_array: dict[int, int] = {}  # most rows of a prompt share its array: hashed once
    prompt_of: dict[int, int] = {}
    for row in rows:
        prompt = tokens.prompts[row]
        if id(prompt) not in number_of_array:
            content = hashlib.blake2b(prompt.tobytes(), digest_size=16).digest()
            number_of_array[id(prompt)] = number_of_content.setdefault(content, len(number_of_content))
        prompt_of[int(row)] = number_of_array[id(prompt)]
    return prompt_of


def _group_by_prompt(prompt_of: dict[int, int]) -> list[int]:
    """Row numbers, those of one prompt side by side, prompts in order of first appearance."""
    return sorted(prompt_of, key=prompt_of.__getitem__)


def _new_tokens(tokens: TokenRows, row: int, shares_prompt: bool) -> int:
    """Packed tokens that a row adds: its response but the last token, and its prompt unless it is already there."""
    prompt = 0 if shares_prompt else len(tokens.prompts[row])
    return prompt + len(tokens.responses[row]) - 1


def _costs(tokens: TokenRows, ordered: list[int], prompt_of: dict[int, int]) -> list[float]:
    """Cost of each row in tokens: linear in the tokens that it adds, quadratic in its length for attention."""
    costs: list[float] = []
    previous: int | None = None
    for row in ordered:
        length = _new_tokens(tokens, row, shares_prompt=False) + 1
        costs.append(_new_tokens(tokens, row, prompt_of[row] == previous) + length**2 / ATTENTION_PARITY_TOKENS)
        previous = prompt_of[row]
    return costs


def _balance(tokens: TokenRows, ordered: list[int], prompt_of: dict[int, int], num_groups: int) -> list[list[int]]:
    """Cut the ordered rows into one consecutive part for each group of ranks, equal in cost to within a row."""
    costs = _costs(tokens, ordered, prompt_of)
    ends = np.cumsum(costs)
    middles = ends - np.asarray(costs) / 2
    groups = np.minimum((middles / ends[-1] * num_groups).astype(np.int64), num_groups - 1)
    parts: list[list[int]] = [[] for _ in range(num_groups)]
    for row, group in zip(ordered, groups, strict=True):
        parts[int(group)].append(row)
    return parts


def _fill(tokens: TokenRows, ordered: list[int], prompt_of: dict[int, int], micro_batch_tokens: int) -> list[list[int]]:
    """Cut one rank's rows into micro-batches within the budget of tokens, and of slots that attention lays out."""
    micros: list[list[int]] = []
    used = num_slots = 0
    max_slots = MAX_SLOTS_PER_TOKEN * micro_batch_tokens
    for row in ordered:
        shares = bool(micros) and prompt_of[micros[-1][-1]] == prompt_of[row]
        added, whole = _new_tokens(tokens, row, shares), _new_tokens(tokens, row, shares_prompt=False)
        if not micros or used + added > micro_batch_tokens or num_slots + whole > max_slots:
            micros.append([row])
            used = num_slots = whole
        else:
            micros[-1].append(row)
            used += added
            num_slots += whole
    return micros
