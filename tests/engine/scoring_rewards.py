"""Rewards that tell what is done to them; they run in children of scoring workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pacore_rl.types import Problem

WORK_SECONDS = 0.5


def noted(problem: Problem, message: str) -> float:
    """Takes a while, and appends the message to the file that the problem names when it is done."""
    notes = Path(problem.ground_truth)
    (notes.parent / f"begun-{message}").touch()
    time.sleep(WORK_SECONDS)
    with notes.open("a") as file:
        file.write(f"{message}\n")
    return 1.0


def deadly(problem: Problem, message: str) -> float:
    """Kills its scoring worker, as the kernel does on a machine short of memory."""
    template = os.getppid()
    worker = int(Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    time.sleep(60)
    return 1.0
