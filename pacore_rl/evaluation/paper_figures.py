"""The figures of the paper, from our own records: 1 and 4 (benchmarks), 3 and 5 (training), in PNG and SVG.

Colours, marks and intervals are those of ``figures``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pacore_rl.evaluation.benchmark_results import BenchmarkResult, ConditionResult
from pacore_rl.evaluation.figures import (
    BLUE,
    DOTS_PER_INCH,
    GREY,
    HALO,
    INK,
    VERMILION,
    bars,
    dress,
    save_figure,
    short_count,
)
from pacore_rl.evaluation.statistics import Estimate
from pacore_rl.evaluation.training_runs import TrainingRun
from pacore_rl.reporting.curves import running_mean

GREEN = "#009E73"
FORMATS = ("png", "svg")
_SHORT_K = 4
"""K vectors with more rounds are not written out at their points."""
_COLUMNS = 3


def write_figures(
    results: Sequence[BenchmarkResult], runs: Sequence[TrainingRun], model: str, out: Path
) -> tuple[str, ...]:
    """Draw every figure that there are records for, into ``out``; returns their names."""
    drawn = {
        "figure1": scaling_figure(results, model),
        "figure3": training_figure(runs),
        "figure4": ablation_figure(results, model),
        "figure5": emergence_figure(runs),
    }
    for name, figure in drawn.items():
        if figure is not None:
            for kind in FORMATS:
                save_figure(figure, out / f"{name}.{kind}")
    return tuple(name for name, figure in drawn.items() if figure is not None)


def scaling_figure(results: Sequence[BenchmarkResult], model: str) -> Figure | None:
    """Figure 1: accuracy against test-time compute, PaCoRe beside self-consistency, a panel for each benchmark."""
    shown = [result for result in results if _parallel(result)]
    if not shown:
        return None
    figure, axes = _grid(len(shown), f"Accuracy against test-time compute: {model}")
    for axis, result in zip(axes, shown, strict=True):
        solo = (result.solo_tokens.mean, result.solo)
        votes = [solo, *((point.ttc_tokens, point.accuracy) for point in result.self_consistency)]
        if len(votes) > 1:
            _curve(axis, votes, VERMILION, "s", "self-consistency")
        runs = _parallel(result)
        single = [run for run in runs if len(run.condition.configuration) == 1]
        _curve(axis, [solo, *map(_point, single)], BLUE, "o", "PaCoRe")
        deeper = [_point(run) for run in runs if len(run.condition.configuration) > 1]
        if deeper:
            _scatter(axis, deeper, BLUE, "D", "PaCoRe, more rounds")
        _name_points(axis, runs)
        _token_axis(axis)
        axis.set_title(result.title, loc="left", fontsize=10.5, color=INK)
    _legend(figure, axes)
    _label_grid(figure, "accuracy", "test-time compute: generated tokens per answer (log scale)")
    return figure


def ablation_figure(results: Sequence[BenchmarkResult], model: str) -> Figure | None:
    """Figure 4: parallel [N] against sequential [1, ..., 1], and with compaction against without it."""
    panels: list[tuple[BenchmarkResult, str, str, list[ConditionResult]]] = []
    for result in results:
        others = [*result.conditions, *(o for run in result.conditions if run.equal_ttc for o in run.equal_ttc.others)]
        sequential = list({run.condition: run for run in others if run.condition.is_sequential}.values())
        uncompacted = [run for run in result.conditions if not run.condition.compacted]
        panels += [(result, "parallel", "sequential", sequential)] if sequential else []
        panels += [(result, "with compaction", "without compaction", uncompacted)] if uncompacted else []
    panels = [panel for panel in panels if _single_round(panel[0])]
    if not panels:
        return None
    figure, axes = _grid(len(panels), f"Parallel or sequential, with or without compaction: {model}", columns=2)
    for axis, (result, ours, theirs, runs) in zip(axes, panels, strict=True):
        solo = (result.solo_tokens.mean, result.solo)
        _curve(axis, [solo, *map(_point, _single_round(result))], BLUE, "o", ours)
        _curve(axis, [solo, *map(_point, runs)], VERMILION, "s", theirs)
        _token_axis(axis)
        axis.set_title(result.title, loc="left", fontsize=10.5, color=INK)
        axis.legend(frameon=False, fontsize=8.5, loc="best", labelcolor=INK)
    _label_grid(figure, "accuracy", "test-time compute: generated tokens per answer (log scale)")
    return figure


def training_figure(runs: Sequence[TrainingRun]) -> Figure | None:
    """Figure 3: reward, response length and held-out accuracy over the steps, and benchmarks at the checkpoints."""
    known = [run for run in runs if run.rows]
    if not known:
        return None
    titles = list(
        dict.fromkeys(
            result.title for run in known for _, results in run.evaluations for result in results if _at_16(result)
        )
    )
    figure, axes = _grid(3 + len(titles), "Training")
    for axis, (title, key, share) in zip(
        axes,
        (
            ("Train reward", "reward/mean", True),
            ("Response length, tokens", "response/length_tokens", False),
            ("Held-out synthesis accuracy", "heldout/synthesis", True),
        ),
        strict=False,
    ):
        _series(axis, known, key, title, share=share)
    for axis, title in zip(axes[3:], titles, strict=True):
        for run, colour in zip(known, _colours(len(known)), strict=True):
            _checkpoints(axis, run, title, colour)
        _step_axis(axis, f"{title}, K=[16]", share=True)
        axis.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    _legend(figure, axes[:3])
    figure.supxlabel("step", fontsize=9.5, color=INK)
    return figure


def emergence_figure(runs: Sequence[TrainingRun]) -> Figure | None:
    """Figure 5: emergent correctness (right although every message was wrong) and cross-checking words."""
    panels = (
        ("Right where every message is wrong", "synthesis/emergent_correct", True),
        ("Cross-checking words per response", "synthesis/cross_check_words", False),
    )
    known = [run for run in runs if any(run.series(key)[0] for _, key, _ in panels)]
    if not known:
        return None
    figure, axes = _grid(len(panels), "Emergent correctness and cross-checking in training")
    for axis, (title, key, share) in zip(axes, panels, strict=True):
        _series(axis, known, key, title, share=share)
    _legend(figure, axes)
    figure.supxlabel("step", fontsize=9.5, color=INK)
    return figure


def _parallel(result: BenchmarkResult) -> list[ConditionResult]:
    found = [run for run in result.conditions if run.condition.compacted and not run.condition.is_sequential]
    return sorted(found, key=lambda run: run.ttc_tokens.mean)


def _single_round(result: BenchmarkResult) -> list[ConditionResult]:
    return [run for run in _parallel(result) if len(run.condition.configuration) == 1]


def _at_16(result: BenchmarkResult) -> ConditionResult | None:
    return next((run for run in _parallel(result) if run.condition.configuration == (16,)), None)


def _point(run: ConditionResult) -> tuple[float, Estimate]:
    return run.ttc_tokens.mean, run.accuracy


def _grid(num: int, title: str, *, columns: int = _COLUMNS) -> tuple[Figure, list[Axes]]:
    columns = min(num, columns)
    num_rows = -(-num // columns)
    figure = Figure(
        figsize=(4.3 * columns + 0.5, 3.5 * num_rows + 0.6),
        dpi=DOTS_PER_INCH,
        layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08),
    )
    axes = list(figure.subplots(num_rows, columns, squeeze=False).ravel())
    for axis in axes[num:]:
        axis.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    return figure, axes[:num]


def _label_grid(figure: Figure, vertical: str, horizontal: str) -> None:
    figure.supylabel(vertical, fontsize=9.5, color=INK)
    figure.supxlabel(f"{horizontal}   ·   95% intervals over problems", fontsize=9.5, color=INK)


def _curve(axis: Axes, points: Sequence[tuple[float, Estimate]], colour: str, marker: str, label: str) -> None:
    ordered = sorted(points, key=lambda point: point[0])
    axis.plot([x for x, _ in ordered], [e.mean for _, e in ordered], color=colour, lw=1.7, zorder=3)
    _scatter(axis, ordered, colour, marker, label)


def _scatter(axis: Axes, points: Sequence[tuple[float, Estimate]], colour: str, marker: str, label: str) -> None:
    axis.errorbar(
        [x for x, _ in points], [e.mean for _, e in points], yerr=bars([e for _, e in points]), fmt=marker, ms=5.5,
        color=colour, elinewidth=1.1, capsize=2.5, markeredgecolor="white", markeredgewidth=0.7, label=label, zorder=4,
    )  # fmt: skip


def _name_points(axis: Axes, runs: Sequence[ConditionResult]) -> None:
    """Write K vectors at their points: one round above on the left, more rounds in a list below on the right."""
    single = [run for run in runs if len(run.condition.configuration) == 1]
    for run in single:
        _name(axis, run, str(list(run.condition.configuration)), (-5, 5), "right", "bottom")
    deeper = [run for run in runs if 1 < len(run.condition.configuration) <= _SHORT_K]
    if deeper:  # they cost about the same, so that their names would overlap
        last = max(deeper, key=lambda run: run.ttc_tokens.mean)
        names = "\n".join(str(list(run.condition.configuration)) for run in deeper)
        _name(axis, last, names, (7, -5), "left", "top")


def _name(axis: Axes, run: ConditionResult, words: str, offset: tuple[int, int], ha: str, va: str) -> None:
    text = axis.annotate(
        words, (run.ttc_tokens.mean, run.accuracy.mean), xytext=offset, textcoords="offset points", ha=ha, va=va,
        fontsize=8.5, color=BLUE, zorder=5,
    )  # fmt: skip
    text.set_path_effects(HALO)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, above them."""
    found: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(found.values()), list(found), loc="outside upper right", ncols=len(found), frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip


def _token_axis(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.12)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    dress(axis)


def _step_axis(axis: Axes, title: str, *, share: bool) -> None:
    dress(axis)
    if not share:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value, 3))))
        axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_title(title, loc="left", fontsize=10.5, color=INK)


def _series(axis: Axes, runs: Sequence[TrainingRun], key: str, title: str, *, share: bool) -> None:
    """A metric of every run: its steps, faint, under their running mean."""
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        steps, values = run.series(key)
        if not steps:
            continue
        smoothed = running_mean(values, width=max(1, len(values) // 15))
        axis.plot(steps, values, color=colour, lw=0.8, alpha=0.3)
        axis.plot(steps, smoothed, color=colour, lw=1.8, label=f"{run.message_sets} messages")
    _step_axis(axis, title, share=share)


def _checkpoints(axis: Axes, run: TrainingRun, title: str, colour: str) -> None:
    """pass@1 and pass@8 of one benchmark at K=[16], at every checkpoint that was evaluated."""
    picks: tuple[tuple[str, str, Callable[[ConditionResult], Estimate | None]], ...] = (
        ("pass@1", "-", lambda result: result.accuracy),
        ("pass@8", "--", lambda result: result.pass_at.get(8)),
    )
    for label, line, pick in picks:
        found = [
            (step, estimate.mean)
            for step, results in run.evaluations
            for result in results
            if result.title == title and (at := _at_16(result)) and (estimate := pick(at))
        ]
        if found:
            steps, values = [step for step, _ in found], [value for _, value in found]
            axis.plot(steps, values, line, color=colour, marker="o", ms=4, lw=1.6, label=f"{label}, {run.name}")


def _colours(num: int) -> list[str]:
    palette = (BLUE, VERMILION, GREEN, "#CC79A7", "#56B4E9", GREY)
    return [palette[i % len(palette)] for i in range(num)]
