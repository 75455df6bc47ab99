"""Ctrl-C in every phase: a short message, exit status 130, no process left behind, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pacore_rl.config import Config
from pacore_rl.recipes import resolved_yaml
from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.synthesis.message_pool import MessagePool

START_SECONDS = 240.0
STOP_SECONDS = 60.0
PHASES = {
    "starting": ("train",),
    "training": ("train",),
    "pool": ("pool", "--out", "fresh_pool.jsonl", "--size", "2000"),
    "stage2": ("curate stage2", "--out", "stage2.jsonl"),
    "evaluation": ("evaluate", "--out", "evaluation.json"),
    "quickstart": ("quickstart",),
}
"""Name to the command that is interrupted in it."""


IN_EVERY_RUN = ("starting", "training")


@pytest.mark.parametrize(
    "phase", [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.slow) for name in PHASES]
)
def test_an_interrupted_command_leaves_nothing_behind(
    phase: str, tiny_config: Callable[..., Config], write_data: Callable[[Config], None], tmp_path: Path
) -> None:
    config = tiny_config(
        trainer={"steps": 10_000, "checkpoint_every_steps": 0},
        # Long responses and a large vote: every phase lasts longer than it takes to interrupt it.
        sampling={"max_response_tokens": 16 if phase == "training" else 300},
        data={"held_out_problems": tmp_path / "problems.jsonl", "held_out_pool": tmp_path / "pool.jsonl"},
        evaluation={"self_consistency_pool": 1000},
    )
    write_data(config)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(resolved_yaml(config))
    command, *options = PHASES[phase]
    recipes = [] if command == "quickstart" else [str(recipe)]  # which has its own
    arguments = [*command.split(), *recipes, *options]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pacore_rl", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            start_new_session=True,
            # A runner in the background ignores SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        wait_for(lambda: has_started(process, config.run_dir, phase), START_SECONDS)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
        process.wait(timeout=STOP_SECONDS)
    finally:
        process.kill()
    output = log.read_text()
    assert process.returncode == 130, output
    assert "Interrupted." in output and "Traceback" not in output
    _, alive = psutil.wait_procs(workers, timeout=STOP_SECONDS)
    assert not alive, [worker.cmdline()[:3] for worker in alive]
    if phase == "training":
        assert read_metrics(config.run_dir / "metrics.jsonl") and str(config.run_dir) in output
    if (tmp_path / "fresh_pool.jsonl").exists():
        MessagePool.open(tmp_path / "fresh_pool.jsonl")
    assert not (tmp_path / "stage2.jsonl").exists() and not (tmp_path / "evaluation.json").exists()
    assert not list(tmp_path.rglob("*.tmp*")) and not list(tmp_path.rglob("*.partial*"))


def has_started(process: subprocess.Popen[bytes], run_dir: Path, phase: str) -> bool:
    assert process.poll() is None, "the command ended by itself"
    if phase == "training":
        metrics = run_dir / "metrics.jsonl"
        return metrics.exists() and metrics.stat().st_size > 0
    # Ray names a worker's process after what it does.
    doing = "RolloutWorker" if phase == "starting" else "RolloutWorker.generate"
    return any(doing in line for line in command_lines(process.pid))


def command_lines(pid: int) -> list[str]:
    """Of the descendants that have one; those that end while we look have none."""
    lines: list[str] = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            lines.append(" ".join(child.cmdline()))
    return lines


def wait_for(condition: Callable[[], bool], limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {limit_seconds:.0f} s"
        time.sleep(0.2)
