"""What people read of a step: a few problems with their messages, some responses to each, and every verdict.

A step of the paper has 1,024 responses of up to 131,072 tokens; these records are a bounded excerpt of it, chosen
without looking at rewards, so that shares seen in them are shares of the run.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pacore_rl.config import LoggingConfig
from pacore_rl.experience import Draw, Scored
from pacore_rl.synthesis.draws import draw_rng
from pacore_rl.types import Finish, Outcome, Problem, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledMessage:
    """One message of the set that a problem's responses saw."""

    text: str
    correct: bool
    outcome: Outcome
    answer: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledResponse:
    """One synthesis response and its verdict."""

    text: str
    finish: Finish
    num_tokens: int
    """Generated tokens."""
    weight_version: int
    """Of the weights that sampled its last token; -1 where it has none."""
    reward: float
    correct: bool
    outcome: Outcome
    answer: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One problem of a step with its messages and some of its responses."""

    step: int
    problem_id: str
    source: str
    reward_name: str
    question: str
    """What the model is asked: the last turn of the conversation."""
    ground_truth: str
    num_dropped_messages: int
    messages: tuple[SampledMessage, ...]
    """[K], in the order of the prompt."""
    responses: tuple[SampledResponse, ...]
    """The first few of the problem's responses."""
    num_responses: int
    """Of the problem in this step."""
    num_correct: int
    """Of those ``num_responses``."""
    mean_reward: float
    """Over those ``num_responses``; scorings that failed through our fault count as 0."""


def choose_samples(rows: Sequence[Scored], settings: LoggingConfig, *, seed: int, step: int) -> tuple[Sample, ...]:
    """The step's excerpt: ``settings.sample_problems_per_step`` problems, texts cut to ``sample_text_chars``.

    Half of the problems (rounded up) come first in one fixed order of all problems, the order of a hash of their ids:
    those are met again in later passes over the data. The others are drawn anew from (seed, step).
    """
    by_problem: dict[str, list[Scored]] = {}
    for row in rows:
        by_problem.setdefault(row.draw.problem.id, []).append(row)
    wanted = min(settings.sample_problems_per_step, len(by_problem))
    ordered = sorted(by_problem, key=lambda id: (zlib.crc32(id.encode()), id))
    followed, others = ordered[: (wanted + 1) // 2], ordered[(wanted + 1) // 2 :]
    drawn = draw_rng(seed, "samples", step).permutation(len(others))[: wanted - len(followed)]
    chosen = followed + [others[index] for index in sorted(drawn.tolist())]
    return tuple(_sample(by_problem[id], settings, step) for id in chosen)


def clip(text: str, limit_chars: int) -> str:
    """The text, or its first and last ``limit_chars / 2`` characters with a word on how many are between them."""
    if len(text) <= limit_chars:
        return text
    head = limit_chars // 2
    tail = limit_chars - head
    return f"{text[:head]}\n[... {len(text) - limit_chars:,} characters left out ...]\n{text[-tail:]}"


def _sample(rows: Sequence[Scored], settings: LoggingConfig, step: int) -> Sample:
    draw, limit = rows[0].draw, settings.sample_text_chars
    of_one_draw = [row for row in rows if row.draw is draw]
    return Sample(
        step=step,
        problem_id=draw.problem.id,
        source=draw.problem.source,
        reward_name=draw.problem.reward,
        question=clip(_question(draw.problem), limit),
        ground_truth=clip(draw.problem.ground_truth, limit),
        num_dropped_messages=draw.message_set.num_dropped,
        messages=tuple(_messages(draw, limit)),
        responses=tuple(_response(row, limit) for row in of_one_draw[: settings.sample_responses_per_problem]),
        num_responses=len(of_one_draw),
        num_correct=sum(row.verdict.correct for row in of_one_draw),
        mean_reward=sum(row.verdict.reward for row in of_one_draw) / len(of_one_draw),
    )


def _question(problem: Problem) -> str:
    return problem.conversation[-1].content


def _messages(draw: Draw, limit: int) -> list[SampledMessage]:
    return [
        SampledMessage(
            text=clip(text, limit),
            correct=verdict.correct,
            outcome=verdict.outcome,
            answer=verdict.answer,
            reason=verdict.reason,
        )
        for text, verdict in zip(draw.message_set.messages, draw.message_set.verdicts, strict=True)
    ]


def _response(row: Scored, limit: int) -> SampledResponse:
    trajectory, verdict = row.trajectory, _clipped(row.verdict, limit)
    return SampledResponse(
        text=clip(trajectory.text, limit),
        finish=trajectory.finish,
        num_tokens=trajectory.response_ids.size,
        weight_version=int(trajectory.weight_versions[-1]) if trajectory.weight_versions.size else -1,
        reward=verdict.reward,
        correct=verdict.correct,
        outcome=verdict.outcome,
        answer=verdict.answer,
        reason=verdict.reason,
    )


def _clipped(verdict: Verdict, limit: int) -> Verdict:
    answer = None if verdict.answer is None else clip(verdict.answer, limit)
    return replace(verdict, answer=answer, reason=clip(verdict.reason, limit))
