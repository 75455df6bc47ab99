"""Arguments and options that commands share, and how they read and end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (YAML), e.g. recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, e.g. trainer.steps=10 run.name=short."),
]
Debug = Annotated[
    bool, typer.Option("--debug", envvar="PACORE_RL_DEBUG", help="Show tracebacks of errors of the user's making too.")
]
Problems = Annotated[
    Path | None, typer.Option(help="Problems, JSON Lines or Parquet.", show_default="the recipe's data.problems")
]
Pool = Annotated[Path | None, typer.Option(help="Message pool of the problems.", show_default="the recipe's data.pool")]
ModelPath = Annotated[
    str | None, typer.Option("--model", help="A Hugging Face folder or hub id.", show_default="the recipe's model.path")
]


def given(option: Path | None, setting: Path | None, name: str | None, key: str) -> Path:
    """The option, or else the recipe's setting ``key``; ValueError where neither is given."""
    path = option or setting
    if path is None:
        pass_it = (
            f"pass {name} PATH, or set {key} in the recipe"
            if name
            else f"set {key}=PATH on the command line or in the recipe"
        )
        raise ValueError(f"{key} is not given, and this command needs it; {pass_it}.")
    return path


def existing(path: Path, name: str) -> Path:
    """The path itself; FileNotFoundError with what to do where it is no file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: {path} was given; it must be a file that exists (relative paths start at {Path.cwd()}). "
            "Check the path, or make the file with the step before (`pacore-rl --help` lists the steps)."
        )
    return path


def say_done(path: Path, following: str) -> None:
    """How a command ends: what it wrote, and the command to try next."""
    console = Console()
    console.print(f"[green]Done.[/] Written: {path}", soft_wrap=True, highlight=False)
    console.print(f"Next: {following}", soft_wrap=True, highlight=False, markup=False)
