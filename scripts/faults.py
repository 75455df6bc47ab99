"""Break a training run in every way we know, at random moments, and see whether it ends as if nothing had happened.

    python scripts/faults.py [--seed 0] [--faults 20] [--recipe recipes/quickstart.yaml] [KEY=VALUE ...]

The run is the quickstart's recipe, made small, with a checkpoint every step and a reward function in processes of its
own. This script is the launcher: it starts `pacore-rl train --resume auto`, breaks something once a step has ended and
a random time has passed, and starts the command again whenever it ends early, as Slurm or Kubernetes would. A
controller that says nothing for a while it kills first. After each fault the run must get past the step it was in.

In the end every step must be in metrics.jsonl exactly once, each with all its responses, none of them twice and none
left unscored. Prints a line for each fault; the last line is JSON. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from bench.step import write_data

from pacore_rl.checkpoints.manifest import step_folders
from pacore_rl.config import Config
from pacore_rl.events import EVENTS
from pacore_rl.recipes import load_config, resolved_yaml
from pacore_rl.reporting.jsonl import read_metrics

REPOSITORY = Path(__file__).resolve().parents[1]
RECOVER_SECONDS = 900.0
"""A run that makes no step for so long after a fault has not survived it."""
MAX_DELAY_SECONDS = 4.0
QUIET_SECONDS = 480.0
"""A controller that neither starts nor steps for so long is taken for hung, as a launcher's watchdog would."""
MANY_STEPS = 100_000
SMALL_FILE_BYTES = 500_000
"""Less than the weights of one learner, more than its log."""
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
    """Until a step ended that had not when it struck."""
    launches: int
    """Of the command, beside the first."""


class Run:
    """The run under test, and its launcher."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(resolved_yaml(config))
        self.log = folder / "log.txt"
        self.num_launches = 0
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        self.num_launches += 1
        command = [sys.executable, "-m", "pacore_rl", "train", str(self.recipe), "--resume", "auto"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY)

    @property
    def controller(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def steps(self) -> int:
        """The last finished step."""
        path = self.config.run_dir / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def find(self, *words: str) -> list[psutil.Process]:
        """Processes of the run whose command line holds one of the words; Ray names a worker after what it does."""
        found: list[psutil.Process] = []
        for child in self.controller.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any(word in " ".join(child.cmdline()) for word in words):
                    found.append(child)
        return found

    def end(self) -> None:
        """Kill the controller; what Ray started goes with it, or after it."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            workers = self.controller.children(recursive=True)
            self.process.kill()
            self.process.wait()
            gone = psutil.wait_procs(workers, timeout=20)[1]
            for left in gone:  # stopped ones do not hear that their parent is gone
                with suppress(psutil.NoSuchProcess):
                    left.kill()

    def wait_past(self, step: int, limit_seconds: float) -> bool:
        """Launch again whatever ends early, until a step after ``step`` has ended."""
        deadline = time.monotonic() + limit_seconds
        seen, quiet_since = self.steps(), time.monotonic()
        while time.monotonic() < deadline:
            assert self.process is not None
            if (now := self.steps()) > step:
                return True
            if now != seen:
                seen, quiet_since = now, time.monotonic()
            if self.process.poll() is not None:
                self.launch()
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET_SECONDS:
                self.end()
                self.launch()
                quiet_since = time.monotonic()
            time.sleep(0.1)
        return False


Strike = Callable[[Run, random.Random], None]


def signal_one(words: Sequence[str], number: signal.Signals) -> Strike:
    def strike(run: Run, rng: random.Random) -> None:
        deadline = time.monotonic() + 60
        while not (found := run.find(*words)):  # a reward worker is there only once something was scored
            assert time.monotonic() < deadline, f"no process of {words}"
            time.sleep(0.05)
        rng.choice(found).send_signal(number)

    return strike


def kill_controller(run: Run, _rng: random.Random) -> None:
    run.end()


def stop_controller(run: Run, _rng: random.Random) -> None:
    run.controller.send_signal(signal.SIGSTOP)
    time.sleep(2)  # the launcher's watchdog; QUIET_SECONDS would only take longer
    run.end()


def terminate_controller(run: Run, _rng: random.Random) -> None:
    """A scheduler's polite word: the command must save, and end with 75."""
    assert run.process is not None
    run.process.terminate()
    code = run.process.wait(timeout=RECOVER_SECONDS)
    assert code == 75, f"SIGTERM ended the command with {code}, not with 75"


def tear_checkpoint(run: Run, rng: random.Random) -> None:
    run.end()
    latest = step_folders(run.config.run_dir / "checkpoints")[0]
    file = rng.choice(sorted(path for path in latest.rglob("*.safetensors")))
    os.truncate(file, file.stat().st_size // 2)


def fill_disk_of_learners(run: Run, _rng: random.Random) -> None:
    """No learner can write a larger file any more: checkpoints are skipped, until there is room again."""
    learners = run.find("LearnerWorker")
    for learner in learners:
        learner.rlimit(psutil.RLIMIT_FSIZE, (SMALL_FILE_BYTES, resource.RLIM_INFINITY))
    said = run.log.stat().st_size
    run.wait_past(run.steps() + 1, RECOVER_SECONDS)
    assert b"a checkpoint was left out" in run.log.read_bytes()[said:], "a full disk went unnoticed"
    for learner in learners:
        learner.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill_disk_of_controller(run: Run, _rng: random.Random) -> None:
    """metrics.jsonl cannot grow: the command ends, for no line may be lost; later there is room again."""
    assert run.process is not None
    size = (run.config.run_dir / "metrics.jsonl").stat().st_size
    run.controller.rlimit(psutil.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    code = run.process.wait(timeout=RECOVER_SECONDS)
    assert code == 2, f"a full disk ended the command with {code}, not with 2"


def corrupt_pool(run: Run, rng: random.Random) -> None:
    """The command must refuse the pool by name; then it is put back."""
    run.end()
    pool = run.config.data.pool
    assert pool is not None
    kept = pool.with_suffix(".kept")
    shutil.copy(pool, kept)
    content = bytearray(pool.read_bytes())
    position = rng.randrange(len(content) // 4, len(content) // 2)
    content[position] ^= 0x15
    pool.write_bytes(content)
    run.launch()
    assert run.process is not None
    code = run.process.wait(timeout=RECOVER_SECONDS)
    os.replace(kept, pool)
    assert code == 2 and str(pool) in run.log.read_text(), f"a corrupt pool ended the command with {code}"


FAULTS: dict[str, Strike] = {
    "engine killed": signal_one(["RolloutWorker"], signal.SIGKILL),
    "engine stopped": signal_one(["RolloutWorker"], signal.SIGSTOP),
    "learner killed": signal_one(["LearnerWorker"], signal.SIGKILL),
    "learner stopped": signal_one(["LearnerWorker"], signal.SIGSTOP),
    "reward worker killed": signal_one(["function_process"], signal.SIGKILL),
    "reward worker stopped": signal_one(["function_process"], signal.SIGSTOP),
    "controller killed": kill_controller,
    "controller stopped": stop_controller,
    "controller terminated": terminate_controller,
    "checkpoint torn": tear_checkpoint,
    "disk full, learners": fill_disk_of_learners,
    "disk full, controller": fill_disk_of_controller,
    "pool corrupted": corrupt_pool,
}


def break_it(run: Run, fault: str, rng: random.Random) -> Outcome:
    """One fault, at a random moment after the next step, and what becomes of it."""
    assert run.wait_past(run.steps(), RECOVER_SECONDS), f"no step before the fault; see {run.log}"
    time.sleep(rng.uniform(0.0, MAX_DELAY_SECONDS))
    launches, step, started = run.num_launches, run.steps(), time.monotonic()
    told = run.log.stat().st_size
    survived = True
    try:
        FAULTS[fault](run, rng)
        survived = run.wait_past(max(step, 1), RECOVER_SECONDS)
    except (AssertionError, subprocess.TimeoutExpired) as error:
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
    assert all(row["policy/weight_version"] == step - 1 for step, row in by_step.items()), "a step off its policy"
    return len(times), lost, doubled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="of kinds and moments; printed, and random by default")
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=None, metavar="FAULT", help=f"of: {', '.join(FAULTS)}")
    parser.add_argument("--recipe", type=Path, default=REPOSITORY / "recipes" / "quickstart.yaml")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the run, which then stays")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    kinds = list(FAULTS) if options.only is None else options.only
    faults = [kind for _ in range(-(-options.faults // len(kinds))) for kind in rng.sample(kinds, len(kinds))]
    with tempfile.TemporaryDirectory(prefix="pacore-faults-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = [f"data.problems={folder}/problems.jsonl", f"data.pool={folder}/pool.jsonl"]
        files += [
            "data.held_out_problems=null",
            "data.held_out_pool=null",
            f"model.path={REPOSITORY}/recipes/tiny_base",
        ]
        settings = [f"run.output_dir={folder}", "run.name=run", f"run.seed={seed}", f"trainer.steps={MANY_STEPS}"]
        config = load_config(options.recipe, [*settings, *files, *PRESET, *options.overrides])
        write_data(config, num_problems=4 * config.ppo.problems_per_step)
        run = Run(config, folder)
        outcomes: list[Outcome] = []
        try:
            run.launch()
            for fault in faults[: options.faults]:
                outcomes.append(break_it(run, fault, rng))
                print(json.dumps(outcomes[-1].__dict__), flush=True)
        finally:
            run.end()
        steps, lost, doubled = audit(config)
        events = config.run_dir / EVENTS
        num_events = (
            Counter(json.loads(line)["event"] for line in events.read_text().splitlines()) if events.exists() else {}
        )
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
                "events": dict(num_events),
            }
        )
    )


if __name__ == "__main__":
    main()
