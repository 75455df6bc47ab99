"""The manifest of a checkpoint: everything that is not a file of numbers, and the checksums of those that are.

RUN/checkpoints/
    step_000050/              complete, or it would not have this name
        manifest.json         written last
        actor/  critic/       Hugging Face folders
        state/                what each learner rank keeps (``learner_files``)
        rollouts.*            responses in flight, of off-policy runs
    .step_000100.partial/     being written, or left by a crash
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pacore_rl.checkpoints.files import WrittenFile, damage

SCHEMA = 2
FILE_NAME = "manifest.json"
_NAME = re.compile(r"step_(\d{6,})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A finished step, and all that the next one depends on beside the files."""

    step: int
    first_step: int
    """Of the run: what happens every n steps counts from it."""
    weight_version: int
    online_version: int | None
    """Of the weights that wrote the online messages in use; None where there are none."""
    online_problems: tuple[str, ...]
    """Ids of the problems that have such messages."""
    num_equal_rewards: int
    """Steps in a row, up to this one, in which all rewards were equal."""
    journal_bytes: Mapping[str, int]
    """Length of metrics.jsonl and its like by name: what follows was written later."""
    score: float | None
    """``heldout/synthesis`` of these weights, where they were evaluated."""
    data: Mapping[str, str]
    """Fingerprints of problems and pool by setting."""
    recipe: Mapping[str, Any]
    """The resolved recipe, section by section."""
    random: Mapping[str, Any]
    """Random states of the controller (``random_states``); each learner rank's are in its own file."""
    files: tuple[WrittenFile, ...]

    def to_json(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises ``ValueError`` where the text is no manifest of this release."""
        try:
            fields = json.loads(data)
            if fields.pop("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            fields["files"] = tuple(WrittenFile(**file) for file in fields["files"])
            fields["online_problems"] = tuple(fields["online_problems"])
            return cls(**fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it lacks or has a field ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    manifest: Manifest


def checkpoint_name(step: int) -> str:
    return f"step_{step:06d}"


def step_folders(checkpoints: Path) -> list[Path]:
    """Folders with the name of a complete checkpoint, the latest first."""
    if not checkpoints.is_dir():
        return []
    steps = [(int(match[1]), path) for path in checkpoints.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(steps, reverse=True)]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, its files unread.

    Raises:
        ValueError: there is none, or it is of another release.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ValueError(f"{folder} holds no {FILE_NAME}; give a folder such as RUN/checkpoints/step_000050.")
    try:
        return Manifest.from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint whose every file is what was written.

    Raises:
        ValueError: it is none, or a file is damaged or missing.
    """
    manifest = read_manifest(folder)
    wrong = damage(folder, manifest.files)
    if wrong is not None:
        raise ValueError(f"{folder} is damaged: {wrong}; give an earlier checkpoint.")
    return Checkpoint(folder=folder, manifest=manifest)


def latest_checkpoint(checkpoints: Path, say: Callable[[str], None] = _log.warning) -> Checkpoint | None:
    """The latest whole checkpoint of a run; damaged ones are skipped, each with a line through ``say``."""
    for folder in step_folders(checkpoints):
        try:
            return open_checkpoint(folder)
        except ValueError as error:
            say(f"skipped a checkpoint that is not whole: {error}")
    return None


def manifests(checkpoints: Path) -> Iterator[tuple[Path, Manifest]]:
    """Complete checkpoints whose manifest can be read, the latest first."""
    for folder in step_folders(checkpoints):
        try:
            yield folder, read_manifest(folder)
        except ValueError as error:
            _log.warning("left alone: %s", error)
