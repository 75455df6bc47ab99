"""Settings of the evaluation on benchmarks (``pacore-rl evaluate``)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pacore_rl.config_base import Count, Positive, Section
from pacore_rl.synthesis.levels import check_configuration

Baseline = Literal["self_consistency", "best_single", "sequential", "aggregation"]


class BenchmarksConfig(Section):
    """Public benchmarks, as section 3 of the paper measures them. See docs/evaluation.md."""

    sets: dict[str, str | None] = Field(default_factory=dict[str, str | None])
    """Benchmark: its source, a path or a hub id, or null for the registered hub id; none: no benchmark is run."""
    configurations: tuple[tuple[Positive, ...], ...] = ((4,), (16,), (32, 4))
    """K vectors; the closing round of 1 is implied (Table 1: low, medium, high)."""
    samples_per_problem: Positive | None = None
    """Runs per problem and K vector; null: the paper's for each benchmark (64, 8 or 1)."""
    num_problems: Positive | None = None
    """The first so many problems of each benchmark; null: all."""
    pool_size: Positive = 512
    """Solo answers per problem: round 1 is drawn from them, and votes are counted on them (Tables 1 and 2)."""
    vote_sizes: tuple[Positive, ...] = (4, 16, 64, 256)
    """k of self-consistency @k (Table 2)."""
    redraws: Positive = 64
    """Redraws of each vote from the pool (Table 2)."""
    pass_at: tuple[Positive, ...] = (1, 2, 4, 8)
    """k of pass@k; those above the number of samples are left out."""
    baselines: tuple[Baseline, ...] = ("self_consistency", "best_single", "sequential", "aggregation")
    """What each K vector is compared with at equal test-time compute."""
    aggregation_population: Positive = 4
    """Recursive aggregation: candidates that are kept."""
    aggregation_group: Positive = 2
    """Recursive aggregation: candidates that each new one is made from."""
    sequential: tuple[Positive, ...] = ()
    """Further sequential runs [1, ..., 1], by their number of trajectories (Figure 4)."""
    uncompacted: tuple[tuple[Positive, ...], ...] = ()
    """K vectors to run without compaction too: whole trajectories as messages (Figure 4)."""
    instruction: str | None = None
    """Appended to every problem; null: the benchmark's own."""
    max_open_calls: Positive = 512
    """Calls open at a time, for each endpoint."""
    attempts_per_batch: Positive = 1024
    """Runs that share a batch on the engine; each batch is on disk before the next begins."""
    seed: Count = 0
    """Of draws and sampling."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for configuration in (*self.configurations, *self.uncompacted):
            check_configuration(configuration)
        if self.aggregation_group > self.aggregation_population:
            raise ValueError(
                f"evaluation.benchmarks.aggregation_group={self.aggregation_group} exceeds "
                f"aggregation_population={self.aggregation_population}; lower the first or raise the second."
            )
        widest = max((k[0] for k in self.configurations if k), default=0)
        if widest > self.pool_size:
            raise ValueError(
                f"evaluation.benchmarks.pool_size={self.pool_size} is less than the first round of {widest} samples "
                "that is drawn from it; raise it, or lower the round."
            )
        return self
