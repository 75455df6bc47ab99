"""Files of a checkpoint: on the disk for good, with the hash that tells later whether they are whole."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

BLOCK_BYTES = 4 * 1024**2
HASHING_THREADS = 8
_OS_ERROR = re.compile(r"\(os error (\d+)\)|code: (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """One file of a checkpoint."""

    path: str
    """Relative to the checkpoint's folder."""
    num_bytes: int
    sha256: str


@contextmanager
def disk_errors() -> Iterator[None]:
    """safetensors wraps what the system says of a full disk in an error of its own; here it is an ``OSError``."""
    try:
        yield
    except SafetensorError as error:
        match = _OS_ERROR.search(str(error))
        if match is None:
            raise
        number = int(match[1] or match[2])
        raise OSError(number, f"{os.strerror(number)} ({error})") from error


def sync_and_hash(path: Path, folder: Path) -> WrittenFile:
    """Flush a file to the disk, and hash what a reader gets of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.sha256()
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
        size = file.tell()
    return WrittenFile(path=str(path.relative_to(folder)), num_bytes=size, sha256=digest.hexdigest())


def missing_part(folder: Path, files: Sequence[WrittenFile]) -> str | None:
    """The first file that has not the size that was written, in words; None where all have."""
    for file in files:
        size = _size(folder / file.path)
        if size != file.num_bytes:
            return f"{file.path} has {size} bytes instead of {file.num_bytes}"
    return None


def damage(folder: Path, files: Sequence[WrittenFile]) -> str | None:
    """What is wrong with the first file that is not what was written; None where all are whole."""
    missing = missing_part(folder, files)  # first: sizes cost nothing
    if missing is not None:
        return missing
    with ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hash") as threads:
        for file, digest in zip(files, threads.map(lambda file: _sha256(folder / file.path), files), strict=True):
            if digest != file.sha256:
                return f"{file.path} does not have its checksum"
    return None


def replace_folder(partial: Path, folder: Path) -> None:
    """Give a finished folder its name; an older one makes room first."""
    outdated = folder.with_name(f".{folder.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if folder.exists():
        folder.rename(outdated)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(outdated, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
