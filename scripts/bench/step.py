"""Seconds per phase of a training step, and the share of it spent outside generation, scoring, learning and sync.

    python scripts/bench/step.py [RECIPE] [--steps 10] [KEY=VALUE ...]

Runs the recipe's loop on problems and pools made on the spot, leaves the first two steps out (warm-up), and prints a
JSON line per step and a last one with the medians. Target: at most 10% overhead.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_curation.chain_demonstrations import Habits, demonstrated_message
from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.problems import save_problems
from pacore_rl.recipes import load_config
from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.pool_shards import ShardedPool

WORK = ("time/generate", "time/score", "time/learn", "time/sync")
TARGET = 0.05
WARM_UP_STEPS = 2


def bench_config(recipe: Path, folder: Path, overrides: Sequence[str]) -> Config:
    """The recipe with its run and its data in ``folder``, and without evaluations or wandb."""
    return load_config(
        recipe,
        [
            f"run.output_dir={folder}",
            "run.name=bench",
            f"data.problems={folder}/problems.jsonl",
            f"data.pool={folder}/pool.jsonl",
            "data.held_out_problems=null",
            "data.held_out_pool=null",
            "evaluation.every_steps=0",
            "logging.wandb_project=null",
            *overrides,
        ],
    )


def write_data(config: Config, num_problems: int, *, messages_per_shard: int | None = None) -> None:
    """Chain sums with demonstrated messages: the prompts have the lengths of the quickstart's.

    The pool is one file, or a folder of shards where ``messages_per_shard`` is given.
    """
    assert config.data.problems is not None and config.data.pool is not None
    rng = random.Random(0)
    chains = [sample_chain(rng, range(5, 8)) for _ in range(num_problems)]
    save_problems(config.data.problems, [chain_problem(chain) for chain in chains])
    messages = [
        demonstrated_message(chain, Habits(), rng) for chain in chains for _ in range(config.synthesis.pool_size)
    ]
    if messages_per_shard is None:
        MessagePool.open(config.data.pool).append(messages)
        return
    pool = ShardedPool.open(config.data.pool, messages_per_shard=messages_per_shard)
    for start in range(0, len(messages), messages_per_shard):
        pool.append(messages[start : start + messages_per_shard])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--steps", type=int, default=10, help="steps measured, after the warm-up")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        config = bench_config(
            options.recipe,
            Path(folder),
            [
                f"trainer.steps={options.steps + WARM_UP_STEPS}",
                "trainer.checkpoint_every_steps=0",
                "logging.console=false",
                *options.overrides,
            ],
        )
        write_data(config, num_problems=4 * config.ppo.problems_per_step)
        rows = read_metrics(runs.train(config) / "metrics.jsonl")[WARM_UP_STEPS:]
    overheads = [1 - sum(row[key] for key in WORK) / row["time/step"] for row in rows]
    for row, overhead in zip(rows, overheads, strict=True):
        seconds = {key: round(value, 3) for key, value in row.items() if key.startswith("time/")}
        print(json.dumps(seconds | {"step": row["step"], "overhead": round(overhead, 4)}))
    overhead = statistics.median(overheads)
    print(
        json.dumps(
            {
                "bench": "step",
                "ratio": round(overhead, 4),
                "target": TARGET,
                "met": overhead <= TARGET,
                "median_seconds": {
                    key.removeprefix("time/"): round(statistics.median(row[key] for row in rows), 3)
                    for key in rows[0]
                    if key.startswith("time/")
                },
                "generated_tokens_per_second": round(
                    statistics.median(row["throughput/generated_tokens_per_second"] for row in rows)
                ),
                "rows_per_step": config.ppo.rows_per_step,
                "steps": len(rows),
            }
        )
    )


if __name__ == "__main__":
    main()
