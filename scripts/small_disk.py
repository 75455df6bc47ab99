"""A disk of its own for a run under test, small enough to be filled to the brim: a tmpfs. Linux only."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


class SmallDisk:
    """A mounted tmpfs; make one with :func:`small_disk`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all room but ``leave_bytes``, until :meth:`free`; what others free meanwhile, the next call takes."""
        with self._ballast.open("ab") as ballast:
            while (room := self._room() - leave_bytes) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, room)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EINTR):  # somebody else took some of it first
                        raise

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def _room(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """Mount a disk of ``mib`` MiB at ``folder``, which is made, and unmount it at the end: what it holds is gone then.

    Raises SystemExit where this process may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib * MIB}", "pacore-small-disk", str(folder)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise SystemExit(
            f"a small disk cannot be mounted at {folder}: {made.stderr.strip()}. Faults of the disk need one: run this "
            "as root, or put `unshare --user --map-root-user --mount` before the command."
        )
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
