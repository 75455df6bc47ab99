"""From a checkpoint of a run to a plain Hugging Face folder.

    RUN/checkpoints/step_000250/actor  ->  OUT/
        *.safetensors, config.json with the run's rope settings, tokenizer, chat template    as they are
        generation_config.json                                                              with the run's sampling
        README.md, curves.png, recipe.yaml                                                  written from the run

Only named kinds of files are copied: nothing pickled, and nothing that was left in the folder by chance.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pacore_rl.checkpoints.files import replace_folder, sync
from pacore_rl.checkpoints.manifest import FILE_NAME, open_checkpoint
from pacore_rl.config import Config
from pacore_rl.export.model_card import model_card
from pacore_rl.export.portable import portable_recipe
from pacore_rl.recipes import load_config
from pacore_rl.reporting.curves import plot_curves
from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.trainer import SCORE

COPIED = ("*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.jinja", "vocab.*", "merges.txt", "*_map.json")
_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights that a run saved."""

    step: int
    actor: Path
    """Hugging Face folder of the policy."""
    has_manifest: bool
    """Whether its run vouches that it is whole."""


Which = int | Literal["newest", "best"]
"""A step, the newest checkpoint, or the one with the best score."""


def export_run(run: Path, out: Path | None = None, *, which: Which = "newest") -> tuple[Path, Checkpoint]:
    """Write the weights of a run's checkpoint as a Hugging Face folder, in one piece.

    Args:
        out: by default ``export/step_NNNNNN`` in the run's folder; an earlier export there is replaced.

    Returns:
        The folder, and the checkpoint it was made from.

    Raises:
        ValueError: the run has no such checkpoint or a damaged one, no recipe, or weights that are not safetensors; or
            ``out`` holds something that is no export.
    """
    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{run} holds no recipe.yaml; give the folder of a run, as `pacore-rl train` names it.")
    config = load_config(run / "recipe.yaml")
    rows = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    checkpoint = choose(checkpoints(run), rows, which, run)
    if checkpoint.has_manifest:
        open_checkpoint(checkpoint.actor.parent)
    out = out or run / "export" / checkpoint.actor.parent.name
    if out.exists() and not _may_be_replaced(out):
        raise ValueError(
            f"--out {out} exists and is no exported model (which holds config.json and the run's recipe.yaml); give a "
            "new folder."
        )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    copy_model(checkpoint.actor, partial)
    write_json(partial / "config.json", with_rope(read_json(checkpoint.actor / "config.json"), config))
    write_json(partial / "generation_config.json", generation_config(checkpoint.actor, config))
    recipe = portable_recipe(config)
    (partial / "recipe.yaml").write_text(recipe, encoding="utf-8")
    if rows:
        plot_curves(run / "metrics.jsonl", partial / "curves.png")
    card = model_card(config, rows, step=checkpoint.step, name=out.name, recipe=recipe)
    (partial / "README.md").write_text(card, encoding="utf-8")
    for file in partial.iterdir():
        sync(file)
    replace_folder(partial, out)
    return out, checkpoint


def _may_be_replaced(out: Path) -> bool:
    """Whether a path holds nothing but what an earlier export wrote: a checkpoint or another model has no recipe."""
    if not out.is_dir():
        return False
    return not any(out.iterdir()) or all((out / name).is_file() for name in ("config.json", "recipe.yaml"))


def checkpoints(run: Path) -> tuple[Checkpoint, ...]:
    """The checkpoints of a run that hold a policy, the oldest first; those with a manifest only, where any has one."""
    found = [
        Checkpoint(step=int(match[1]), actor=folder / "actor", has_manifest=(folder / FILE_NAME).is_file())
        for folder in (run / "checkpoints").glob("step_*")
        if (match := _STEP.fullmatch(folder.name)) and (folder / "actor" / "config.json").is_file()
    ]
    vouched = [checkpoint for checkpoint in found if checkpoint.has_manifest]
    return tuple(sorted(vouched or found, key=lambda checkpoint: checkpoint.step))


def choose(
    found: Sequence[Checkpoint],
    rows: Sequence[Mapping[str, float]],
    which: Which,
    run: Path,
) -> Checkpoint:
    """The checkpoint of a step, the newest, or the one whose held-out synthesis accuracy was highest.

    Raises:
        ValueError: there is none like it.
    """
    if not found:
        raise ValueError(
            f"{run} has no checkpoint yet; wait for one (trainer.checkpoint_every_steps, and one at the end)."
        )
    if which == "newest":
        return found[-1]
    steps = ", ".join(str(checkpoint.step) for checkpoint in found)
    if which == "best":
        scores = {int(row["step"]): row[SCORE] for row in rows if math.isfinite(row.get(SCORE, math.nan))}
        evaluated = [checkpoint for checkpoint in found if checkpoint.step in scores]
        if not evaluated:
            raise ValueError(
                f"--best: no checkpoint of {run} (steps {steps}) was evaluated; name one with --step, or let "
                "evaluation.every_steps divide trainer.checkpoint_every_steps in the next run."
            )
        return max(evaluated, key=lambda checkpoint: scores[checkpoint.step])
    for checkpoint in found:
        if checkpoint.step == which:
            return checkpoint
    raise ValueError(f"--step {which}: {run} has checkpoints of steps {steps}; choose one of them.")


def copy_model(actor: Path, to: Path) -> None:
    """Copy weights, tokenizer and chat template.

    Raises:
        ValueError: the weights are not safetensors, or there is no tokenizer.
    """
    for pattern, what in (("*.safetensors", "weights in safetensors"), ("tokenizer*", "tokenizer")):
        if not any(actor.glob(pattern)):
            raise ValueError(
                f"{actor} holds no {what}; this checkpoint cannot be exported, choose another with --step."
            )
    for file in sorted({file for pattern in COPIED for file in actor.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, to / file.name)


def with_rope(model: dict[str, Any], config: Config) -> dict[str, Any]:
    """A model's configuration with the rope settings that the run trained with (YaRN), merged as the learners do."""
    if config.model.rope_scaling is None:
        return model
    own = model.get("rope_parameters") or {}
    return model | {"rope_parameters": {**own, **config.model.rope_scaling}}


def generation_config(actor: Path, config: Config) -> dict[str, Any]:
    """The checkpoint's own generation settings, and the distribution that it was trained to sample from."""
    path = actor / "generation_config.json"
    own = read_json(path) if path.is_file() else {}
    own.pop("_from_model_config", None)
    sampling = {"do_sample": True, "temperature": config.sampling.temperature, "top_p": config.sampling.top_p}
    return own | sampling | {"top_k": 0}  # 0 cuts nothing off; without it, transformers would keep 50 tokens


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
