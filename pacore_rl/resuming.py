"""Going on: from a checkpoint on the disk, and, where a worker is lost under way, from the last one by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from pacore_rl.checkpoints.compatibility import changed_settings, check_data
from pacore_rl.checkpoints.manifest import Checkpoint, latest_checkpoint, open_checkpoint, step_folders
from pacore_rl.checkpoints.store import CheckpointStore
from pacore_rl.config import Config
from pacore_rl.events import record_event
from pacore_rl.failures import WorkerDied
from pacore_rl.interfaces import Engine
from pacore_rl.reporting.jsonl import JOURNALS, cut_back, length
from pacore_rl.reporting.terminal import console

_log = logging.getLogger(__name__)


class OpenEngine(Protocol):
    """``engine.cluster.open_engine``, or what a test has in its place."""

    def __call__(self, config: Config, *, wait_seconds: float) -> AbstractContextManager[Engine]: ...


def say(text: str) -> None:
    console.print(f"  {text}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def open_store(config: Config, fingerprints: Mapping[str, str]) -> Iterator[CheckpointStore]:
    """The run's checkpoints, without what a crash left of them."""
    store = CheckpointStore(config, fingerprints, say)
    store.clean()
    try:
        yield store
    finally:
        store.close()


def prepare_resume(config: Config, resume: str | None, fingerprints: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint to go on from, with the run's journals cut back to it; None where the run begins.

    Raises:
        ValueError: there is no such checkpoint, or the recipe or the data have changed in what must not.
    """
    if resume is None:
        return None
    own = config.run_dir / "checkpoints"
    if resume == "auto":
        checkpoint = latest_checkpoint(own, say)
    else:
        checkpoint = open_checkpoint(Path(resume))
        if checkpoint.folder.resolve().parent != own.resolve() and length(config.run_dir / "metrics.jsonl"):
            raise ValueError(
                f"{config.run_dir} holds a run of its own, and {resume} is a checkpoint of another one; give this one "
                "another name (run.name=...)."
            )
    if checkpoint is None:
        say(f"no whole checkpoint in {own}: the run begins")
    else:
        for line in changed_settings(checkpoint, config):
            say(f"changed since the checkpoint: {line}")
        check_data(checkpoint, fingerprints)
        say(f"going on after step {checkpoint.manifest.step}, from {checkpoint.folder}")
    go_back_to(config, checkpoint)
    return checkpoint


def go_back_to(config: Config, checkpoint: Checkpoint | None) -> None:
    """Undo what the run wrote after a checkpoint (None: everything): lines of journals, and later checkpoints."""
    is_own = checkpoint is not None and checkpoint.folder.resolve().parent == (config.run_dir / "checkpoints").resolve()
    for name in JOURNALS:
        if (path := config.run_dir / name).exists():
            cut_back(path, checkpoint.manifest.journal_bytes.get(name, 0) if checkpoint is not None and is_own else 0)
    for folder in step_folders(config.run_dir / "checkpoints"):
        if is_own and checkpoint is not None and folder.name > checkpoint.folder.name:
            folder.rename(folder.with_name(f"{folder.name}.left_behind_{time.time():.0f}"))


def train_through(
    config: Config,
    store: CheckpointStore,
    attempt: Callable[[Engine, Checkpoint | None], None],
    start: Checkpoint | None,
    *,
    open_engine: OpenEngine | None = None,
) -> None:
    """Run ``attempt`` on an engine, and again on a fresh one from the last checkpoint where a worker is lost.

    Everything starts anew, engines too: it is the one way that serves for a killed process, a hung one and a lost node.

    Raises:
        WorkerDied: workers were lost ``surviving.max_restarts`` + 1 times without a checkpoint between.
    """
    if open_engine is None:
        from pacore_rl.engine import cluster

        open_engine = cluster.open_engine
    num_restarts, limit = 0, config.surviving.max_restarts
    while True:
        wait_seconds = config.surviving.node_wait_seconds if num_restarts else 0.0
        with open_engine(config, wait_seconds=wait_seconds) as engine:
            try:
                return attempt(engine, start)
            except (WorkerDied, TimeoutError) as error:
                if isinstance(error, TimeoutError) and error.errno is not None:
                    raise  # the system's, not a limit of ours
                lost = error
            engine.close()
            last = latest_after_loss(store)
        num_restarts = 1 if _has_advanced(start, last) else num_restarts + 1
        if num_restarts > limit:
            raise WorkerDied(
                f"{lost}\nsurviving.max_restarts={limit} allows no further restart without a checkpoint in between. "
                "Mend what ends the workers, and go on with --resume auto."
            ) from lost
        start, step = last, 0 if last is None else last.manifest.step
        say(f"{lost}\n  restart {num_restarts} of at most {limit}: going on after step {step}")
        record_event(config.run_dir, "restart", step=step, cause=str(lost))
        go_back_to(config, start)


def latest_after_loss(store: CheckpointStore) -> Checkpoint | None:
    """The checkpoint that a restart goes on from; one that was being written may or may not have been completed."""
    try:
        store.finish()
    except (WorkerDied, RuntimeError, TimeoutError) as error:  # the workers that wrote it are gone
        say(f"the checkpoint under way is lost too: {error}")
    store.clean()
    return latest_checkpoint(store.folder, say)


def _has_advanced(before: Checkpoint | None, now: Checkpoint | None) -> bool:
    return now is not None and (before is None or now.manifest.step > before.manifest.step)
