"""Histograms of accuracy, a panel for each stage: how hard the measured problems are, and which of them stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_curation.stages import StageReport
from pacore_rl.problems import write_atomically

_INK, _FAINT, _BAR = "#22303c", "#d9dee3", "#1b6ca8"


def plot_accuracies(path: Path, reports: Mapping[int, StageReport]) -> None:
    """Draw the histogram of each stage's report and write the picture in one piece."""
    figure = Figure(figsize=(5.4 * len(reports), 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(reports), squeeze=False)[0]
    for axes, report in zip(panels, reports.values(), strict=True):
        counts = report.histogram
        width = 1 / len(counts)
        axes.bar([(i + 0.5) * width for i in range(len(counts))], counts, width=0.9 * width, color=_BAR)
        name, _, measure = report.stage.partition(", by ")
        axes.set_title(
            f"{name.capitalize()}: {report.num_kept:,} kept", loc="left", fontsize=11, fontweight="bold", color=_INK
        )
        axes.set_xlabel(measure, fontsize=9, color=_INK)
        axes.set_ylabel("problems", fontsize=9, color=_INK)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, axis="y", color=_FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=_INK, length=0)
        lost = (report.num_never_right, report.num_too_easy, report.num_unscored)
        note = "{:,} never right, {:,} too easy, {:,} not measured".format(*lost)
        axes.text(0.99, 0.97, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=_INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_FAINT)

    def write(file: IO[bytes]) -> None:
        figure.savefig(file, format="png", dpi=130)

    write_atomically(path, write)
