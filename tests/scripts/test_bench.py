"""The benchmarks at toy sizes: they run and end in one line of JSON. Their figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def last_line(script: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "bench" / script), "--device=cpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_logprob_memory() -> None:
    line = last_line("logprob_memory.py", "--tokens=512", "--vocabulary=40000", "--chunk-tokens=16", "--rounds=1")
    assert line["bench"] == "logprob_memory"
    assert line["tokens"] == line["tokens_wanted"] == 512
    logits_gib = 512 * 40_000 * 4 / 1024**3
    assert 2 * logits_gib < line["peak_gib"]["plain"] < 4 * logits_gib
    assert line["ratio"] < 0.5
    assert line["met"] == (line["ratio"] <= line["target"] and line["ratio_seconds"] <= line["target_seconds"])


def test_learner() -> None:
    sizes = ("--layers=1", "--hidden=32", "--heads=1", "--prompt-tokens=8", "--median-tokens=8", "--max-tokens=32")
    line = last_line("learner.py", *sizes, "--problems=2", "--responses=2", "--rounds=1")
    assert line["bench"] == "learner"
    assert line["ratio"] > 0
    assert line["ratio_padded"] > 0
    tokens = line["tokens"]
    assert tokens["packed"] < tokens["rows"] < tokens["padded"] == 4 * line["longest_row"]
