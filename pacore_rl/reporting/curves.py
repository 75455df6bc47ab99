"""Training curves as one picture, drawn from ``metrics.jsonl``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.reporting.panels import PANELS, Panel

_PALETTE = (
    "#1b6ca8",
    "#d1495b",
    "#2a9d62",
    "#e09f3e",
    "#7a5195",
    "#5c677d",
    "#3aa6b9",
    "#b36a2e",
    "#9bb53c",
    "#c06aa8",
    "#8a8f98",
)
_INK, _FAINT = "#22303c", "#d9dee3"
_COLUMNS = 3
_LEGEND_ROOM = 1.4
"""Height of a stacked panel as a multiple of its stack: the legend lies over the stack, not on it."""
_SMOOTH_FROM = 20
"""From this many points on, a running mean is drawn over the points."""


def plot_curves(metrics_jsonl: Path, out_png: Path) -> None:
    """Draw every panel that the run has numbers for, and write the picture in one piece.

    Raises ``ValueError`` where the file holds no metrics, ``FileNotFoundError`` where there is none.
    """
    rows = read_metrics(metrics_jsonl)
    panels = [panel for panel in PANELS if any(key in row for row in rows for key in panel.lines)]
    if not panels:
        raise ValueError(
            f"{metrics_jsonl} holds no metric that a curve shows; give the metrics.jsonl of a run that took a step."
        )
    num_rows = math.ceil(len(panels) / _COLUMNS)
    figure = Figure(figsize=(5.2 * _COLUMNS, 3.5 * num_rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, rows)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    _save(figure, out_png)


def _draw(axes: Axes, panel: Panel, rows: Sequence[Mapping[str, float]]) -> None:
    _dress(axes, panel)
    if panel.stacked:
        _draw_stack(axes, panel, rows)
    else:
        for (key, label), colour in zip(panel.lines.items(), _PALETTE, strict=False):
            _draw_line(axes, *_points(rows, key, positive=panel.logarithmic), label=label, colour=colour)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        columns, place = (4, "upper center") if panel.stacked else (1, "best")
        axes.legend(
            fontsize=8, labelcolor=_INK, framealpha=0.75, edgecolor="none", ncols=columns, loc=place, columnspacing=1.0
        )
    if panel.unit == "count":
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))


def _dress(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_INK)
    axes.set_ylabel(panel.unit if not panel.share else "", fontsize=9, color=_INK)
    axes.grid(True, color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8, colors=_INK, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)
    if panel.share:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    if panel.logarithmic:
        axes.set_yscale("log")


def _points(rows: Sequence[Mapping[str, float]], key: str, *, positive: bool) -> tuple[list[float], list[float]]:
    """Steps and values of a metric; what a scale cannot show (NaN, infinities, zero on a logarithmic one) is a gap."""
    pairs = [(row["step"], row[key]) for row in rows if key in row]
    steps = [step for step, _ in pairs]
    values = [value if math.isfinite(value) and (value > 0 or not positive) else math.nan for _, value in pairs]
    return steps, values


def _draw_line(axes: Axes, steps: list[float], values: list[float], *, label: str, colour: str) -> None:
    if not any(math.isfinite(value) for value in values):
        return
    if len(values) < _SMOOTH_FROM:
        axes.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)
        return
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(steps, running_mean(values, width=max(3, len(values) // 20)), color=colour, linewidth=1.9, label=label)


def _draw_stack(axes: Axes, panel: Panel, rows: Sequence[Mapping[str, float]]) -> None:
    measured = [row for row in rows if any(key in row for key in panel.lines)]
    steps = [row["step"] for row in measured]
    present = {key: label for key, label in panel.lines.items() if any(key in row for row in measured)}
    layers = [[row.get(key, 0.0) for row in measured] for key in present]
    axes.stackplot(steps, *layers, labels=list(present.values()), colors=_PALETTE[: len(present)], alpha=0.85)
    axes.set_ylim(0, _LEGEND_ROOM * max(map(sum, zip(*layers, strict=True))))


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last ``width`` values at each point, NaNs left out (NaN where nothing is left)."""
    means: list[float] = []
    for end in range(1, len(values) + 1):
        window = [value for value in values[max(0, end - width) : end] if math.isfinite(value)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def _save(figure: Figure, out_png: Path) -> None:
    out_png.parent.mkdir(parents=True, exist_ok=True)
    partial = out_png.with_name(f".{out_png.name}.partial")
    try:
        with partial.open("wb") as file:
            figure.savefig(file, format="png", dpi=130)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out_png)
    finally:
        partial.unlink(missing_ok=True)
