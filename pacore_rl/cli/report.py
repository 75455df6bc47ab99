"""``pacore-rl report``: what a folder of results shows, as something to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, say_done


def report(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The folder of a training run, or of an evaluation on benchmarks.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write.", show_default="PATH/report.html for a run, PATH/report for an evaluation"),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A training run whose curves belong to an evaluation's tables; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write what a folder of results shows; generates nothing.

    A run: one HTML file that needs no network, with charts, and samples to read with their verdicts.

    An evaluation: the paper's tables (1, 2, 5, 8) as Markdown and CSV, and figures (1, 3, 4, 5) as PNG and SVG. Table 5
    and Figures 3 and 5 need training runs: the one that holds the evaluation, or those of --run.

    Example: [cyan]pacore-rl report runs/quickstart[/], or [cyan]pacore-rl report runs/mine/benchmarks[/]

    Next: open report.html in a browser, or read report.md; while a run goes on, [cyan]pacore-rl watch RUN[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.evaluation.paper_report import is_evaluation, write_paper_report
        from pacore_rl.reporting.run_data import is_run

        if is_evaluation(path):
            folder = out or path / "report"
            outputs.add(folder)
            written = write_paper_report(path, folder, runs=run or ())
            return say_done(written.page, f"read it; tables as CSV and figures as SVG lie beside it, in {folder}")
        if is_run(path):
            from pacore_rl.reporting.run_report import write_report

            page = out or path / "report.html"
            outputs.add(page)
            write_report(path, page)
            return say_done(page, f"open it in a browser; then pacore-rl export {path}")
        raise ValueError(
            f"{path} is not a folder that can be reported on: it holds neither metrics.jsonl nor benchmarks.json. Give "
            "the folder of a run, or of an evaluation, as `pacore-rl train` and `pacore-rl evaluate RECIPE --benchmark "
            "NAME` name it when they end."
        )
