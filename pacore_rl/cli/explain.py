"""``pacore-rl train --explain``: every setting, its value, its default and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pacore_rl.recipes import load_config, origins
from pacore_rl.settings import Setting, plain, sections, settings, values_of


def explain(recipe: Path | None, overrides: Sequence[str], console: Console) -> None:
    """Print the configuration tree; with a recipe, what it sets differently and where, too."""
    values = values_of(load_config(recipe, overrides)) if recipe else {}
    where = origins(recipe, overrides) if recipe else {}
    titles = sections()
    section = ""
    for setting in settings():
        if setting.key.partition(".")[0] != section:
            section = setting.key.partition(".")[0]
            console.print(
                Text(f"\n{section}", style="bold cyan").append(f"  {titles[section]}", style="italic not bold")
            )
        console.print(_entry(setting, values, where.get(setting.key)), soft_wrap=not console.is_terminal)
    console.print("\nSet any of them in a recipe, or on the command line: pacore-rl train RECIPE trainer.steps=10")


def _entry(setting: Setting, values: Mapping[str, Any], where: str | None) -> Text:
    entry = Text("  ").append(setting.key, style="bold")
    if setting.key in values:
        entry.append(f" = {plain(values[setting.key])}", style="green")
    entry.append(f"  [{setting.kind}] default {setting.default}", style="dim")
    if where:
        entry.append(f"  set in {where}", style="yellow")
    return entry.append(f"\n      {setting.doc}") if setting.doc else entry
