"""How many tokens a step has, and how many of them a rank computes at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pacore_rl.config import Config, LearnerConfig

MAX_MASK_ELEMENTS = 2**24
"""Rows with a larger mask are computed whole (``engine.document_attention``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Lengths of the prompts and responses of a step, in tokens."""

    mean_prompt: int
    longest_prompt: int
    response: int
    """Of every response: a plan takes the longest."""
    window: int
    """``model.context_window_tokens``, which no row exceeds."""
    measured: bool
    """The prompts are those of the run's data; else they are assumed."""

    @property
    def longest_row(self) -> int:
        """Of a row: the longest prompt and response, or the window where they exceed it."""
        return min(self.longest_prompt + self.response, self.window)


def assumed_workload(config: Config, *, prompt_tokens: int | None = None) -> Workload:
    """Prompts of ``prompt_tokens``, else of an assumed length, and responses as long as they may be.

    Without messages (plain RLVR) a prompt is taken to have 1,024 tokens; with them, a quarter of the window.
    """
    window = config.model.context_window_tokens
    if prompt_tokens is None:
        assumed = window // 4 if config.synthesis.max_messages else 1024
        prompt_tokens = min(assumed, window - config.sampling.answer_reserve_tokens)
    if not 0 < prompt_tokens < window:
        raise ValueError(
            f"--prompt-tokens {prompt_tokens} was given; it must be above 0 and leave room for a response in "
            f"model.context_window_tokens={window}."
        )
    response = min(config.sampling.max_response_tokens, window - prompt_tokens)
    return Workload(
        mean_prompt=prompt_tokens, longest_prompt=prompt_tokens, response=response, window=window, measured=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One rank's largest forward pass (``ppo.batch.pack``), its share of each row under sequence parallelism."""

    tokens: int
    """Packed tokens."""
    rows: int
    """Whole rows that the group packs together."""
    query_slots: int
    key_slots: int
    """Row slots in attention: a prompt that rows share is computed once and laid out in every row."""
    mask_elements: int = 0
    """Queries x keys of the rows that attention computes under a mask: branches, on CPUs."""


def packed(config: Config, learner: LearnerConfig, work: Workload, *, minibatches: int, cpu: bool) -> Packed:
    """The largest micro-batch of a rank: rows that share prompts until the budget is full; a longer row goes alone.

    A group of S sequence-parallel ranks packs S budgets and gives each rank 1/S of the tokens.
    """
    parallel = learner.sequence_parallel
    rows_in_reach = max(1, config.ppo.rows_per_step // (learner.num_ranks // parallel * minibatches))
    # Mini-batches shuffle the rows before they are cut, which parts the responses of a problem.
    sharing = max(1, min(config.ppo.responses_per_problem // minibatches, rows_in_reach))
    per_row = work.response - 1 + work.mean_prompt / sharing
    rows = max(1, min(rows_in_reach, int(learner.micro_batch_tokens * parallel / max(per_row, 1))))
    longest = work.longest_row
    if rows == 1 or longest >= rows * per_row:
        share = math.ceil(longest / parallel)
        return Packed(tokens=share, rows=1, query_slots=share, key_slots=share)
    tokens, length = math.ceil(rows * per_row), work.mean_prompt + work.response - 1
    masked = cpu and sharing > 1 and rows * (work.response - 1) * length <= MAX_MASK_ELEMENTS
    return Packed(
        tokens=math.ceil(tokens / parallel),
        rows=rows,
        query_slots=math.ceil((tokens if masked else rows * length) / parallel),
        key_slots=math.ceil(rows * length / parallel),
        mask_elements=rows * (work.response - 1) * length if masked else 0,
    )
