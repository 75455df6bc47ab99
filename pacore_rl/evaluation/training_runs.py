"""Training runs as the paper's tables and figures read them: their metrics, their message sets, their evaluations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pacore_rl.evaluation.benchmark_folder import MANIFEST, BenchmarkFolder
from pacore_rl.evaluation.benchmark_metrics import summarise
from pacore_rl.evaluation.benchmark_results import BenchmarkResult
from pacore_rl.recipes import load_config
from pacore_rl.reporting.jsonl import read_metrics

METRICS, RECIPE = "metrics.jsonl", "recipe.yaml"
_STEP = re.compile(r"step_0*(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One run."""

    name: str
    message_sets: str
    """``16`` or ``U(16, 24)``, as table 5 of the paper writes them."""
    rows: tuple[Mapping[str, float], ...]
    """The metrics of every step, in order."""
    evaluations: tuple[tuple[int, tuple[BenchmarkResult, ...]], ...]
    """(step of the checkpoint, its results), ascending: evaluations that lie in the run's folder."""

    @property
    def num_steps(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and finite values of a metric."""
        found = [(row["step"], row[key]) for row in self.rows if key in row and math.isfinite(row[key])]
        return [step for step, _ in found], [value for _, value in found]

    def final(self, key: str) -> float | None:
        """Where a metric ended: the mean of the last tenth of its values, of an evaluation's metric the last."""
        values = self.series(key)[1]
        last = 1 if key.startswith("heldout/") else math.ceil(len(values) / 10)
        return sum(values[-last:]) / last if values else None


def is_training_run(folder: Path) -> bool:
    """Whether the folder is that of a run that has taken a step."""
    return (folder / METRICS).is_file() and (folder / RECIPE).is_file()


def load_training_run(folder: Path) -> TrainingRun:
    """Raises ValueError where the folder is no run's, or its files cannot be read."""
    if not is_training_run(folder):
        raise ValueError(
            f"{folder} is not the folder of a training run; it must hold {METRICS} and {RECIPE}, as `pacore-rl train` "
            "writes them."
        )
    config = load_config(folder / RECIPE)
    low, high = config.synthesis.min_messages, config.synthesis.max_messages
    return TrainingRun(
        name=config.run.name,
        message_sets=str(low) if low == high else f"U({low}, {high})",
        rows=tuple(read_metrics(folder / METRICS)),
        evaluations=_evaluations(folder),
    )


def _evaluations(folder: Path) -> tuple[tuple[int, tuple[BenchmarkResult, ...]], ...]:
    """Those of one checkpoint together; of a benchmark that two of them ran, the last folder by name counts."""
    found: dict[int, dict[str, BenchmarkResult]] = {}
    for manifest in sorted(folder.rglob(MANIFEST)):
        evaluation = BenchmarkFolder(manifest.parent)
        steps: Sequence[str] = _STEP.findall(evaluation.manifest().model_path)
        if steps:
            results = {result.name: result for result in summarise(evaluation)}
            found.setdefault(int(steps[-1]), {}).update(results)
    return tuple((step, tuple(found[step].values())) for step in sorted(found))
