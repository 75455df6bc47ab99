"""A pool run on the real engine that is killed and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl.config import Config
from pacore_rl.problems import save_problems
from pacore_rl.synthesis.pool_shards import shard_paths

NUM_PROBLEMS, SIZE = 24, 4
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_killed_and_resumed_equals_a_run_that_was_not(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(curation={"pools": {"problems_per_wave": 4}}, sampling={"max_response_tokens": 64})
    recipe, environment = tmp_path / "recipe.yaml", {**os.environ, "PYTHONPATH": str(ROOT)}
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    rng = random.Random(0)
    assert config.data.problems is not None
    save_problems(config.data.problems, [chain_problem(sample_chain(rng, range(5, 8))) for _ in range(NUM_PROBLEMS)])

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pacore_rl", "pool", str(recipe), "--out", str(out), "--size", str(SIZE)]
        return subprocess.Popen(command, cwd=ROOT, env=environment)

    def records(out: Path) -> list[bytes]:
        return sorted(line for shard in shard_paths(out) for line in shard.read_bytes().splitlines())

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(300) == 0
    for share in (0.2, 0.6):
        process, deadline = start(killed), time.monotonic() + 300
        while len(records(killed)) < share * NUM_PROBLEMS * SIZE:
            assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert len(records(killed)) < NUM_PROBLEMS * SIZE
    assert start(killed).wait(300) == 0
    assert records(killed) == records(whole)
    assert len(set(records(whole))) == NUM_PROBLEMS * SIZE
