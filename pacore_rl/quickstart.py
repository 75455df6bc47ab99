"""PaCoRe in miniature, on one machine without a GPU: everything that a cluster run does, in under twenty minutes.

    problems -> pools -> stage 1 -> PPO -> stage 2 -> PPO, with an evaluation before and after

One that was cut off is gone on with by the same command: pools and evaluations that are on the disk are kept, and
training continues from its last checkpoint.

The task is built so that one trajectory cannot solve it (``data_curation.chain_sums``): a reply holds three
additions, chains have five to seven numbers. A reply finishes one reliably only by going on from what another
trajectory has found. The base model (``recipes/tiny_base``) sometimes goes on from a reference, but was never shown a
chain finished that way; PPO has to find out that it pays.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_curation.chain_sums import chain_problem, sample_chain
from data_curation.stages import StageReport, select_stage1, select_stage2
from pacore_rl.checkpoints.compatibility import check_data, data_fingerprints
from pacore_rl.checkpoints.manifest import Checkpoint, latest_checkpoint
from pacore_rl.collection import Pool
from pacore_rl.config import Config
from pacore_rl.curation_runs import fill_watched_pool, online_writer, watched_synthesis_accuracy
from pacore_rl.engine.cluster import RayEngine, open_engine
from pacore_rl.engine.scoring import open_run_scorer
from pacore_rl.evaluation.held_out_set import HeldOut
from pacore_rl.evaluation.report import EvaluationReport, load_report, save_report
from pacore_rl.inputs import fingerprint
from pacore_rl.interfaces import ChatTokenizer, Scorer
from pacore_rl.problems import load_problems, save_problems, write_atomically
from pacore_rl.quickstart_report import write_report
from pacore_rl.recipes import load_config, resolved_yaml
from pacore_rl.reporting.terminal import console
from pacore_rl.resuming import go_back_to, open_store, say
from pacore_rl.run_lock import run_lock
from pacore_rl.runs import Sinks, open_sinks, prepare_run_dir
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.termination import TerminatedSaved
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.trainer import Trainer
from pacore_rl.types import Problem

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NUM_PHASES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything. Problem counts are before the stage-1 filter."""

    num_train: int
    num_held_out: int
    num_long: int
    """Chains of eight to ten numbers: never trained on, and not filtered."""
    stage1_steps: int
    stage2_steps: int
    max_held_out: int
    """Held-out problems kept after the filter."""


PLANS = {
    "smoke": Plan(num_train=32, num_held_out=24, num_long=4, stage1_steps=1, stage2_steps=2, max_held_out=8),
    "quick": Plan(num_train=480, num_held_out=320, num_long=64, stage1_steps=40, stage2_steps=30, max_held_out=128),
    "full": Plan(num_train=600, num_held_out=640, num_long=96, stage1_steps=50, stage2_steps=40, max_held_out=272),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quickstart:
    """One quickstart: its machinery, and one method a phase."""

    config: Config
    plan: Plan
    engine: RayEngine
    scorer: Scorer
    tokenizer: ChatTokenizer
    sinks: Sinks
    goes_on: bool = False
    """Whether it has been cut off before."""
    start: Checkpoint | None = None
    """Its last checkpoint then."""

    @property
    def data(self) -> Path:
        return self.config.run_dir / "data"

    def run(self) -> None:
        plan, started = self.plan, time.monotonic()
        phase(1, "pools: the base model answers every problem 24 times")
        train, train_pool = self.make_pool("train", plan.num_train, range(5, 8))
        held_out, held_out_pool = self.make_pool("held_out", plan.num_held_out, range(5, 8))
        long, long_pool = self.make_pool("long", plan.num_long, range(8, 11))

        phase(2, "stage 1: keep problems whose messages are sometimes, and rarely, right")
        stage1 = self.filter_stage1("stage1", train, train_pool)
        test = self.filter_stage1("held_out", held_out, held_out_pool, most=plan.max_held_out)

        phase(3, "evaluation before training")
        sets = {
            "held_out": HeldOut(problems=test, pool=messages(test, held_out_pool)),
            "long": HeldOut(problems=long, pool=messages(long, long_pool)),
        }
        before = self.evaluate(sets, "before")

        phase(4, f"PPO on stage 1: {plan.stage1_steps} steps")
        self.train(stage1, train_pool, sets["held_out"], first_step=1, steps=plan.stage1_steps)

        phase(5, "stage 2: messages of the stage-1 policy; keep what is sometimes right")
        stage2, stage2_pool = self.make_stage2(stage1)

        phase(6, f"PPO on stage 2: {plan.stage2_steps} steps")
        self.train(stage2, stage2_pool, sets["held_out"], first_step=plan.stage1_steps + 1, steps=plan.stage2_steps)

        phase(7, "evaluation after training")
        after = self.evaluate(sets, "after")
        seconds = None if self.goes_on else time.monotonic() - started
        write_report(self.config, before, after, seconds=seconds)

    def make_pool(self, name: str, num_problems: int, lengths: range) -> tuple[tuple[Problem, ...], MessagePool]:
        """Fresh chains, their pool of base-model messages, and both on disk. No chain is in two sets."""
        problems = chain_problems(name, num_problems, lengths, seed=self.config.run.seed)
        save_problems(self.data / f"{name}_candidates.jsonl", problems)
        return problems, self.fill(name, problems, model=fingerprint(self.config.model.path))

    def fill(self, name: str, problems: Sequence[Problem], *, model: str) -> MessagePool:
        """The pool of ``problems`` at ``<name>_pool.jsonl``, written by the engine's current weights."""
        self.engine.turn_to("generation")
        pool = MessagePool.open(self.data / f"{name}_pool.jsonl")
        fill_watched_pool(
            pool,
            problems,
            model=model,
            size=self.config.synthesis.pool_size,
            unit=f"{name}: messages",
            generator=self.engine.generator,
            scorer=self.scorer,
            tokenizer=self.tokenizer,
            config=self.config,
        )
        return pool

    def tell(self, name: str, stage: StageReport) -> None:
        console.print(
            f"  {name}: {stage.num_kept} of {stage.num_problems} kept "
            f"({stage.num_never_right} never right, {stage.num_too_easy} too easy)"
        )

    def filter_stage1(
        self, name: str, problems: Sequence[Problem], pool: MessagePool, most: int | None = None
    ) -> tuple[Problem, ...]:
        kept, stage_report = select_stage1(problems, pool)
        self.tell(name, stage_report)
        kept = tuple(kept)[:most]
        save_problems(self.data / f"{name}.jsonl", kept)
        return kept

    def make_stage2(self, stage1: Sequence[Problem]) -> tuple[Sequence[Problem], MessagePool]:
        """What the policy of stage 1 gets right now and then, with messages of its own."""
        path, last_step = self.data / "stage2.jsonl", self.plan.stage1_steps
        if self.start is not None and self.start.manifest.step > last_step:  # the engine holds that policy no more
            say(f"kept from {path}")
            kept, pool = load_problems(path), MessagePool.open(self.data / "stage2_pool.jsonl", must_exist=True)
        else:
            pool = self.fill("stage2", stage1, model=f"{self.config.run.name}-step-{last_step}")
            kept = self.filter_stage2(stage1, pool)
            if len(kept) < self.config.ppo.problems_per_step:
                console.print("  too few are left to fill a step: stage 2 goes on with the problems of stage 1")
                kept = stage1
            save_problems(path, kept)
        return kept, pool

    def filter_stage2(self, problems: Sequence[Problem], pool: MessagePool) -> Sequence[Problem]:
        self.engine.turn_to("generation")
        accuracies = watched_synthesis_accuracy(
            problems,
            messages(problems, pool),
            generator=self.engine.generator,
            scorer=self.scorer,
            tokenizer=self.tokenizer,
            config=self.config,
        )
        kept, stage_report = select_stage2(problems, accuracies)
        self.tell("stage2", stage_report)
        return kept

    def train(
        self,
        problems: Sequence[Problem],
        pool: MessagePool,
        held_out: HeldOut,
        *,
        first_step: int,
        steps: int,
    ) -> None:
        """``steps`` steps from ``first_step`` on, those that an unfinished quickstart has made left out."""
        config, generator, start = with_steps(self.config, steps), self.engine.generator, self.start
        if start is not None and start.manifest.step >= first_step + steps:
            say(f"done: the run is at step {start.manifest.step}")
            return
        for outdated in self.config.run_dir.glob("after_*.json"):  # of weights that are made again
            if start is None or start.manifest.step < first_step + steps - 1:
                outdated.unlink()
        fingerprints = data_fingerprints(problems, messages(problems, pool))
        if start is not None and start.manifest.step < first_step:
            start = None  # of the phase before this one
        if start is not None:
            check_data(start, fingerprints)
            say(f"going on after step {start.manifest.step}")
        with open_store(config, fingerprints) as store:
            trainer = Trainer(
                config=config,
                engine=self.engine,
                scorer=self.scorer,
                tokenizer=self.tokenizer,
                problems=problems,
                pool=messages(problems, pool),
                sinks=self.sinks.metrics,
                sample_sinks=self.sinks.samples,
                evaluate_held_out=held_out.first(64).evaluation(config, generator, self.scorer, self.tokenizer),
                write_messages=online_writer(config, generator, self.scorer, self.tokenizer),
                checkpoints=store,
            )
            try:
                trainer.train(first_step=first_step, resume=start)
            except TerminatedSaved as saved:
                raise TerminatedSaved("the same command goes on") from saved

    def evaluate(self, sets: dict[str, HeldOut], when: str) -> dict[str, EvaluationReport]:
        """Reports by set name, stored as ``<when>_<set>.json``."""
        self.engine.turn_to("generation")
        reports = {}
        for name, held_out in sets.items():
            console.print(
                f"  {name}: {len(held_out.problems)} problems, {len(self.config.evaluation.configurations)} K"
            )
            path = self.config.run_dir / f"{when}_{name}.json"
            if path.exists():
                say(f"kept from {path}")
                reports[name] = load_report(path)
                continue
            reports[name] = held_out.report(self.config, self.engine.generator, self.scorer, self.tokenizer)
            save_report(reports[name], path)
        return reports


def run(
    *, out: Path = Path("runs/quickstart"), seed: int = 0, preset: str = "quick", overrides: Sequence[str] = ()
) -> Path:
    """The whole quickstart, or the rest of one that was cut off; returns its folder.

    Raises:
        ValueError: an unknown preset, or a folder that holds another run.
    """
    if preset not in PLANS:
        raise ValueError(f"preset {preset!r} is unknown; choose one of {', '.join(PLANS)}.")
    # The shipped model is found from any current directory; an override still wins, because it comes later.
    settings = [f"model.path={RECIPES / 'tiny_base'}", f"run.seed={seed}"]
    settings += [f"run.output_dir={out.parent}", f"run.name='{out.name}'"]
    files = {
        "problems": "stage1",
        "pool": "train_pool",
        "held_out_problems": "held_out",
        "held_out_pool": "held_out_pool",
    }
    settings += [f"data.{key}={out}/data/{file}.jsonl" for key, file in files.items()]
    config = load_config(RECIPES / "quickstart.yaml", [*settings, *overrides])
    if (config.run_dir / "summary.json").exists():
        console.print(
            f"{config.run_dir} holds a finished quickstart: here is its table. Another --out makes a new one.\n"
        )
        console.print((config.run_dir / "table.md").read_text(), markup=False, soft_wrap=True)
        return config.run_dir
    with run_lock(config.run_dir):
        run_phases(config, preset)
    return config.run_dir


def run_phases(config: Config, preset: str) -> None:
    plan = PLANS[preset]
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    goes_on, start = take_up(config, preset)
    console.print(f"[bold]PaCoRe-RL quickstart[/] seed {config.run.seed}, writing to {config.run_dir}")
    console.print("  starting Ray, vLLM and DeepSpeed (about half a minute)")
    total_steps = plan.stage1_steps + plan.stage2_steps
    with (
        open_sinks(config, total_steps=total_steps) as sinks,
        open_engine(config) as engine,
        open_run_scorer(config) as scorer,
    ):
        Quickstart(
            config=config,
            plan=plan,
            engine=engine,
            scorer=scorer,
            tokenizer=tokenizer,
            sinks=sinks,
            goes_on=goes_on,
            start=start,
        ).run()


def take_up(config: Config, preset: str) -> tuple[bool, Checkpoint | None]:
    """The run folder, made; whether an unfinished quickstart is in it; and its last checkpoint, the journals cut back.

    Raises:
        ValueError: the folder holds a run of other settings, or of another kind.
    """
    marker = config.run_dir / "quickstart.txt"
    settings = f"preset: {preset}\n{resolved_yaml(config)}"
    if marker.exists() and marker.read_text() != settings:
        raise ValueError(
            f"{config.run_dir} holds an unfinished quickstart of other settings ({marker.name}); go on with it by the "
            "command that began it, or give this one another folder (--out)."
        )
    goes_on = marker.exists()
    prepare_run_dir(config, goes_on=goes_on)
    write_atomically(marker, lambda file: file.write(settings.encode()))
    if not goes_on:
        return False, None
    say("going on with what is in the folder")
    checkpoint = latest_checkpoint(config.run_dir / "checkpoints", say)
    go_back_to(config, checkpoint)
    return True, checkpoint


def chain_problems(name: str, num_problems: int, lengths: range, *, seed: int) -> tuple[Problem, ...]:
    """Distinct chains. A hash of the chain itself says whether it may train or is held out: the sets never meet."""
    rng = random.Random(f"{seed}/{name}")
    problems: dict[str, Problem] = {}
    while len(problems) < num_problems:
        problem = chain_problem(sample_chain(rng, lengths))
        is_training = zlib.crc32(problem.id.encode()) % 2 == 0
        if is_training == (name == "train"):
            problems[problem.id] = problem
    return tuple(problems.values())


def messages(problems: Sequence[Problem], pool: MessagePool) -> Pool:
    return {problem.id: pool.messages(problem.id) for problem in problems}


def with_steps(config: Config, steps: int) -> Config:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"steps": steps})})


def phase(number: int, title: str) -> None:
    console.print(f"[bold cyan]{number}/{NUM_PHASES}[/] {title}")
