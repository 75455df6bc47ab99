"""The phases of a quickstart, and how much of everything they make."""

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
from pacore_rl.checkpoints.manifest import Checkpoint
from pacore_rl.collection import Pool
from pacore_rl.config import Config
from pacore_rl.curation_runs import fill_watched_pool, online_writer, watched_synthesis_accuracy
from pacore_rl.engine.cluster import RayEngine
from pacore_rl.evaluation.held_out_set import HeldOut
from pacore_rl.evaluation.report import EvaluationReport, load_report, save_report
from pacore_rl.inputs import fingerprint
from pacore_rl.interfaces import ChatTokenizer, RunScorer
from pacore_rl.problems import load_problems, save_problems
from pacore_rl.quickstart.report import write_report
from pacore_rl.reporting.terminal import console
from pacore_rl.resuming import open_store, say
from pacore_rl.runs import Sinks
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.termination import TerminatedSaved
from pacore_rl.trainer import Trainer
from pacore_rl.types import Problem

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
    scorer: RunScorer
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

        num_steps = plan.stage1_steps + plan.stage2_steps
        phase(4, f"PPO on stage 1: steps 1 to {plan.stage1_steps} of {num_steps}")
        self.train(stage1, train_pool, sets["held_out"], first_step=1, steps=plan.stage1_steps)

        phase(5, "stage 2: messages of the stage-1 policy; keep what is sometimes right")
        stage2, stage2_pool = self.make_stage2(stage1)

        phase(6, f"PPO on stage 2: steps {plan.stage1_steps + 1} to {num_steps}")
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
        if start is None or start.manifest.step < first_step + steps - 1:
            for outdated in self.config.run_dir.glob("after_*.json"):  # of weights that are made again
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
        num_configurations = len(self.config.evaluation.configurations)
        for name, held_out in sets.items():
            console.print(f"  {name}: {len(held_out.problems)} problems, {num_configurations} configurations K")
            path = self.config.run_dir / f"{when}_{name}.json"
            if path.exists():
                say(f"kept from {path}")
                reports[name] = load_report(path)
                continue
            reports[name] = held_out.report(self.config, self.engine.generator, self.scorer, self.tokenizer)
            save_report(reports[name], path)
        return reports


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
