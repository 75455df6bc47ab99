"""``evaluate`` and ``report`` on vLLM in a Ray worker, with the quickstart's model."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl.problems import save_problems

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    ended = subprocess.run(
        [sys.executable, "-m", "pacore_rl", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_evaluate_and_report_measure_a_model_on_the_engine(tmp_path: Path) -> None:
    rng = random.Random(0)
    save_problems(tmp_path / "chains.jsonl", [chain_problem(sample_chain(rng, range(5, 8))) for _ in range(8)])
    settings = ["pool_size=12", "samples_per_problem=4", "configurations=[[4],[8,2]]", "vote_sizes=[4]"]
    settings += ["uncompacted=[[2]]", "sequential=[3]"]
    overrides = [f"evaluation.benchmarks.{setting}" for setting in settings]
    arguments = ["--benchmark", f"chains={tmp_path / 'chains.jsonl'}", "--out", tmp_path / "eval"]
    shown = command("evaluate", "recipes/quickstart.yaml", *overrides, *arguments)
    assert "Table 1" in shown and "self-consistency" in shown
    lines = (tmp_path / "eval" / "answers" / "chains.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    four = [record for record in records if record["condition"]["configuration"] == [4]]
    assert len({record["problem_id"] for record in four}) == 8
    assert all(0 < answer["num_tokens"] <= 26 for record in four for answer in record["answers"])
    shown = command("report", tmp_path / "eval", "--out", tmp_path / "paper")
    assert "report.md" in shown
    assert (tmp_path / "paper" / "figure1.png").stat().st_size > 10_000
