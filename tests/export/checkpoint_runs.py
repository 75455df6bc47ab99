"""A run's folder with checkpoints, made of the shipped tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pacore_rl.config import Config
from pacore_rl.problems import save_problems
from pacore_rl.recipes import resolved_yaml
from pacore_rl.types import Problem, Turn

TINY_BASE = Path(__file__).resolve().parents[2] / "recipes" / "tiny_base"
YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 1024,
    "attention_factor": 1.0,
}
METRICS = (
    {"step": 0, "heldout/synthesis": 0.1, "heldout/solo": 0.2},
    {"step": 10, "reward/mean": 0.25, "time/step": 1.0, "heldout/synthesis": 0.6, "heldout/solo": 0.2},
    {"step": 20, "reward/mean": 0.75, "time/step": 1.0, "heldout/synthesis": 0.5, "heldout/solo": 0.3},
)


def make_run(folder: Path, *, steps: Sequence[int] = (10, 20), rope_scaling: Mapping[str, Any] | None = None) -> Path:
    """A run of the recipe below; every checkpoint holds the tiny base model."""
    problems = folder.parent / "problems.jsonl"
    problem = Problem(id="p", conversation=(Turn(role="user", content="?"),), ground_truth="1")
    save_problems(problems, [problem])
    config = Config.model_validate(
        {
            "run": {"output_dir": folder.parent, "name": folder.name, "device": "cpu"},
            "model": {"path": str(TINY_BASE), "context_window_tokens": 512, "rope_scaling": rope_scaling},
            "data": {"problems": problems},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 16, "temperature": 0.9},
        }
    )
    for step in steps:
        shutil.copytree(TINY_BASE, folder / "checkpoints" / f"step_{step:06d}" / "actor")
    (folder / "recipe.yaml").write_text(resolved_yaml(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"schema": 1, **row}) + "\n" for row in METRICS))
    return folder
