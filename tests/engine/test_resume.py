"""A run that was killed and goes on is the same run: parameters bit for bit, the same lines of metrics."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pacore_rl import runs
from pacore_rl.checkpoints.manifest import step_folders
from pacore_rl.config import Config
from pacore_rl.reporting.jsonl import read_metrics

TIMED = ("time/", "throughput/")
STEPS = 6


def untimed(run_dir: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMED)}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def train_until_killed(config: Config, after_step: int) -> None:
    """Train in a process of its own, and kill that in the middle of a later step."""
    process = multiprocessing.get_context("spawn").Process(target=runs.train, args=(config,))
    process.start()
    checkpoint = config.run_dir / "checkpoints" / f"step_{after_step:06d}"
    deadline = time.monotonic() + 200
    while not (checkpoint.is_dir() and len(untimed(config.run_dir)) > after_step):
        assert process.is_alive() and time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("actor", "critic"):
        weights = load_file(one / name / "model.safetensors")
        theirs = load_file(other / name / "model.safetensors")
        assert weights.keys() == theirs.keys()
        for key, value in weights.items():
            np.testing.assert_array_equal(value, theirs[key], err_msg=f"{name}: {key}")


def test_three_steps_a_kill_and_three_steps_are_six_steps(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def config_of(name: str) -> Config:
        return tiny_config(
            run={"name": name},
            trainer={"steps": STEPS, "checkpoint_every_steps": 3},
            rollout={"num_workers": 2},
        )

    whole, killed = config_of("whole"), config_of("killed")
    write_data(whole)
    runs.train(whole)
    train_until_killed(killed, after_step=3)
    # What a crash may leave: half a line, half a checkpoint, a later one that is torn.
    with (killed.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"schema": 1, "st')
    (killed.run_dir / "checkpoints" / ".step_000006.partial").mkdir(exist_ok=True)
    torn = killed.run_dir / "checkpoints" / "step_000005"
    torn.mkdir()
    (torn / "manifest.json").write_bytes((step_folders(torn.parent)[1] / "manifest.json").read_bytes())
    runs.train(killed, resume="auto")

    said = capsys.readouterr().out
    assert "skipped a checkpoint that is not whole" in said and "going on after step 3" in said
    assert [row["step"] for row in untimed(killed.run_dir)] == list(range(1, STEPS + 1))
    assert untimed(killed.run_dir) == untimed(whole.run_dir)
    last = f"checkpoints/step_{STEPS:06d}"
    assert_same_weights(whole.run_dir / last, killed.run_dir / last)
    assert not list((killed.run_dir / "checkpoints").glob(".*"))

    # And over: there is nothing left to do, which is no error.
    runs.train(killed, resume="auto")
    assert untimed(killed.run_dir) == untimed(whole.run_dir)
    with pytest.raises(ValueError, match=r"(?s)cannot be gone on from.*sampling.temperature: 1.0 -> 0.5"):
        runs.train(
            killed.model_copy(update={"sampling": killed.sampling.model_copy(update={"temperature": 0.5})}),
            resume="auto",
        )
