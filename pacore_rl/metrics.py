"""What a training step reports. Keys are ``area/name``; times are seconds, lengths are tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import psutil

from pacore_rl.evaluation.responses import CROSS_CHECK_ANY_CASE, CROSS_CHECK_STRICT
from pacore_rl.evaluation.voting import majority_vote
from pacore_rl.ppo.advantages import explained_variance
from pacore_rl.types import ExperienceBatch, Float32, MessageSet, Verdict

if TYPE_CHECKING:
    from pacore_rl.experience import Scored


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each phase of a step, and in the step as a whole."""

    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        entered = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - entered

    def metrics(self, *, generated_tokens: int) -> dict[str, float]:
        total = time.monotonic() - self.started
        return {f"time/{name}": seconds for name, seconds in self.seconds.items()} | {
            "time/step": total,
            "throughput/generated_tokens_per_second": generated_tokens / max(self.seconds["generate"], 1e-9),
            "throughput/step_tokens_per_second": generated_tokens / max(total, 1e-9),
        }


def scoring_failures(rows: Sequence[Scored]) -> int:
    """Scorings that failed through our fault; they are masked, never counted as wrong."""
    return sum(row.verdict.outcome.endswith("_error") for row in rows)


def step_metrics(
    *,
    rows: Sequence[Scored],
    batch: ExperienceBatch,
    log_probs_A: Float32,
    entropy_A: Float32,
    old_values_A: Float32,
    returns_A: Float32,
) -> dict[str, float]:
    """Everything the paper plots about training responses, and what shows that the step was sound."""
    return (
        reward_metrics(rows)
        | synthesis_metrics(rows)
        | response_metrics(rows)
        | policy_metrics(batch, log_probs_A, entropy_A)
        | {
            "critic/explained_variance": explained_variance(old_values_A, returns_A),
            "critic/value_mean": float(old_values_A.mean()),
        }
    )


def reward_metrics(rows: Sequence[Scored]) -> dict[str, float]:
    scored = [row for row in rows if not row.verdict.outcome.endswith("_error")]
    return {
        "reward/mean": mean([row.verdict.reward for row in scored]),
        "reward/unparsed_share": mean([row.verdict.outcome == "unparsed" for row in scored]),
        "reward/timeout_share": mean([row.verdict.outcome == "timeout" for row in scored]),
        "reward/failed_count": float(scoring_failures(rows)),
    }


def scoring_metrics(rows: Sequence[Scored], *, waited_seconds: float, num_workers: int) -> dict[str, float]:
    """How much of the scoring lay within the generation.

    ``scoring_work_seconds`` adds up what the step's verdicts took, each once however many rows share it (equal answers
    to a problem do). While the step waited for verdicts, after its last response had ended, ``num_workers`` workers did
    at most ``waited_seconds * num_workers`` of it: ``scoring_overlap`` is the least share that was done before. It is
    absent in a step whose verdicts took no time.
    """
    work_seconds = sum({id(row.verdict): row.verdict.seconds for row in rows}.values())
    metrics = {"throughput/scoring_work_seconds": work_seconds}
    if work_seconds:
        metrics["throughput/scoring_overlap"] = max(0.0, 1.0 - waited_seconds * num_workers / work_seconds)
    return metrics


def synthesis_metrics(rows: Sequence[Scored]) -> dict[str, float]:
    """Synthesis accuracy beside what the same messages give without it.

    ``emergent_correct``: share of right responses among those whose drawn messages were all wrong (Fig. 5).
    It is absent in a step without such a problem.
    """
    scored = [row for row in rows if not row.verdict.outcome.endswith("_error")]
    metrics = {"synthesis/accuracy": mean([row.verdict.correct for row in scored])}
    for key, words in (("cross_check_words", CROSS_CHECK_STRICT), ("cross_check_words_any_case", CROSS_CHECK_ANY_CASE)):
        metrics[f"synthesis/{key}"] = mean([len(words.findall(row.trajectory.text)) for row in rows])
    draws = list({id(row.draw): row.draw for row in rows}.values())
    drawn = [draw for draw in draws if scored_verdicts(draw.message_set)]
    if drawn:
        verdicts = [scored_verdicts(draw.message_set) for draw in drawn]
        metrics |= {
            "messages/accuracy": mean([mean([v.correct for v in set_]) for set_ in verdicts]),
            "messages/majority_vote": mean([majority_vote(set_) for set_ in verdicts]),
            "messages/count": mean([len(set_) for set_ in verdicts]),
            "messages/dropped": mean([draw.message_set.num_dropped for draw in drawn]),
        }
    all_wrong = [row.verdict.correct for row in scored if all_wrong_messages(row.draw.message_set)]
    return metrics | ({"synthesis/emergent_correct": mean(all_wrong)} if all_wrong else {})


def all_wrong_messages(message_set: MessageSet) -> bool:
    """Whether it has messages, and each was scored and is wrong."""
    verdicts = message_set.verdicts
    return (
        bool(verdicts)
        and len(scored_verdicts(message_set)) == len(verdicts)
        and not any(verdict.correct for verdict in verdicts)
    )


def scored_verdicts(message_set: MessageSet) -> list[Verdict]:
    """Verdicts of its messages, without those whose scoring failed: they say nothing of the message."""
    return [verdict for verdict in message_set.verdicts if not verdict.outcome.endswith("_error")]


def response_metrics(rows: Sequence[Scored]) -> dict[str, float]:
    finishes = [row.trajectory.finish for row in rows]
    lengths = [row.trajectory.response_ids.size for row in rows]
    shares = {
        f"response/{name}_share": mean([finish == name for finish in finishes])
        for name in ("stopped", "truncated", "empty", "overflow", "failed")
    }
    return shares | {
        "response/count": float(len(rows)),
        "response/distinct_count": float(len({(id(row.draw), row.sample) for row in rows})),
        "response/length_tokens": mean(lengths),
        "response/length_tokens_max": float(max(lengths)),
        "prompt/length_tokens": mean([row.draw.prompt_ids.size for row in rows]),
    }


def policy_metrics(batch: ExperienceBatch, log_probs_A: Float32, entropy_A: Float32) -> dict[str, float]:
    """How far the engine that sampled and the trainer that learns disagree about the same tokens.

    ``logprob_gap_kl`` estimates KL(engine || trainer) per token as the mean of r - 1 - log r with
    r = p_trainer / p_engine over sampled tokens, which is unbiased and never negative.
    """
    difference_A = (log_probs_A - batch.engine_logprobs_A).astype(np.float64)
    gap_A = np.abs(difference_A)
    return {
        "policy/entropy": float(entropy_A.mean()),
        "policy/logprob_gap_mean": float(gap_A.mean()),
        "policy/logprob_gap_max": float(gap_A.max()),
        "policy/logprob_gap_kl": float(np.mean(np.expm1(difference_A) - difference_A)),
        "policy/weight_version": float(batch.weight_versions_A.min()),
    }


def off_policy_metrics(batch: ExperienceBatch, log_probs_A: Float32, *, cap: float, version: int) -> dict[str, float]:
    """How old tokens are in the step that trains ``version``, and what truncated importance sampling makes of them."""
    log_ratio_A = log_probs_A.astype(np.float64) - batch.engine_logprobs_A
    return {
        "policy/importance_mean": float(np.exp(np.minimum(log_ratio_A, np.log(cap))).mean()),
        "policy/importance_capped_share": float((log_ratio_A > np.log(cap)).mean()),
        "policy/stale_token_share": float((batch.weight_versions_A < version).mean()),
        "policy/staleness_steps": float((version - batch.weight_versions_A).mean()),
    }


def in_area(area: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """What a learner says of itself, under its area; a key that names an area keeps it (``memory/actor_gib``)."""
    return {key if "/" in key else f"{area}/{key}": value for key, value in metrics.items()}


def memory_metrics() -> dict[str, float]:
    """Main memory in GiB: what is in use on the controller's host, and what the controller itself holds."""
    return {
        "memory/host_used_gib": psutil.virtual_memory().used / 1024**3,
        "memory/controller_gib": psutil.Process().memory_info().rss / 1024**3,
    }


def mean(values: Sequence[float] | Sequence[bool]) -> float:
    return float(np.mean(values))
