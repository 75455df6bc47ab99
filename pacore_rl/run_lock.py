"""One process at a time in a run's folder: two would cut back and overwrite each other's journals and checkpoints."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)
LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder, which is made, for the length of the block.

    The lock is the process's own (POSIX): it goes when the process does, however it ends, and is not inherited.

    Raises:
        ValueError: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise ValueError(
                    f"another process is at work in {run_dir}; wait for it or stop it, or give this run another name."
                ) from error
            _log.warning("%s cannot be locked (%s): let one process at a time work in it", run_dir, error)
        yield
