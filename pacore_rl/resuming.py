"""Going on: from a checkpoint on the disk, and, where a worker is lost under way, from the last one by itself.

A run may begin from the checkpoint of another one. Which one, its folder remembers in ``origin.json``: until it has a
checkpoint of its own, it goes on from there, whatever ends it.
"""

from __future__ import annotations

import json
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
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.jsonl import JOURNALS, cut_back, length
from pacore_rl.reporting.terminal import console

ORIGIN = "origin.json"
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
        ValueError: there is no such checkpoint, none of the run's is whole any more, or the recipe or the data have
            changed in what must not.
    """
    if resume is None:
        return None
    if resume == "auto":
        checkpoint = latest(config)
    else:
        checkpoint = _given(config, Path(resume))
    if checkpoint is None:
        say(f"no checkpoint in {config.run_dir / 'checkpoints'}: the run begins")
    else:
        for line in changed_settings(checkpoint, config):
            say(f"changed since the checkpoint: {line}")
        check_data(checkpoint, fingerprints)
        say(f"going on after step {checkpoint.manifest.step}, from {checkpoint.folder}")
        if not _is_own(config, checkpoint.folder):
            _remember_origin(config, checkpoint.folder)
    go_back_to(config, checkpoint)
    return checkpoint


def latest(config: Config) -> Checkpoint | None:
    """The checkpoint that the run goes on from: its latest whole one, or the one it began from; None where it begins.

    Raises:
        ValueError: there are checkpoints, and none is whole; to begin anew would undo all that the run has logged.
    """
    own = config.run_dir / "checkpoints"
    checkpoint = latest_checkpoint(own, say)
    if checkpoint is None and (damaged := step_folders(own)):
        raise ValueError(
            f"none of the {len(damaged)} checkpoints in {own} is whole (see above). Put their files back; or begin "
            "anew in another folder (run.name=..., a quickstart's --out), from weights that you trust."
        )
    if checkpoint is None and (origin := _origin(config)) is not None:
        return open_checkpoint(origin)
    return checkpoint


def go_back_to(config: Config, checkpoint: Checkpoint | None) -> None:
    """Undo what the run wrote after a checkpoint (None: everything): lines of journals, and later checkpoints."""
    is_own = checkpoint is not None and _is_own(config, checkpoint.folder)
    for name in JOURNALS:
        if (path := config.run_dir / name).exists():
            cut_back(path, checkpoint.manifest.journal_bytes.get(name, 0) if checkpoint is not None and is_own else 0)
    for folder in step_folders(config.run_dir / "checkpoints"):
        if is_own and checkpoint is not None and folder.name > checkpoint.folder.name:
            folder.rename(folder.with_name(f"{folder.name}.left_behind_{time.time():.0f}"))


def begin_anew(config: Config) -> None:
    """Undo what a try left that ended before its first step, and forget where it had begun."""
    go_back_to(config, None)
    (config.run_dir / ORIGIN).unlink(missing_ok=True)


def _given(config: Config, folder: Path) -> Checkpoint:
    """The checkpoint that ``--resume`` names; of another run, it stands for what this one has made of it since."""
    if _is_own(config, folder):
        return open_checkpoint(folder)
    origin = _origin(config)
    if origin is not None and origin == folder.resolve():
        return latest(config) or open_checkpoint(folder)
    if length(config.run_dir / "metrics.jsonl"):
        raise ValueError(
            f"{config.run_dir} holds a run of its own, and {folder} is a checkpoint of another one; give this one "
            "another name (run.name=...)."
        )
    return open_checkpoint(folder)


def _is_own(config: Config, checkpoint: Path) -> bool:
    return checkpoint.resolve().parent == (config.run_dir / "checkpoints").resolve()


def _origin(config: Config) -> Path | None:
    """The checkpoint of another run that this one began from."""
    path = config.run_dir / ORIGIN
    return Path(json.loads(path.read_text(encoding="utf-8"))["checkpoint"]) if path.exists() else None


def _remember_origin(config: Config, checkpoint: Path) -> None:
    config.run_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"checkpoint": str(checkpoint.resolve())}) + "\n"
    write_atomically(config.run_dir / ORIGIN, lambda file: file.write(text.encode()))


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
            _settle(store)
            last = latest(config)
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


def _settle(store: CheckpointStore) -> None:
    """Wait for a checkpoint that was being written; it may or may not have been completed."""
    try:
        store.finish()
    except (WorkerDied, RuntimeError, TimeoutError) as error:  # the workers that wrote it are gone
        say(f"the checkpoint under way is lost too: {error}")
    store.clean()


def _has_advanced(before: Checkpoint | None, now: Checkpoint | None) -> bool:
    return now is not None and (before is None or now.manifest.step > before.manifest.step)
