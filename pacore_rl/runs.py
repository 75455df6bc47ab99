"""What ``pacore-rl train`` and ``evaluate`` do: a run is put together from the rooms, and taken apart again.

Inputs are read and checked before the cluster starts, so that a wrong path costs a second and not a minute.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pacore_rl.checkpoints.compatibility import data_fingerprints
from pacore_rl.checkpoints.manifest import Checkpoint, step_folders
from pacore_rl.config import Config
from pacore_rl.curation_runs import online_writer
from pacore_rl.evaluation.held_out_set import HeldOut, load_held_out
from pacore_rl.evaluation.report import save_report
from pacore_rl.evaluation.table import report_table
from pacore_rl.inputs import TrainingData, keep_verdicts, load_training_data
from pacore_rl.interfaces import Engine, MetricSink, SampleSink
from pacore_rl.preflight import check_room, check_run
from pacore_rl.problems import write_atomically
from pacore_rl.recipes import resolved_yaml
from pacore_rl.reporting.console import ConsoleSink
from pacore_rl.reporting.curves import plot_curves
from pacore_rl.reporting.jsonl import JsonlSink, length
from pacore_rl.reporting.sample_file import SAMPLES, SampleFile
from pacore_rl.reporting.terminal import console
from pacore_rl.reporting.wandb_sink import WandbSink
from pacore_rl.resuming import begin_anew, open_store, prepare_resume, train_through
from pacore_rl.run_lock import run_lock
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.trainer import Trainer


def train(config: Config, *, resume: str | None = None) -> Path:
    """``pacore-rl train``: the whole run, restarted from its last checkpoint where a worker is lost.

    Args:
        resume: ``auto`` goes on from the latest whole checkpoint of the run's folder, or begins where there is none;
            else the folder of a checkpoint; None begins.

    Returns:
        The run's folder.
    """
    data = load_training_data(config)
    check_run(config, data.problems)
    held_out = load_held_out(config)
    with run_lock(config.run_dir):
        return _train(config, data, held_out, resume)


def _train(config: Config, data: TrainingData, held_out: HeldOut | None, resume: str | None) -> Path:
    from pacore_rl.engine.scoring import open_run_scorer

    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    if held_out is not None:
        check_room(config, tokenizer, held_out.problems)
    fingerprints = data_fingerprints(data.problems, data.pool)
    checkpoint = prepare_resume(config, resume, fingerprints)
    run_dir = prepare_run_dir(config, goes_on=resume is not None)
    keep_verdicts(config, data)
    if checkpoint is not None and checkpoint.manifest.step >= config.trainer.steps:
        console.print(f"  all {config.trainer.steps} steps (trainer.steps) are done", highlight=False)
        return run_dir
    with open_sinks(config) as sinks, open_store(config, fingerprints) as store:

        def attempt(engine: Engine, start: Checkpoint | None) -> None:
            with open_run_scorer(config, [*data.problems, *(held_out.problems if held_out else ())]) as scorer:
                Trainer(
                    config=config,
                    engine=engine,
                    scorer=scorer,
                    tokenizer=tokenizer,
                    problems=data.problems,
                    pool=data.pool,
                    sinks=sinks.metrics,
                    sample_sinks=sinks.samples,
                    evaluate_held_out=held_out.evaluation(config, engine.generator, scorer, tokenizer)
                    if held_out
                    else None,
                    write_messages=online_writer(config, engine.generator, scorer, tokenizer),
                    checkpoints=store,
                ).train(resume=start)

        train_through(config, store, attempt, checkpoint)
    plot_curves(run_dir / "metrics.jsonl", run_dir / "curves.png")
    return run_dir


def evaluate(config: Config, *, model: str | None = None, out: Path) -> Path:
    """``pacore-rl evaluate``: controls and K configurations on the held-out problems; writes ``out``."""
    from pacore_rl.engine.cluster import open_engine
    from pacore_rl.engine.scoring import open_run_scorer

    held_out = load_held_out(config)
    if held_out is None:
        raise ValueError(
            "evaluation needs data.held_out_problems and data.held_out_pool; name a problem file and a pool that "
            "`pacore-rl pool` made for it."
        )
    path = model or config.model.path
    tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
    check_room(config, tokenizer, held_out.problems)
    with (
        open_engine(config, workers="rollout", model_path=path) as engine,
        open_run_scorer(config, held_out.problems) as scorer,
    ):
        report = held_out.report(config, engine.generator, scorer, tokenizer)
    save_report(report, out)
    console.print(report_table(report, title=f"{path} on {len(held_out.problems)} held-out problems"))
    return out


def prepare_run_dir(config: Config, *, goes_on: bool = False) -> Path:
    """Create the run's folder and store the resolved recipe in it; ``goes_on``: it may hold this run already.

    Raises:
        ValueError: the folder holds the metrics of another run; nothing is overwritten.
    """
    run_dir = config.run_dir
    if not goes_on and (length(run_dir / "metrics.jsonl") or step_folders(run_dir / "checkpoints")):
        raise ValueError(
            f"{run_dir} already holds a run; nothing was changed. Go on with it (--resume auto), give this one another "
            "name (run.name=...), or move the old folder away."
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    if not goes_on:
        begin_anew(config)
    text = resolved_yaml(config).encode()
    write_atomically(run_dir / "recipe.yaml", lambda file: file.write(text))
    return run_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where a run reports to."""

    metrics: Sequence[MetricSink]
    samples: Sequence[SampleSink]


@contextmanager
def open_sinks(config: Config, *, total_steps: int | None = None) -> Iterator[Sinks]:
    """Console, metrics.jsonl, samples.jsonl and wandb, closed on the way out whatever happens."""
    run_dir = config.run_dir
    metrics: list[MetricSink] = [JsonlSink(run_dir / "metrics.jsonl")]
    samples: list[SampleSink] = [SampleFile(run_dir / SAMPLES)]
    if config.logging.console:
        metrics.append(ConsoleSink(total_steps or config.trainer.steps, console))
    if config.logging.wandb_project:
        wandb = WandbSink(
            project=config.logging.wandb_project,
            name=config.run.name,
            folder=run_dir,
            config=json.loads(config.model_dump_json()),
        )
        metrics.append(wandb)
        samples.append(wandb)
    try:
        yield Sinks(metrics=metrics, samples=samples)
    finally:
        for sink in (*metrics, *samples):
            sink.close()
