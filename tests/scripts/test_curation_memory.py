"""The benchmark of curation's memory at toy size: it runs, and what it adds up is what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_curation_memory() -> None:
    command = [sys.executable, "scripts/bench/curation_memory.py", "--problems=4000", "--near-problems=200"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["bench"] == "curation_memory" and line["problems"] == 4000 and 0 < line["kept"] < 4000
    # 24 ids of 8 bytes are the least that is counted by; 24 texts of 1,200 characters the least that is held.
    assert line["bytes_a_problem"]["counts"] > 24 * 8 and line["bytes_a_problem"]["messages"] > 24 * 1_000
    assert line["met"] == (
        line["ratio"] <= line["target"]
        and max(line["pools_and_stage1_gib"], line["duplicates_gib"]) <= line["target_gib"]
    )
