"""What a checkpoint costs a run at most: the copying, which a step waits for, and the writing, as if it ran alone.

    python scripts/bench/checkpoint.py [RECIPE] [--rounds 6] [KEY=VALUE ...]

The recipe's loop runs with a checkpoint every fourth step. The step that ends in one copies the learners' state, the
next one has the writing beside it, the other two are undisturbed. ``ratio`` is the copying and the whole of the writing
as a share of an undisturbed step: a bound, since the writing shares its step with generation. ``difference`` is what
the two steps took beyond two undisturbed ones, median and range over the rounds: steps differ by more than a checkpoint
costs. Prints a JSON line for each round; the last line has the medians. Target: at most 5% of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from step import bench_config, write_data

from pacore_rl.checkpoints.compatibility import data_fingerprints
from pacore_rl.checkpoints.manifest import open_checkpoint, step_folders
from pacore_rl.config import Config
from pacore_rl.engine.cluster import open_engine
from pacore_rl.inputs import load_checked_problems, load_pool
from pacore_rl.resuming import open_store
from pacore_rl.rewards.scorer import open_scorer
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.trainer import Trainer

TARGET = 0.05
PERIOD = 4
WARM_UP_STEPS = 2 * PERIOD


class Clock:
    """A sink that notes when each step was logged."""

    def __init__(self) -> None:
        self.seconds: list[float] = [time.monotonic()]
        self.metrics: list[Mapping[str, float]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.seconds.append(time.monotonic())
        self.metrics.append(metrics)

    def close(self) -> None:
        """Nothing to close."""


def train(config: Config) -> tuple[Clock, float]:
    """The recipe's loop; its times, and the seconds that writing the last checkpoint took in the background."""
    assert config.data.problems is not None and config.data.pool is not None
    problems = load_checked_problems(config.data.problems, config.reward)
    pool = load_pool(config.data.pool, problems)
    clock = Clock()
    with (
        open_scorer(config.reward) as scorer,
        open_store(config, data_fingerprints(problems, pool)) as store,
        open_engine(config) as engine,
    ):
        Trainer(
            config=config,
            engine=engine,
            scorer=scorer,
            tokenizer=load_tokenizer(config.model.path),
            problems=problems,
            pool=pool,
            sinks=[clock],
            checkpoints=store,
        ).train()
        return clock, store.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=6, help="checkpoints measured, after the warm-up")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    num_steps = WARM_UP_STEPS + PERIOD * options.rounds
    with tempfile.TemporaryDirectory() as folder:
        config = bench_config(
            options.recipe,
            Path(folder),
            [
                f"trainer.steps={num_steps + 2}",
                f"trainer.checkpoint_every_steps={PERIOD}",
                *options.overrides,
            ],
        )
        write_data(config, num_problems=4 * config.ppo.problems_per_step)
        clock, background_seconds = train(config)
        files = open_checkpoint(step_folders(config.run_dir / "checkpoints")[0]).manifest.files
    # Times end at the line of a step: what follows the line, as the start of the writing does, is the next step's.
    step_seconds = [later - earlier for earlier, later in zip(clock.seconds, clock.seconds[1:], strict=False)]
    costs: list[float] = []
    undisturbed: list[float] = []
    for end in range(WARM_UP_STEPS + PERIOD, num_steps + 1, PERIOD):
        second, third, with_copy, with_writing = step_seconds[end - 3 : end + 1]
        quiet = statistics.mean((second, third))
        undisturbed.append(quiet)
        costs.append((with_copy + with_writing - 2 * quiet) / quiet)
        line = {"step": end, "quiet": quiet, "with_copy": with_copy, "with_writing": with_writing, "cost": costs[-1]}
        print(json.dumps({key: round(value, 4) for key, value in line.items()}))
    step = statistics.median(undisturbed)
    copying = statistics.median(row["time/snapshot"] for row in clock.metrics if "time/snapshot" in row)
    ratio = (copying + background_seconds) / step
    print(
        json.dumps(
            {
                "bench": "checkpoint",
                "ratio": round(ratio, 4),
                "target": TARGET,
                "met": ratio <= TARGET,
                "difference": round(statistics.median(costs), 4),
                "difference_range": [round(min(costs), 4), round(max(costs), 4)],
                "step_seconds": round(step, 3),
                "snapshot_seconds": round(copying, 4),
                "background_seconds": round(background_seconds, 3),
                "mib": round(sum(file.num_bytes for file in files) / 1024**2, 2),
                "rounds": options.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
