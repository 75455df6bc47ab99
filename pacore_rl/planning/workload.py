"""How many tokens a step has, and how many of them a rank computes at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pacore_rl.config import Config, LearnerConfig
from pacore_rl.ppo.row_plan import MAX_SLOTS_PER_TOKEN

MAX_MASK_ELEMENTS = 2**24
"""Rows with a larger mask are computed whole (``engine.document_attention``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Lengths of the prompts and responses of a step, in tokens."""

    mean_prompt: int
    longest_prompt: int
    response: int
    """Of the longest response; ``largest_passes`` looks at shorter ones too."""
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
    """One rank's pass over a micro-batch (``ppo.batch.pack``), its share of each row under sequence parallelism."""

    tokens: int
    """Packed tokens."""
    rows: int
    """Whole rows that the group packs together."""
    query_slots: int
    key_slots: int
    """Row slots in attention: a prompt that rows share is computed once and laid out in every row."""
    mask_elements: int = 0
    """Queries x keys of the rows that attention computes under a mask: branches, on CPUs."""


def largest_passes(
    config: Config, learner: LearnerConfig, work: Workload, *, minibatches: int, cpu: bool
) -> tuple[Packed, Packed]:
    """What may be a rank's largest micro-batch: of the longest responses, and of as many short ones as share a pass.

    The first has the most tokens where a row exceeds the budget, and the largest masks; the second the most slots,
    which short responses to a long prompt fill up to their bound. A group of S sequence-parallel ranks packs S budgets
    and gives each rank 1/S of the tokens.
    """
    groups = learner.num_ranks // learner.sequence_parallel
    rows_in_reach = math.ceil(config.ppo.rows_per_step / (groups * minibatches))
    step = _Step(
        work=work,
        budget=learner.micro_batch_tokens * learner.sequence_parallel,
        rows=rows_in_reach,
        sharing=max(1, min(config.ppo.responses_per_problem // minibatches, rows_in_reach)),
        most_sharing=min(config.ppo.responses_per_problem, rows_in_reach),
        ranks=learner.sequence_parallel,
        cpu=cpu,
    )
    return _longest_responses(step), _most_rows(step)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one group of ranks has to pack for an optimizer step."""

    work: Workload
    budget: int
    """Packed tokens of a micro-batch."""
    rows: int
    sharing: int
    """Rows that share a prompt: mini-batches shuffle rows before they are cut, which parts a problem's responses."""
    most_sharing: int
    """The same where the shuffle leaves them together."""
    ranks: int
    """Of the group."""
    cpu: bool

    @property
    def max_slots(self) -> int:
        return MAX_SLOTS_PER_TOKEN * self.budget


def _longest_responses(step: _Step) -> Packed:
    """Rows of mean prompts and the longest responses until the budget is full; a longer row goes alone."""
    work = step.work
    own, length = work.response - 1, min(work.mean_prompt + work.response, work.window) - 1
    per_row = own + work.mean_prompt / step.sharing
    rows = max(1, min(step.rows, int(step.budget / max(per_row, 1)), step.max_slots // max(length, 1)))
    if rows == 1 or work.longest_row >= rows * per_row:
        share = math.ceil(work.longest_row / step.ranks)
        return Packed(tokens=share, rows=1, query_slots=share, key_slots=share)
    return _pass(step, rows=rows, own=rows * own, tokens=math.ceil(rows * per_row), slots=rows * length)


def _most_rows(step: _Step) -> Packed:
    """As many rows as fit, one prompt the longest and the others of mean length, their responses filling what is left.

    However long the responses are, no micro-batch of these prompts has more tokens, or more slots.
    """
    work, mean, sharing = step.work, step.work.mean_prompt, step.most_sharing
    first = work.longest_prompt if work.longest_prompt <= step.budget else mean
    if first > step.budget:
        return _longest_responses(step)
    if step.max_slots <= sharing * first:
        rows = step.max_slots // first
    else:
        rows = sharing + (step.max_slots - sharing * first) // mean
    rows = min(rows, step.rows, sharing * (1 + (step.budget - first) // mean))
    laid_out = min(rows, sharing) * first + max(rows - sharing, 0) * mean
    most_own = min(rows * (work.response - 1), rows * work.window - laid_out)

    def prompts(sharing: int) -> int:
        return min(first + (math.ceil(rows / sharing) - 1) * mean, step.budget)

    own = min(most_own, step.budget - prompts(sharing))
    tokens = min(prompts(step.sharing) + most_own, step.budget)
    return _pass(step, rows=rows, own=own, tokens=tokens, slots=min(laid_out + own, step.max_slots))


def _pass(step: _Step, *, rows: int, own: int, tokens: int, slots: int) -> Packed:
    """A rank's share of a micro-batch; ``own``: response tokens, which alone are queries where there is a mask."""
    elements = own * slots // rows
    masked = step.cpu and step.sharing > 1 and elements <= MAX_MASK_ELEMENTS
    return Packed(
        tokens=math.ceil(tokens / step.ranks),
        rows=rows,
        query_slots=math.ceil((tokens if masked else slots) / step.ranks),
        key_slots=math.ceil(slots / step.ranks),
        mask_elements=elements if masked else 0,
    )
