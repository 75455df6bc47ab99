"""Break a training run in every way we know, at random moments, and see whether it ends as if nothing had happened.

    python scripts/faults.py [--seed 0] [--faults 20] [--recipe recipes/quickstart.yaml] [KEY=VALUE ...]

The run is the quickstart's recipe, made small, with a checkpoint every step, a reward function in processes of its
own, a pool of several shards, and its run folder on a small disk (a tmpfs, which takes the right to mount). This script
is the launcher: it starts `pacore-rl train --resume auto`, breaks something once a step has ended and a random time has
passed, and starts the command again whenever it ends early, as Slurm or Kubernetes would. A controller that says
nothing for a while it kills first. After each fault the run must end the step it was in, which may have been over but
for its line, and the one after.

In the end every step must be in metrics.jsonl exactly once, each with all its responses, none of them twice and none
left unscored. Prints a line for each fault; the last line is JSON. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench.step import write_data
from fault_kinds import FAULTS, RECOVER_SECONDS, REPOSITORY, NotAsPromised, Run, expect
from small_disk import small_disk

from pacore_rl.config import Config
from pacore_rl.events import EVENTS
from pacore_rl.recipes import load_config
from pacore_rl.reporting.jsonl import read_metrics

MAX_DELAY_SECONDS = 4.0
DISK_MIB = 512
MESSAGES_PER_SHARD = 128
MANY_STEPS = 100_000
PRESET = (
    "ppo.problems_per_step=8",
    "ppo.responses_per_problem=8",
    "ppo.critic_minibatches=2",
    "synthesis.pool_size=16",
    "evaluation.every_steps=0",
    "trainer.checkpoint_every_steps=1",
    "trainer.keep_checkpoints=4",
    "run.worker_timeout_seconds=240",
    "surviving.health_timeout_seconds=30",
    "surviving.max_restarts=5",
    "surviving.on_disk_full=skip",
    "reward.custom.name=scripts.exact_reward:score",
    "reward.custom.timeout_seconds=10",
    "logging.wandb_project=null",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the run after one fault."""

    fault: str
    survived: bool
    step: int
    """Finished steps when it struck."""
    steps_lost: int
    """Finished steps that had to be made again."""
    seconds: float
    """Until the step after the one that it struck had ended."""
    launches: int
    """Of the command, beside the first."""


def break_it(run: Run, fault: str, rng: random.Random) -> Outcome:
    """One fault, at a random moment after the next step, and what becomes of it."""
    expect(run.wait_past(run.steps(), RECOVER_SECONDS), f"no step before the fault; see {run.log}")
    time.sleep(rng.uniform(0.0, MAX_DELAY_SECONDS))
    launches, step, started = run.num_launches, run.steps(), time.monotonic()
    told = run.log.stat().st_size
    survived = True
    try:
        FAULTS[fault](run, rng)
        survived = run.wait_past(max(step, 1) + 1, RECOVER_SECONDS)
    except (NotAsPromised, subprocess.TimeoutExpired) as error:
        print(f"  {fault}: {error}", flush=True)
        survived = False
        if run.process is not None and run.process.poll() is not None:
            run.launch()
    seconds = time.monotonic() - started
    with run.log.open("rb") as log:
        log.seek(told)
        resumed = [line for line in log.read().decode(errors="replace").splitlines() if "going on after step" in line]
    again = [int("".join(filter(str.isdigit, line.split("going on after step")[1].split(",")[0]))) for line in resumed]
    return Outcome(
        fault=fault,
        survived=survived,
        step=step,
        steps_lost=max([0, *(step - begun for begun in again)]),
        seconds=round(seconds, 1),
        launches=run.num_launches - launches,
    )


def audit(config: Config) -> tuple[int, int, int]:
    """Steps, samples lost and samples counted twice, by metrics.jsonl of the whole run."""
    path = config.run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    times = Counter(int(line["step"]) for line in lines)
    rows = config.ppo.rows_per_step
    by_step = {int(row["step"]): row for row in read_metrics(path)}
    lost = sum(rows for step in range(1, max(times) + 1) if step not in times)
    lost += sum(round(rows - row["response/distinct_count"] + row["reward/failed_count"]) for row in by_step.values())
    doubled = sum(rows * (count - 1) for count in times.values())
    doubled += sum(round(row["response/count"] - row["response/distinct_count"]) for row in by_step.values())
    expect(all(row["policy/weight_version"] == step - 1 for step, row in by_step.items()), "a step off its policy")
    return len(times), lost, doubled


def count_events(path: Path) -> dict[str, int]:
    """How often each event of a run happened."""
    if not path.exists():
        return {}
    return dict(Counter(json.loads(line)["event"] for line in path.read_text().splitlines()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="of kinds and moments; printed, and random by default")
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=None, metavar="FAULT", help=f"of: {', '.join(FAULTS)}")
    parser.add_argument("--recipe", type=Path, default=REPOSITORY / "recipes" / "quickstart.yaml")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the run, which then stays")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    if options.keep and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep} is not empty; give another folder, or move what it holds away")
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    kinds = list(FAULTS) if options.only is None else options.only
    faults = [kind for _ in range(-(-options.faults // len(kinds))) for kind in rng.sample(kinds, len(kinds))]
    with tempfile.TemporaryDirectory(prefix="pacore-faults-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = [f"data.problems={folder}/problems.jsonl", f"data.pool={folder}/pool"]
        files += [
            "data.held_out_problems=null",
            "data.held_out_pool=null",
            f"model.path={REPOSITORY}/recipes/tiny_base",
        ]
        settings = [f"run.output_dir={folder}/disk", "run.name=run", f"run.seed={seed}", f"trainer.steps={MANY_STEPS}"]
        config = load_config(options.recipe, [*settings, *files, *PRESET, *options.overrides])
        write_data(config, 4 * config.ppo.problems_per_step, messages_per_shard=MESSAGES_PER_SHARD)
        outcomes: list[Outcome] = []
        with small_disk(folder / "disk", DISK_MIB) as disk:
            run = Run(config, folder, disk)
            try:
                run.launch()
                for fault in faults[: options.faults]:
                    outcomes.append(break_it(run, fault, rng))
                    print(json.dumps(outcomes[-1].__dict__), flush=True)
            finally:
                run.end()
                if options.keep and config.run_dir.exists():  # the disk goes
                    shutil.copytree(config.run_dir, folder / "run")
            steps, lost, doubled = audit(config)
            num_events = count_events(config.run_dir / EVENTS)
    survived = sum(outcome.survived for outcome in outcomes)
    print(
        json.dumps(
            {
                "bench": "faults",
                "ratio": survived / len(outcomes),
                "target": 1.0,
                "met": survived == len(outcomes) and not lost and not doubled,
                "survived": survived,
                "faults": len(outcomes),
                "lost": lost,
                "doubled": doubled,
                "seed": seed,
                "steps": steps,
                "steps_lost": sum(outcome.steps_lost for outcome in outcomes),
                "median_seconds": sorted(outcome.seconds for outcome in outcomes)[len(outcomes) // 2],
                "events": num_events,
            }
        )
    )


if __name__ == "__main__":
    main()
