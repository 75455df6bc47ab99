"""``pacore-rl watch``: the report of a run that is under way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0: any that is free.")] = 8400,
    debug: Debug = False,
) -> None:
    """Serve the report of a run, to this machine only; it refreshes itself as steps end. Ctrl-C ends it.

    From another machine: [cyan]ssh -L 8400:127.0.0.1:8400 HOST[/], then the same address there.

    Example: [cyan]pacore-rl watch runs/quickstart[/]  Next: [cyan]pacore-rl report RUN[/], to keep it as a file
    """
    with guard(debug=debug):
        from pacore_rl.reporting.watch import check_folder, open_port, serve

        check_folder(run)
        with open_port(port) as listener:
            host, opened = listener.getsockname()
            Console().print(f"Watching {run} at http://{host}:{opened}/", soft_wrap=True, highlight=False)
            serve(run, listener)
