"""Writing checkpoints beside the run: whole or not at all, the last few kept, and the best.

learners            controller
snapshot  <-------- before the weights are sent             copies on the host
write_snapshot <--- begin: a thread of the controller       files, hashes
                    manifest, rename, prune                 while the next generation runs
"""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacore_rl.checkpoints.files import WrittenFile, missing_part, replace_folder, sync
from pacore_rl.checkpoints.manifest import FILE_NAME, Manifest, checkpoint_name, manifests
from pacore_rl.checkpoints.random_states import random_states
from pacore_rl.checkpoints.rollouts import InFlight, save_rollouts
from pacore_rl.config import Config
from pacore_rl.interfaces import Pending
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.jsonl import JOURNALS, length

SEEN_SECONDS = 60.0
"""For files of other hosts to be seen here: network file systems may be late."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk, an exhausted quota, a limit on the size of files."""
_log = logging.getLogger(__name__)

WriteState = Callable[[Path], Pending[list[WrittenFile]]]
"""Has the workers write what they hold a snapshot of into a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands after a step; ``Manifest`` says what the fields mean."""

    step: int
    first_step: int
    weight_version: int
    in_flight: InFlight
    online_version: int | None = None
    online_problems: tuple[str, ...] = ()
    num_equal_rewards: int = 0
    score: float | None = None


@dataclass(slots=True)
class CheckpointStore:
    """The checkpoints of one run."""

    config: Config
    data: Mapping[str, str]
    """``compatibility.data_fingerprints`` of the run."""
    say: Callable[[str], None] = _log.warning
    num_skipped: int = 0
    """Checkpoints that the disk had no room for."""
    seconds: float = 0.0
    """That the latest one took in the background."""
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="checkpoint"))
    _writing: Future[None] | None = None

    @property
    def folder(self) -> Path:
        return self.config.run_dir / "checkpoints"

    def has(self, step: int) -> bool:
        """Whether a complete checkpoint of the step is there."""
        return (self.folder / checkpoint_name(step) / FILE_NAME).is_file()

    def begin(self, position: Position, write_state: WriteState) -> None:
        """Write a checkpoint of ``position`` in the background; the one before it is finished first.

        Raises: see ``finish``.
        """
        self.finish()
        journals = {name: length(self.config.run_dir / name) for name in JOURNALS}
        self._writing = self._threads.submit(self._write, position, write_state, journals, random_states())

    def check(self) -> None:
        """Hear of a failure in the background without waiting. Raises: see ``finish``."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: the disk is full, and ``surviving.on_disk_full`` is stop.
            Exception: whatever a worker raised.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except TimeoutError:
            raise  # a worker's; it is an OSError only by name
        except OSError as error:
            said = getattr(error, "cause", error)  # Ray's copy of a worker's error keeps the number of it there only
            if said.errno not in DISK_FULL or self.config.surviving.on_disk_full == "stop":
                raise
            self.num_skipped += 1
            self.say(
                f"a checkpoint was left out: {said}. surviving.on_disk_full=skip goes on without it; make room in "
                f"{self.folder}, or lower trainer.keep_checkpoints."
            )

    def close(self) -> None:
        """Forget what is under way; a folder that it leaves is not a checkpoint, and the next run removes it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def clean(self) -> None:
        """Remove what a crash left half-written or half-removed."""
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover)

    def _write(
        self, position: Position, write_state: WriteState, journals: Mapping[str, int], random: Mapping[str, Any]
    ) -> None:
        started = time.monotonic()
        name = checkpoint_name(position.step)
        partial = self.folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            pending = write_state(partial)
            files = [*save_rollouts(partial, position.in_flight), *pending.result()]
            _require_files(partial, files)
            manifest = Manifest(
                step=position.step,
                first_step=position.first_step,
                weight_version=position.weight_version,
                online_version=position.online_version,
                online_problems=position.online_problems,
                num_equal_rewards=position.num_equal_rewards,
                journal_bytes=journals,
                score=position.score,
                data=self.data,
                recipe=self.config.model_dump(mode="json"),
                random=random,
                files=tuple(files),
            )
            write_atomically(partial / FILE_NAME, lambda file: file.write(manifest.to_json()))
            for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
                sync(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        replace_folder(partial, self.folder / name)
        self._prune()
        self.seconds = time.monotonic() - started

    def _prune(self) -> None:
        """Keep the last few and the best."""
        keep = self.config.trainer.keep_checkpoints
        if keep == 0:
            return
        found = list(manifests(self.folder))
        scored = [(manifest.score, manifest.step, folder) for folder, manifest in found if manifest.score is not None]
        best = max(scored)[2] if scored else None
        for folder, _ in found[keep:]:
            if folder != best:
                outdated = folder.with_name(f".{folder.name}.outdated")
                folder.rename(outdated)  # at once no checkpoint any more, however long the files take
                shutil.rmtree(outdated)


def _require_files(folder: Path, files: Sequence[WrittenFile]) -> None:
    """Raise ValueError where this host does not see what workers on other hosts have written."""
    deadline = time.monotonic() + SEEN_SECONDS
    while (missing := missing_part(folder, files)) is not None:
        if time.monotonic() > deadline:
            raise ValueError(
                f"a worker has written its part of the checkpoint {folder}, and it is not there on the controller's "
                f"host: {missing}. All hosts must share the run's folder under one path; set run.output_dir to a "
                "network file system."
            )
        time.sleep(0.5)
