"""The tables of the paper, from our own records: 1 (levels), 2 (self-consistency), 5 (message sets), 8 (two rounds).

Each is written as Markdown, for readers, and as CSV with one number a cell, for programs. Accuracies are pass@1 in
percent with 95% intervals over problems; TTC is generated tokens per answer, all rounds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pacore_rl.evaluation.benchmark_results import BenchmarkResult, ConditionResult
from pacore_rl.evaluation.conditions import Condition
from pacore_rl.evaluation.configurations import SelfConsistencyPoint
from pacore_rl.evaluation.statistics import Estimate
from pacore_rl.evaluation.training_runs import TrainingRun
from pacore_rl.synthesis.levels import LEVELS

MISSING = "–"
NUMBERS = ("accuracy", "low", "high", "ttc_tokens", "num_problems")
"""The numeric columns of the CSV files; accuracy and its interval are shares in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """One table, in both forms."""

    name: str
    """Of its files, without the suffix."""
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    csv_header: tuple[str, ...]
    csv_rows: tuple[tuple[str | float | int, ...], ...]

    def markdown(self) -> str:
        """Title, table and note."""
        lines = [f"### {self.title}", "", _line(self.header), "|---|" + "--:|" * (len(self.header) - 1)]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", self.note, ""])

    def csv(self) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.csv_header)
        writer.writerows(self.csv_rows)
        return stream.getvalue()


def benchmark_tables(results: Sequence[BenchmarkResult], model: str) -> tuple[PaperTable, ...]:
    """Tables 1, 2 and 8, the comparison at equal TTC and the details, those for which there are records."""
    found = (
        levels_table(results, model),
        self_consistency_table(results, model),
        equal_ttc_table(results, model),
        two_rounds_table(results, model),
        details_table(results, model),
    )
    return tuple(table for table in found if table is not None)


def levels_table(results: Sequence[BenchmarkResult], model: str) -> PaperTable | None:
    """Table 1: solo answers, then every K vector, of every benchmark."""
    return _by_condition(
        results,
        name="table1",
        title=f"Table 1. Accuracy and test-time compute of {model}",
        wanted=lambda one: one.method == "rounds" and one.compacted and not one.is_sequential,
        with_solo=True,
    )


def two_rounds_table(results: Sequence[BenchmarkResult], model: str) -> PaperTable | None:
    """Table 8: K vectors of two rounds and more."""
    return _by_condition(
        results,
        name="table8",
        title=f"Table 8. More rounds of {model}",
        wanted=lambda condition: (
            condition.compacted and len(condition.configuration) > 1 and not condition.is_sequential
        ),
        with_solo=False,
    )


def self_consistency_table(results: Sequence[BenchmarkResult], model: str) -> PaperTable | None:
    """Table 2: the vote of k solo answers."""
    voted = [result for result in results if result.self_consistency]
    sizes = sorted({point.k for result in voted for point in result.self_consistency})
    if not sizes:
        return None
    rows: list[tuple[str, ...]] = []
    numbers: list[tuple[str | float | int, ...]] = []
    for result in voted:
        points = {point.k: point for point in result.self_consistency}
        rows.append(
            (
                result.title,
                accuracy_cell(result.solo, result.solo_tokens.mean),
                *(_point_cell(points.get(k)) for k in sizes),
            )
        )
        numbers.append((result.name, 1, *_numbers(result.solo, result.solo_tokens.mean)))
        numbers += [(result.name, k, *_numbers(point.accuracy, point.ttc_tokens)) for k, point in points.items()]
    return PaperTable(
        name="table2",
        title=f"Table 2. Self-consistency of {model}",
        note=f"Votes are redrawn from a pool of {_sizes(voted)} solo answers per problem; ties earn their expected "
        "credit, answers that cannot be parsed abstain, equal answers vote together.",
        header=("benchmark", "one answer", *(f"@{k}" for k in sizes)),
        rows=tuple(rows),
        csv_header=("benchmark", "k", *NUMBERS),
        csv_rows=tuple(numbers),
    )


def equal_ttc_table(results: Sequence[BenchmarkResult], model: str) -> PaperTable | None:
    """Each K vector beside what the same test-time compute buys otherwise."""
    rows: list[tuple[str, ...]] = []
    numbers: list[tuple[str | float | int, ...]] = []
    for result in results:
        for run in result.conditions:
            for label, key, accuracy, ttc in _spendings(run):
                margin = run.equal_ttc.minus.get(key) if run.equal_ttc else None
                rows.append((result.title, label, accuracy_cell(accuracy, ttc), _points(margin)))
                differs = () if margin is None else (margin.mean, margin.low, margin.high)
                numbers.append(
                    (result.name, run.condition.key, key, *_numbers(accuracy, ttc), *(differs or ("", "", "")))
                )
    if not rows:
        return None
    return PaperTable(
        name="equal_ttc",
        title=f"At equal test-time compute: {model}",
        note="The last column is PaCoRe minus the baseline in percentage points, paired by problem. The best single "
        "answer is chosen by the ground truth: a bound on every way of choosing one of k.",
        header=("benchmark", "", "accuracy (TTC)", "PaCoRe minus it"),
        rows=tuple(rows),
        csv_header=("benchmark", "condition", "spent_on", *NUMBERS, "minus", "minus_low", "minus_high"),
        csv_rows=tuple(numbers),
    )


def details_table(results: Sequence[BenchmarkResult], model: str) -> PaperTable | None:
    """Everything else that is counted of every condition: pass@k, emergent correctness, cross-checking words."""
    runs = [(result, run) for result in results for run in result.conditions]
    sizes = sorted({k for _, run in runs for k in run.pass_at} - {1})
    columns: list[tuple[str, Callable[[ConditionResult], Estimate | None], float]] = [
        ("pass@1", lambda run: run.accuracy, 100),
        *((f"pass@{k}", lambda run, k=k: run.pass_at.get(k), 100) for k in sizes),
        ("emergent correct", lambda run: run.emergent_correct, 100),
        ("cross-check words", lambda run: run.cross_check_words, 1),
        ("in any case", lambda run: run.cross_check_words_any_case, 1),
        ("truncated", lambda run: run.truncated, 100),
    ]
    if not runs:
        return None
    rows: list[tuple[str, ...]] = []
    numbers: list[tuple[str | float | int, ...]] = []
    for result, run in runs:
        values = [(pick(run), scale) for _, pick, scale in columns]
        cells = (MISSING if value is None else f"{scale * value.mean:.1f}" for value, scale in values)
        rows.append((result.title, run.condition.label, *cells))
        means = ("" if value is None else value.mean for value, _ in values)
        numbers.append((result.name, run.condition.key, *means, run.num_samples, run.num_failed))
    names = tuple(name for name, _, _ in columns)
    return PaperTable(
        name="details",
        title=f"Details of {model}",
        note="Percent, but for cross-checking words, which are counted per closing trajectory. Emergent correct: right "
        "among the runs whose messages were all wrong.",
        header=("benchmark", "", *names),
        rows=tuple(rows),
        csv_header=("benchmark", "condition", *(name.replace(" ", "_") for name in names), "num_samples", "num_failed"),
        csv_rows=tuple(numbers),
    )


def message_set_table(runs: Sequence[TrainingRun]) -> PaperTable | None:
    """Table 5: what training runs with different message sets came to."""
    known = [run for run in runs if run.rows]
    if not known:
        return None
    columns = (
        ("train reward", "reward/mean"),
        ("synthesis", "synthesis/accuracy"),
        ("emergent correct", "synthesis/emergent_correct"),
        ("held-out synthesis", "heldout/synthesis"),
        ("held-out vote", "heldout/majority_vote"),
    )
    rows: list[tuple[str, ...]] = []
    numbers: list[tuple[str | float | int, ...]] = []
    for run in known:
        values = [run.final(key) for _, key in columns]
        shown = [MISSING if value is None else f"{100 * value:.1f}" for value in values]
        rows.append((f"{run.message_sets} ({run.name})", f"{run.num_steps}", *shown))
        numbers.append(
            (run.name, run.message_sets, run.num_steps, *("" if value is None else value for value in values))
        )
    return PaperTable(
        name="table5",
        title="Table 5. Sizes of the message sets in training",
        note="Percent. Training metrics: the mean of the last tenth of the steps; held-out ones: the last evaluation.",
        header=("message sets", "steps", *(label for label, _ in columns)),
        rows=tuple(rows),
        csv_header=("run", "message_sets", "steps", *(key for _, key in columns)),
        csv_rows=tuple(numbers),
    )


def accuracy_cell(accuracy: Estimate, ttc_tokens: float) -> str:
    """``92.5 [90.1, 94.4] (908k)``."""
    interval = f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"
    return f"{100 * accuracy.mean:.1f} {interval} ({tokens_text(ttc_tokens)})"


def tokens_text(tokens: float) -> str:
    """``908k`` from a thousand on, as the paper writes it; ``1.7k`` below ten thousand."""
    if tokens < 1000:
        return f"{tokens:.0f}"
    return f"{tokens / 1000:.1f}k" if tokens < 10_000 else f"{tokens / 1000:,.0f}k"


def _by_condition(
    results: Sequence[BenchmarkResult],
    *,
    name: str,
    title: str,
    wanted: Callable[[Condition], bool],
    with_solo: bool,
) -> PaperTable | None:
    """A row for each condition, a column for each benchmark."""
    runs = {
        result.name: {run.condition: run for run in result.conditions if wanted(run.condition)} for result in results
    }
    conditions = sorted({one for by_condition in runs.values() for one in by_condition}, key=_order)
    if not conditions:
        return None
    solo = ("one answer", *(accuracy_cell(result.solo, result.solo_tokens.mean) for result in results))
    rows: list[tuple[str, ...]] = [solo] if with_solo else []
    numbers: list[tuple[str | float | int, ...]] = []
    if with_solo:
        numbers += [(result.name, "solo", *_numbers(result.solo, result.solo_tokens.mean)) for result in results]
    for condition in conditions:
        cells: list[str] = []
        for result in results:
            run = runs[result.name].get(condition)
            cells.append(MISSING if run is None else accuracy_cell(run.accuracy, run.ttc_tokens.mean))
            if run is not None:
                numbers.append((result.name, condition.key, *_numbers(run.accuracy, run.ttc_tokens.mean)))
        rows.append((condition.label, *cells))
    samples = "; ".join(
        f"{result.title}: {len(result.problem_ids)} problems, "
        f"{'/'.join(dict.fromkeys(str(run.num_samples) for run in runs[result.name].values()))} runs each"
        for result in results
        if runs[result.name]
    )
    return PaperTable(
        name=name,
        title=title,
        note=f"pass@1 in percent [95% interval over problems] (generated tokens per answer). {samples}.",
        header=("", *(result.title for result in results)),
        rows=tuple(rows),
        csv_header=("benchmark", "condition", *NUMBERS),
        csv_rows=tuple(numbers),
    )


def _order(condition: Condition) -> tuple[int, int, tuple[int, ...]]:
    """The paper's levels first, then by trajectories."""
    levels: list[tuple[int, ...]] = list(LEVELS.values())
    place = levels.index(condition.configuration) if condition.configuration in levels else len(levels)
    return place, condition.num_trajectories, condition.configuration


def _spendings(run: ConditionResult) -> Iterable[tuple[str, str, Estimate, float]]:
    """Label, key, accuracy and TTC of a K vector and of what it is compared with; nothing where it is not compared."""
    if run.equal_ttc is None:
        return
    yield f"**PaCoRe {run.condition.label}**", "pacore", run.accuracy, run.ttc_tokens.mean
    beside = run.equal_ttc
    if beside.self_consistency is not None:
        point = beside.self_consistency
        yield f"self-consistency @{point.k}", "self_consistency", point.accuracy, point.ttc_tokens
    if beside.best_single is not None:
        point = beside.best_single
        yield f"best single of {point.k} (by the ground truth)", "best_single", point.accuracy, point.ttc_tokens
    for other in beside.others:
        key = "sequential" if other.condition.is_sequential else "aggregation"
        yield other.condition.label, key, other.accuracy, other.ttc_tokens.mean


def _point_cell(point: SelfConsistencyPoint | None) -> str:
    return MISSING if point is None else accuracy_cell(point.accuracy, point.ttc_tokens)


def _points(margin: Estimate | None) -> str:
    if margin is None:
        return ""
    return f"{100 * margin.mean:+.1f} [{100 * margin.low:+.1f}, {100 * margin.high:+.1f}]"


def _numbers(accuracy: Estimate, ttc_tokens: float) -> tuple[float | int, ...]:
    return accuracy.mean, accuracy.low, accuracy.high, ttc_tokens, accuracy.num_problems


def _sizes(results: Sequence[BenchmarkResult]) -> str:
    return "/".join(dict.fromkeys(str(result.pool_size) for result in results))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
