"""What the commands do: each function puts a run together from the rooms, and takes it apart again.

Inputs are read and checked before the cluster starts, so that a wrong path costs a second and not a minute.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_curation.pools import fill_pool
from data_curation.stages import select_stage1, select_stage2
from data_curation.synthesis_accuracy import measure_synthesis_accuracy
from pacore_rl.config import Config, RewardConfig
from pacore_rl.evaluation.configurations import evaluate_configurations
from pacore_rl.evaluation.held_out import evaluate_held_out
from pacore_rl.evaluation.report import EvaluationReport, save_report
from pacore_rl.evaluation.table import report_table
from pacore_rl.interfaces import ChatTokenizer, Generator, MetricSink, Scorer
from pacore_rl.problems import load_problems, save_problems, write_atomically
from pacore_rl.recipes import resolved_yaml
from pacore_rl.reporting.console import ConsoleSink
from pacore_rl.reporting.curves import plot_curves
from pacore_rl.reporting.jsonl import JsonlSink
from pacore_rl.reporting.wandb_sink import WandbSink
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.trainer import Pool, Trainer
from pacore_rl.types import PoolMessage, Problem

logger = logging.getLogger(__name__)
console = Console()


def train(config: Config) -> Path:
    """``pacore-rl train``: the whole run. Returns its folder."""
    from pacore_rl.engine.cluster import open_engine

    problems = load_checked_problems(config.data.problems, config.reward)
    pool = load_pool(config.data.pool, problems) if config.data.pool else {}
    held_out = load_held_out(config)
    tokenizer = load_tokenizer(config.model.path)
    run_dir = prepare_run_dir(config)
    with open_scorer(config) as scorer, open_sinks(config) as sinks, open_engine(config) as engine:
        Trainer(
            config=config,
            engine=engine,
            scorer=scorer,
            tokenizer=tokenizer,
            problems=problems,
            pool=pool,
            sinks=sinks,
            evaluate_held_out=held_out.evaluation(config, engine.generator, scorer, tokenizer) if held_out else None,
        ).train()
    plot_curves(run_dir / "metrics.jsonl", run_dir / "curves.png")
    return run_dir


def make_pool(config: Config, *, problems: Path, out: Path, size: int | None = None, model: str | None = None) -> Path:
    """``pacore-rl pool``: bring the pool at ``out`` up to ``size`` messages per problem."""
    from pacore_rl.engine.cluster import open_engine

    size, path = size or config.synthesis.pool_size, model or config.model.path
    selected = load_checked_problems(problems, config.reward)
    pool = MessagePool.open(out)
    tokenizer = load_tokenizer(path)
    with open_scorer(config) as scorer, open_engine(config, workers="rollout", model_path=path) as engine:
        with progress_bar("messages", len(selected)) as update:
            fill_pool(
                pool,
                selected,
                size=size,
                model=fingerprint(path),
                generator=engine.generator,
                scorer=scorer,
                tokenizer=tokenizer,
                config=config,
                progress=update,
            )
    return out


def curate_stage1(config: Config, *, problems: Path, pool: Path, out: Path) -> Path:
    """``pacore-rl curate stage1``: keep problems with 0 < message accuracy < bound; needs no engine."""
    kept, report = select_stage1(
        load_checked_problems(problems, config.reward), MessagePool.open(pool, must_exist=True)
    )
    save_problems(out, kept)
    console.print(report.as_text())
    return out


def curate_stage2(config: Config, *, problems: Path, pool: Path, out: Path, model: str | None = None) -> Path:
    """``pacore-rl curate stage2``: keep problems with 0 < synthesis accuracy < 1 under a stage-1 checkpoint."""
    from pacore_rl.engine.cluster import open_engine

    path = model or config.model.path
    selected = load_checked_problems(problems, config.reward)
    messages = load_pool(pool, selected)
    tokenizer = load_tokenizer(path)
    with open_scorer(config) as scorer, open_engine(config, workers="rollout", model_path=path) as engine:
        accuracies = measure_synthesis_accuracy(
            selected, messages, generator=engine.generator, scorer=scorer, tokenizer=tokenizer, config=config
        )
    kept, report = select_stage2(selected, accuracies)
    save_problems(out, kept)
    console.print(report.as_text())
    return out


def evaluate(config: Config, *, model: str | None = None, out: Path) -> Path:
    """``pacore-rl evaluate``: controls and K configurations on the held-out problems; writes ``out``."""
    from pacore_rl.engine.cluster import open_engine

    held_out = load_held_out(config)
    if held_out is None:
        raise ValueError(
            "evaluation needs data.held_out_problems and data.held_out_pool; name a problem file and a pool that "
            "`pacore-rl pool` made for it."
        )
    path = model or config.model.path
    tokenizer = load_tokenizer(path)
    with open_scorer(config) as scorer, open_engine(config, workers="rollout", model_path=path) as engine:
        report = held_out.report(config, engine.generator, scorer, tokenizer)
    save_report(report, out)
    console.print(report_table(report, title=f"{path} on {len(held_out.problems)} held-out problems"))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out problems and their pool."""

    problems: tuple[Problem, ...]
    pool: Pool

    def first(self, num_problems: int) -> HeldOut:
        """The same with fewer problems, for evaluations that happen often."""
        return HeldOut(problems=self.problems[:num_problems], pool=self.pool)

    def evaluation(self, config: Config, generator: Generator, scorer: Scorer, tokenizer: ChatTokenizer):
        """The periodic evaluation of a training run, as ``Trainer`` takes it."""

        def at_step(step: int) -> Mapping[str, float]:
            return evaluate_held_out(
                self.problems,
                self.pool,
                generator=generator,
                scorer=scorer,
                tokenizer=tokenizer,
                config=config,
                seed=config.run.seed,
                responses_per_problem=config.evaluation.responses_per_problem,
            ).metrics("heldout")

        return at_step

    def report(
        self, config: Config, generator: Generator, scorer: Scorer, tokenizer: ChatTokenizer
    ) -> EvaluationReport:
        """The final evaluation: one round with its controls, then every configuration beside self-consistency."""
        shared = {"generator": generator, "scorer": scorer, "tokenizer": tokenizer, "config": config}
        seed = config.run.seed
        return EvaluationReport(
            held_out=evaluate_held_out(
                self.problems,
                self.pool,
                seed=seed,
                responses_per_problem=config.evaluation.responses_per_problem,
                **shared,
            ),
            configurations=evaluate_configurations(
                self.problems,
                configurations=config.evaluation.configurations,
                seed=seed,
                self_consistency_pool=config.evaluation.self_consistency_pool,
                samples_per_problem=config.evaluation.samples_per_problem,
                **shared,
            ),
        )


def load_checked_problems(path: Path, rewards: RewardConfig) -> tuple[Problem, ...]:
    """Problems whose ground truth their own reward accepts.

    Raises:
        ValueError: the file is missing or corrupt, or a ground truth does not verify against itself.
    """
    problems = load_problems(path)
    if not problems:
        raise ValueError(f"{path} holds no problems; check the path, or loosen the filter that wrote it.")
    bad = check_ground_truths(problems, rewards)
    if bad:
        listing = "\n".join(f"  {problem.id}: {problem.ground_truth[:80]!r}: {reason}" for problem, reason in bad[:8])
        raise ValueError(
            f"{len(bad)} of {len(problems)} problems in {path} have a ground truth that their reward cannot verify:\n"
            f"{listing}\nCorrect or remove them, or give them another reward (exact: its own text; judge: prose)."
        )
    return problems


def load_pool(path: Path, problems: Sequence[Problem]) -> dict[str, tuple[PoolMessage, ...]]:
    """The pool of the problems, as a mapping by problem id.

    Raises:
        ValueError: the pool is missing or corrupt, or a problem has no message in it.
    """
    pool = MessagePool.open(path, must_exist=True)
    messages = {problem.id: pool.messages(problem.id) for problem in problems}
    without = [problem_id for problem_id, found in messages.items() if not found]
    if without:
        raise ValueError(
            f"{len(without)} of {len(problems)} problems have no message in {path} (first: {without[0]}); run "
            f"`pacore-rl pool` on the same problem file with --out {path}, which adds what is missing."
        )
    return messages


def load_held_out(config: Config) -> HeldOut | None:
    if config.data.held_out_problems is None or config.data.held_out_pool is None:
        return None
    problems = load_checked_problems(config.data.held_out_problems, config.reward)[: config.evaluation.num_problems]
    return HeldOut(problems=problems, pool=load_pool(config.data.held_out_pool, problems))


def fingerprint(model_path: str) -> str:
    """A short name of the weights: the folder's name and a hash of its weight files.

    A hub id names itself.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        return model_path
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        digest.update(file.name.encode() + str(file.stat().st_size).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"{folder.name}-{digest.hexdigest()[:12]}"


def prepare_run_dir(config: Config) -> Path:
    """Create the run's folder and store the resolved recipe in it.

    Raises:
        ValueError: the folder holds the metrics of another run; nothing is overwritten.
    """
    run_dir = config.run_dir
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists() and metrics.stat().st_size:
        raise ValueError(
            f"{run_dir} already holds a run; nothing was changed. Give this one another name "
            "(run.name=...), or move the old folder away."
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    text = resolved_yaml(config).encode()
    write_atomically(run_dir / "recipe.yaml", lambda file: file.write(text))
    return run_dir


@contextmanager
def open_scorer(config: Config) -> Iterator[LocalScorer]:
    # Messages reach the scorer compacted, so there is no reasoning left to cut off: hence the empty marker.
    scorer = LocalScorer(config.reward, end_of_reasoning="")
    try:
        yield scorer
    finally:
        scorer.close()


@contextmanager
def open_sinks(config: Config, *, total_steps: int | None = None) -> Iterator[list[MetricSink]]:
    """Console, metrics.jsonl and wandb, closed on the way out whatever happens."""
    run_dir = config.run_dir
    sinks: list[MetricSink] = [JsonlSink(run_dir / "metrics.jsonl")]
    if config.logging.console:
        sinks.append(ConsoleSink(total_steps or config.trainer.steps, console))
    if config.logging.wandb_project:
        sinks.append(
            WandbSink(
                project=config.logging.wandb_project,
                name=config.run.name,
                folder=run_dir,
                config=json.loads(config.model_dump_json()),
            )
        )
    try:
        yield sinks
    finally:
        for sink in sinks:
            sink.close()


@contextmanager
def progress_bar(unit: str, total: int):
    """A bar with time left on a terminal; yields ``update(done, total)``."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(unit, total=total)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update
