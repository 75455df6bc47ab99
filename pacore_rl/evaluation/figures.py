"""Figures of an evaluation: accuracy against test-time compute (the paper's figure 1), synthesis and its controls.

Drawn through matplotlib's object interface on Agg: no display, no global state. The colours are Okabe and Ito's, which
stay apart for colour-blind readers; marker shapes and labels at the lines repeat what colour says.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from pacore_rl.evaluation.configurations import ConfigurationResult, ConfigurationsResult
from pacore_rl.evaluation.report import EvaluationReport
from pacore_rl.evaluation.statistics import Estimate
from pacore_rl.evaluation.table import configuration_name
from pacore_rl.problems import write_atomically

BLUE, VERMILION, GREY, INK = "#0072B2", "#D55E00", "#8A8F98", "#22262B"
DOTS_PER_INCH = 160
SCALING_TITLE = "Accuracy against test-time compute: PaCoRe and self-consistency"
ROOM_FOR_NAMES = 1.8
"""On the logarithmic axis, right of the last point: as a multiple of its tokens."""
HALO: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground="white")]
CONTROL_LABELS = {
    "message_accuracy": "message accuracy",
    "majority_vote": "majority vote\n(same messages)",
    "solo": "solo\n(no references)",
    "swapped": "swapped\nreferences",
    "synthesis": "synthesis",
}


def plot_scaling(before: EvaluationReport, after: EvaluationReport, path: Path, *, title: str | None = None) -> None:
    """Accuracy against TTC (log scale) of PaCoRe and of self-consistency: one panel before, one after training.

    Single-round configurations are joined; configurations of more rounds stand by themselves as diamonds, because they
    spend the same tokens differently. Bars and bands are 95% intervals over problems.

    Raises:
        ValueError: neither report has run configurations.
    """
    panels = [
        (name, report.configurations)
        for name, report in (("Before training", before), ("After training", after))
        if report.configurations is not None
    ]
    if not panels:
        raise ValueError("neither evaluation ran any K vector; set evaluation.configurations and evaluate again.")
    figure = Figure(figsize=(4.9 * len(panels) + 0.6, 4.4), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    top = max(estimate.high for _, result in panels for estimate in _all_accuracies(result))
    for axis, (name, result) in zip(axes, panels, strict=True):
        _scaling_panel(axis, result)
        axis.set_title(name, loc="left", fontsize=10.5, color=INK)
        axis.set_ylim(-0.07 * top, 1.12 * top)
    axes[0].set_ylabel("accuracy on held-out problems", fontsize=9.5, color=INK)
    figure.suptitle(title or SCALING_TITLE, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    num_problems = len(panels[-1][1].problem_ids)
    figure.supxlabel(
        f"test-time compute: generated tokens per answer (log scale)   ·   {num_problems} problems, 95% intervals",
        fontsize=9.5, color=INK,
    )  # fmt: skip
    save_figure(figure, path)


def plot_controls(before: EvaluationReport, after: EvaluationReport, path: Path, *, title: str | None = None) -> None:
    """Synthesis beside what it must beat: the messages, their vote, the model alone and with foreign references."""
    figure = Figure(figsize=(8.0, 4.3), dpi=DOTS_PER_INCH, layout="constrained")
    axis = figure.subplots()
    names = list(CONTROL_LABELS)
    for report, colour, offset, label in (
        (before, GREY, -0.19, "before training"),
        (after, BLUE, 0.19, "after training"),
    ):
        estimates: list[Estimate] = [getattr(report.held_out, name) for name in names]
        positions = [index + offset for index in range(len(names))]
        axis.bar(positions, [e.mean for e in estimates], width=0.36, color=colour, label=label, zorder=2)
        axis.errorbar(
            positions, [e.mean for e in estimates], yerr=bars(estimates), fmt="none", ecolor=INK,
            elinewidth=1, capsize=2.5, zorder=3,
        )  # fmt: skip
        for x, estimate in zip(positions, estimates, strict=True):
            axis.annotate(
                f"{100 * estimate.mean:.0f}", (x, estimate.high), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=9, color=INK,
            )  # fmt: skip
    axis.set_xticks(range(len(names)), [CONTROL_LABELS[name] for name in names], fontsize=9)
    dress(axis)
    axis.set_ylabel("accuracy on held-out problems", fontsize=9)
    axis.set_ylim(0, axis.get_ylim()[1] * 1.06)
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    num_problems = len(after.held_out.problem_ids)
    axis.set_title(
        title or f"Synthesis beside its controls ({num_problems} problems, 95% intervals)",
        loc="left", fontsize=12, fontweight="bold", color=INK,
    )  # fmt: skip
    save_figure(figure, path)


def _scaling_panel(axis: Axes, result: ConfigurationsResult) -> None:
    points = result.self_consistency
    tokens = [point.ttc_tokens for point in points]
    accuracies = [point.accuracy for point in points]
    axis.fill_between(
        tokens, [e.low for e in accuracies], [e.high for e in accuracies], color=VERMILION, alpha=0.15, lw=0
    )
    axis.plot(tokens, [e.mean for e in accuracies], color=VERMILION, marker="s", ms=3.5, lw=1.6)
    _label(axis, f"self-consistency, k = {points[0].k} to {points[-1].k}", tokens[0], accuracies[0], VERMILION)

    runs = sorted(result.configurations, key=lambda run: run.ttc_tokens.mean)
    single = [run for run in runs if len(run.configuration) == 1]
    axis.plot(
        [run.ttc_tokens.mean for run in single], [run.accuracy.mean for run in single], color=BLUE, lw=1.8, zorder=3
    )
    for run in runs:
        marker = "o" if len(run.configuration) == 1 else "D"
        axis.errorbar(
            run.ttc_tokens.mean, run.accuracy.mean, yerr=bars([run.accuracy]), fmt=marker, ms=6.5, color=BLUE,
            elinewidth=1.2, capsize=3, markeredgecolor="white", markeredgewidth=0.8, zorder=4,
        )  # fmt: skip
        _name_run(axis, run)
    axis.set_xscale("log")
    axis.margins(x=0.1)
    axis.set_xlim(right=ROOM_FOR_NAMES * max(run.ttc_tokens.mean for run in runs))
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    dress(axis)


def _name_run(axis: Axes, run: ConfigurationResult) -> None:
    """Write the K vector beside its point, clear of other points' bars: one round on the right, more on the left."""
    single = len(run.configuration) == 1
    text = axis.annotate(
        configuration_name(run.configuration), (run.ttc_tokens.mean, run.accuracy.mean),
        xytext=(6, 4) if single else (-6, 4), textcoords="offset points", ha="left" if single else "right",
        va="bottom", fontsize=9, color=BLUE, fontweight="bold", zorder=5,
    )  # fmt: skip
    text.set_path_effects(HALO)


def _label(axis: Axes, words: str, x: float, estimate: Estimate, colour: str) -> None:
    text = axis.annotate(
        words, (x, estimate.low), xytext=(0, -4), textcoords="offset points", ha="left", va="top",
        fontsize=9, color=colour,
    )  # fmt: skip
    text.set_path_effects(HALO)


def dress(axis: Axes) -> None:
    """The plain look of every panel whose vertical axis is a share."""
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(axis="y", color="#E4E6EA", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GREY)
    axis.tick_params(which="both", length=0, labelsize=9, colors=INK)


def bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths [2][N] of error bars below and above the means."""
    return [[e.mean - e.low for e in estimates], [e.high - e.mean for e in estimates]]


def _all_accuracies(result: ConfigurationsResult) -> list[Estimate]:
    return [run.accuracy for run in result.configurations] + [point.accuracy for point in result.self_consistency]


def short_count(value: float) -> str:
    """``1500`` as 1.5k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG, by the path's suffix; the file is complete or absent, and the same figure gives the same."""
    FigureCanvasAgg(figure)
    kind = path.suffix.removeprefix(".")
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, facecolor="white", metadata=metadata)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
