"""``pacore-rl report``: what a folder of results shows, as something to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, say_done


def report(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder of a training run.")],
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="PATH/report.html")] = None,
    debug: Debug = False,
) -> None:
    """Write a run as one HTML file, which needs no network: charts, and samples to read with their verdicts.

    Example: [cyan]pacore-rl report runs/quickstart[/]

    Next: open the file in a browser; while a run goes on, [cyan]pacore-rl watch RUN[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.reporting.run_data import is_run

        if is_run(path):
            from pacore_rl.reporting.run_report import write_report

            page = out or path / "report.html"
            outputs.add(page)
            write_report(path, page)
            return say_done(page, f"open it in a browser; pacore-rl export {path}")
        raise ValueError(
            f"{path} is not a folder that can be reported on: it holds no metrics.jsonl. Give the folder of a run, as "
            "`pacore-rl train` and `pacore-rl quickstart` name it when they end."
        )
