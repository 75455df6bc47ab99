"""A run that was killed and goes on is the same run: parameters bit for bit, the same lines of metrics."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.reporting.jsonl import read_metrics

TIMED = ("time/", "throughput/", "memory/")
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


def config_of(tiny_config: Callable[..., Config], name: str) -> Config:
    return tiny_config(
        run={"name": name}, trainer={"steps": STEPS, "checkpoint_every_steps": 3}, rollout={"num_workers": 2}
    )


def assert_same_run(one: Config, other: Config) -> None:
    """The same lines of metrics but for times, and the same parameters to the last bit."""
    assert [row["step"] for row in untimed(other.run_dir)] == list(range(1, STEPS + 1))
    assert untimed(other.run_dir) == untimed(one.run_dir)
    for name in ("actor", "critic"):
        file = f"checkpoints/step_{STEPS:06d}/{name}/model.safetensors"
        weights, theirs = load_file(one.run_dir / file), load_file(other.run_dir / file)
        assert weights.keys() == theirs.keys()
        for key, value in weights.items():
            np.testing.assert_array_equal(value, theirs[key], err_msg=f"{name}: {key}")


@pytest.mark.slow
def test_six_steps_and_three_more_after_a_crash_are_the_same(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is what a crash in the last step leaves of the first: lines and files past the checkpoint too."""
    whole, crashed = config_of(tiny_config, "whole"), config_of(tiny_config, "crashed")
    write_data(whole)
    runs.train(whole)
    shutil.copytree(whole.run_dir, crashed.run_dir)
    checkpoints = crashed.run_dir / "checkpoints"
    (checkpoints / "step_000006").rename(checkpoints / ".step_000006.partial")
    (checkpoints / "step_000005").mkdir()
    shutil.copy(checkpoints / "step_000003" / "manifest.json", checkpoints / "step_000005")  # torn: no files
    with (crashed.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"schema": 1, "st')
    runs.train(crashed, resume="auto")

    said = capsys.readouterr().out
    assert "skipped a checkpoint that is not whole" in said and "going on after step 3" in said
    assert_same_run(whole, crashed)
    assert not list(checkpoints.glob(".*"))
    # And over: there is nothing left to do, which is no error. No engine starts.
    runs.train(crashed, resume="auto")
    assert "all 6 steps (trainer.steps) are done" in capsys.readouterr().out
    cooler = crashed.model_copy(update={"sampling": crashed.sampling.model_copy(update={"temperature": 0.5})})
    with pytest.raises(ValueError, match=r"(?s)cannot be gone on from.*sampling.temperature: 1.0 -> 0.5"):
        runs.train(cooler, resume="auto")


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_never_stopped(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None]
) -> None:
    whole, killed = config_of(tiny_config, "whole"), config_of(tiny_config, "killed")
    write_data(whole)
    runs.train(whole)
    train_until_killed(killed, after_step=3)
    runs.train(killed, resume="auto")
    assert_same_run(whole, killed)
