"""``pacore-rl export``: a run's weights for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, say_done


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the model.", show_default="RUN/export/step_NNNNNN")
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Checkpoint of this step.", show_default="the newest")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint with the highest held-out synthesis accuracy.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a checkpoint as a plain Hugging Face folder that vllm serve loads, with a model card made from the run.

    Weights in safetensors, tokenizer, chat template, generation settings, the run's rope settings (YaRN); README.md
    with recipe, data, metrics and curves.

    Example: [cyan]pacore-rl export runs/quickstart --out models/quickstart[/]

    Next: [cyan]vllm serve models/quickstart[/]
    """
    with guard(debug=debug) as outputs:
        if best and step is not None:
            raise ValueError(f"--best and --step {step} were given; choose one of the two.")
        from pacore_rl.export.folder import export_run

        folder, checkpoint = export_run(run, out, which="best" if best else "newest" if step is None else step)
        outputs.add(folder)
        Console().print(f"The weights of step {checkpoint.step}.", highlight=False)
        say_done(folder, f"vllm serve {folder}")
