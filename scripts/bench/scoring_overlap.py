"""How much of the scoring of programs hides behind generation, in real training steps.

    python scripts/bench/scoring_overlap.py [--steps 2 --problems 16 --responses 16 --tests 20] [KEY=VALUE ...]

Everything is what `pacore-rl train` runs (Ray, vLLM, DeepSpeed, the scorer of reward.placement), with two stand-ins: a
model of random weights, whose replies have lengths as spread as a reasoner's, and programs in place of its replies when
they are scored, a tenth of which loop for ever. A step's share is `throughput/scoring_overlap`: what was scored when
the last response ended. On CPUs engine and programs share the cores: an engine and a scoring worker each want one of
their own. Target: three quarters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl.config import Config
from pacore_rl.engine.cluster import open_engine
from pacore_rl.engine.scoring import open_run_scorer
from pacore_rl.interfaces import Pending, RunScorer
from pacore_rl.machine import num_cores
from pacore_rl.recipes import load_config
from pacore_rl.reporting.jsonl import JsonlSink, read_metrics
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.suite import TestCase, TestSuite
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.trainer import Trainer
from pacore_rl.types import Finish, Problem, Verdict

RECIPE = Path("recipes/quickstart.yaml")
SOURCE = "a, b = map(int, input().split())\nprint(a + b)\n"
LOOPING_EVERY = 10
TARGET = 0.75


@dataclass(slots=True, kw_only=True)
class ProgramScorer:
    """Scores a program in place of each reply, through the run's own scorer; a ``pacore_rl.interfaces.RunScorer``."""

    scorer: RunScorer
    ground_truth: str
    count: itertools.count[int]

    @property
    def num_workers(self) -> int:
        return self.scorer.num_workers

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Pending[list[Verdict]]:
        return self.scorer.score([self.program_for(problem) for problem, _, _ in items])

    def program_for(self, problem: Problem) -> tuple[Problem, str, Finish]:
        number = next(self.count)
        loops = "while True: pass\n" if number % LOOPING_EVERY == 0 else ""
        # A comment tells the programs apart: equal ones would be scored once.
        message = f"```python\n# {number}\n{SOURCE}{loops}```"
        return replace(problem, ground_truth=self.ground_truth, reward="code"), message, "stopped"


def suite(num_tests: int) -> TestSuite:
    return TestSuite(tests=tuple(TestCase(input=f"{n} {n}\n", output=f"{2 * n}\n") for n in range(num_tests)))


def make_model(folder: Path) -> Path:
    """The shipped model's tokenizer and architecture, with random weights: a reply ends at each token with a chance of
    about one in 522, the size of its vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = Path("recipes/tiny_base")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def make_config(options: argparse.Namespace, folder: Path) -> Config:
    return load_config(
        RECIPE,
        [
            f"run.output_dir={folder}",
            "run.name=bench",
            f"model.path={make_model(folder / 'model')}",
            "model.context_window_tokens=1024",
            f"data.problems={folder}/problems.jsonl",
            "data.pool=null",
            "data.held_out_problems=null",
            "data.held_out_pool=null",
            "evaluation.every_steps=0",
            "synthesis.min_messages=0",
            "synthesis.max_messages=0",
            "sampling.max_response_tokens=896",
            "sampling.answer_reserve_tokens=896",
            f"ppo.problems_per_step={options.problems}",
            f"ppo.responses_per_problem={options.responses}",
            "rollout.num_workers=1",
            "rollout.max_concurrent_sequences=64",
            f"reward.num_workers={max(1, num_cores() - 1)}",
            "reward.code_test_seconds=1",
            f"trainer.steps={options.steps}",
            "trainer.checkpoint_every_steps=0",
            "logging.console=false",
            "logging.wandb_project=null",
            *options.overrides,
        ],
    )


def train(config: Config, num_tests: int) -> list[dict[str, float]]:
    """The steps' metrics."""
    rng = random.Random(0)
    problems = [chain_problem(sample_chain(rng, range(5, 8))) for _ in range(config.ppo.problems_per_step)]
    sink = JsonlSink(config.run_dir / "metrics.jsonl")
    with open_engine(config) as engine, open_run_scorer(config, problems) as scorer:
        Trainer(
            config=config,
            engine=engine,
            scorer=ProgramScorer(scorer=scorer, ground_truth=suite(num_tests).to_json(), count=itertools.count()),
            tokenizer=load_tokenizer(config.model.path),
            problems=problems,
            pool={},
            sinks=[sink],
        ).train()
    sink.close()
    return read_metrics(config.run_dir / "metrics.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--tests", type=int, default=20)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    backend = choose_backend()
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(options, Path(folder))
        rows = train(config, options.tests)
    names = (
        "time/generate",
        "time/score",
        "throughput/scoring_work_seconds",
        "throughput/scoring_overlap",
        "response/length_tokens",
    )
    for row in rows:
        print(json.dumps({name: round(row[name], 3) for name in names if name in row}), flush=True)
    overlap = statistics.median(row["throughput/scoring_overlap"] for row in rows)
    print(
        json.dumps(
            {
                "bench": "scoring_overlap",
                "ratio": round(overlap, 3),
                "target": TARGET,
                "met": overlap >= TARGET,
                "median": {
                    name: round(statistics.median(row[name] for row in rows), 2) for name in names if name in rows[0]
                },
                "placement": config.reward.placement,
                "num_workers": config.reward.num_workers,
                "num_programs": config.ppo.rows_per_step,
                "num_tests": options.tests,
                "num_failed_by_us": sum(row["reward/failed_count"] for row in rows),
                "backend": backend,
                "steps": len(rows),
                "num_cores": num_cores(),
            }
        )
    )


if __name__ == "__main__":
    main()
