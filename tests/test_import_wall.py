"""The import wall: the pure rooms load neither Ray, nor DeepSpeed, nor vLLM, nor wandb, not even through others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = ("ray", "deepspeed", "vllm", "wandb")
PURE = (
    "pacore_rl/types.py",
    "pacore_rl/interfaces.py",
    "pacore_rl/config.py",
    "pacore_rl/recipes.py",
    "pacore_rl/trainer.py",
    "pacore_rl/synthesis",
    "pacore_rl/ppo",
    "pacore_rl/rewards",
    "pacore_rl/evaluation",
    "pacore_rl/inference",
    "pacore_rl/planning",
    "pacore_rl/append_log.py",
    "pacore_rl/spread.py",
    "pacore_rl/preflight.py",
    "pacore_rl/dry_run.py",
    "pacore_rl/doctor",
    "pacore_rl/cli",
    "pacore_rl/reporting",
    "pacore_rl/export",
    "pacore_rl/checkpoints",
    "data_curation",
)
"""Reporting loads wandb only when a sink is made."""


def modules(place: str) -> list[str]:
    """Every module at ``place``, itself or, for a folder, all the files under it."""
    path = ROOT / place
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    names = [file.relative_to(ROOT).with_suffix("") for file in files]
    return [".".join(name.parent.parts if name.name == "__init__" else name.parts) for name in names]


@pytest.mark.parametrize("place", PURE)
def test_a_pure_room_loads_no_machinery(place: str) -> None:
    found = modules(place)
    if not found:
        pytest.skip(f"there is no {place}")
    program = "\n".join(
        [
            "import importlib, sys",
            f"for name in {found!r}:",
            "    importlib.import_module(name)",
            f"    loaded = [one for one in {FORBIDDEN!r} if one in sys.modules]",
            "    if loaded: raise SystemExit(f'{name} loads {loaded}')",
        ]
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
