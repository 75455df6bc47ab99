"""What an evaluation on benchmarks comes to, as records; ``benchmark_metrics`` counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pacore_rl.evaluation.conditions import Condition
from pacore_rl.evaluation.configurations import SelfConsistencyPoint
from pacore_rl.evaluation.statistics import Estimate

Values = tuple[float | None, ...]
"""[P], one value for each problem in order; None where it is undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionResult:
    """One condition on one benchmark."""

    condition: Condition
    accuracy: Estimate
    """pass@1."""
    ttc_tokens: Estimate
    """Generated tokens of all trajectories of an answer."""
    pass_at: Mapping[int, Estimate]
    """k: unbiased pass@k."""
    emergent_correct: Estimate | None
    """Share of right answers where every message shown was wrong; None where there is no such run."""
    cross_check_words: Estimate
    cross_check_words_any_case: Estimate
    """Cross-checking words per closing trajectory, as spelled in the paper and in any case."""
    truncated: Estimate
    """Share of answers that ran into their budget."""
    num_samples: int
    """Runs of a problem that count, at least."""
    num_failed: int
    num_missing: int
    """Runs that an unfinished evaluation has not made yet."""
    by_problem: Values
    equal_ttc: EqualTTC | None = None
    """The baselines of the same cost; None for the baselines themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualTTC:
    """What the test-time compute of a condition buys otherwise."""

    num_trajectories: int
    """k: solo answers of the same cost, to the nearest whole one."""
    self_consistency: SelfConsistencyPoint | None
    best_single: SelfConsistencyPoint | None
    """The best of k solo answers, chosen by the ground truth: pass@k, which no way of choosing exceeds."""
    others: tuple[ConditionResult, ...]
    """Sequential and recursive aggregation."""
    minus: Mapping[str, Estimate]
    """The condition's accuracy minus that of each, paired by problem; by the baseline's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """One benchmark."""

    name: str
    title: str
    problem_ids: tuple[str, ...]
    solo: Estimate
    """pass@1 of solo answers, over the whole pool."""
    solo_tokens: Estimate
    solo_pass_at: Mapping[int, Estimate]
    majority_vote: Estimate | None
    """Of the whole pool; None where answers can't be voted on."""
    self_consistency: tuple[SelfConsistencyPoint, ...]
    """At ``vote_sizes``, those above the pool left out; () where answers can't be voted on."""
    conditions: tuple[ConditionResult, ...]
    """K vectors, sequential and uncompacted runs; not the baselines, which are beside each."""
    pool_size: int
    """Solo answers of a problem that count, at least."""
    num_failed_solo: int
    num_failed_runs: int
    """Of all conditions, baselines and ``failed_conditions`` included, each once."""
    num_missing_runs: int
    """Of all conditions, likewise; those of a condition that has not been begun too."""
    failed_conditions: Mapping[Condition, int]
    """Conditions all of whose runs failed, which have no result: how many those are."""
