"""``pacore-rl report``: what a folder of results shows, as something to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, say_done


def report(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder of an evaluation on benchmarks.")],
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="PATH/report")] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A training run whose curves belong to an evaluation's tables; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the paper's tables (1, 2, 5, 8) and figures (1, 3, 4, 5) from an evaluation's records; generates nothing.

    Tables as Markdown and CSV, figures as PNG and SVG. Table 5 and Figures 3 and 5 need training runs: the one that
    holds the evaluation, or those of --run.

    Example: [cyan]pacore-rl report runs/mine/benchmarks --out runs/mine/paper[/]

    Next: read report.md in the folder it wrote.
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.evaluation.paper_report import is_evaluation, write_paper_report

        if is_evaluation(path):
            folder = out or path / "report"
            outputs.add(folder)
            written = write_paper_report(path, folder, runs=run or ())
            return say_done(written.page, f"read it; tables as CSV and figures as SVG lie beside it, in {folder}")
        raise ValueError(
            f"{path} is not a folder that can be reported on: it holds no benchmarks.json. Give the folder of an "
            "evaluation, as `pacore-rl evaluate RECIPE --benchmark NAME` names it when it ends."
        )
