"""What a finished quickstart leaves: its table, its pictures and a summary."""

from __future__ import annotations

import json
from pathlib import Path

from pacore_rl.checkpoints.manifest import step_folders
from pacore_rl.config import Config
from pacore_rl.evaluation.figures import plot_controls, plot_scaling
from pacore_rl.evaluation.report import EvaluationReport
from pacore_rl.evaluation.table import markdown_table, rich_table
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.curves import plot_curves
from pacore_rl.reporting.terminal import console

LONG = "Chains of 8 to 10 numbers, never trained on"


def write_report(
    config: Config, before: dict[str, EvaluationReport], after: dict[str, EvaluationReport], *, seconds: float | None
) -> None:
    """The table, the pictures, what to try next, and last ``summary.json``, which says that the quickstart is finished.

    Args:
        seconds: that it took; None where it was cut off in between.
    """
    folder = config.run_dir
    for name, title in (("held_out", "Held-out problems"), ("long", LONG)):
        console.print(rich_table(before[name], after[name], title=title, compact=console.width < 130))
    plot_scaling(before["held_out"], after["held_out"], folder / "scaling.png")
    scaling_long = folder / "scaling_long.png"
    plot_scaling(before["long"], after["long"], scaling_long, title=f"{LONG}: PaCoRe and self-consistency")
    plot_controls(before["held_out"], after["held_out"], folder / "controls.png")
    plot_curves(folder / "metrics.jsonl", folder / "curves.png")
    summary = {
        "seed": config.run.seed,
        "seconds": None if seconds is None else round(seconds, 1),
        "before": before["held_out"].to_dict(),
        "after": after["held_out"].to_dict(),
        "long_before": before["long"].to_dict(),
        "long_after": after["long"].to_dict(),
    }
    tables = [
        f"## Held-out problems\n\n{markdown_table(before['held_out'], after['held_out'])}",
        f"## Chains of 8 to 10 numbers\n\n{markdown_table(before['long'], after['long'])}",
    ]
    write(folder / "table.md", "\n\n".join(tables) + "\n")
    write(folder / "summary.json", json.dumps(summary, indent=1))
    console.print(
        f"Wrote {folder}/summary.json, table.md, scaling.png, scaling_long.png, controls.png, curves.png and the "
        f"checkpoints.\nLook into it: [cyan]pacore-rl report {folder}[/]\n"
        f"Next, ten more steps from where this ended: [cyan]pacore-rl train {folder}/recipe.yaml "
        f"run.name={config.run.name}_more trainer.steps=10 "
        f"model.path={step_folders(folder / 'checkpoints')[0]}/actor[/]",
        soft_wrap=True,
    )


def write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
