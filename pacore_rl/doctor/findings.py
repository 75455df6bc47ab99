"""What a check returns, and how one runs a command that must not hang."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check saw."""

    name: str
    status: Status
    seen: str
    remedy: str = ""
    """What to do; empty where all is well."""


def judge_space(name: str, free_gib: float, needed_gib: float, scarce_gib: float, remedy: str) -> Finding:
    """Below what is needed fails, below what is comfortable warns."""
    seen = f"{free_gib:.1f} GiB free"
    if free_gib < needed_gib:
        return Finding(name=name, status="fail", seen=f"{seen}, {needed_gib:g} needed", remedy=remedy)
    if free_gib < scarce_gib:
        return Finding(name=name, status="warn", seen=f"{seen}, {scarce_gib:g} are comfortable", remedy=remedy)
    return Finding(name=name, status="ok", seen=seen)


def run_limited(command: Sequence[str], limit_seconds: float) -> tuple[int | None, str]:
    """Exit code and output of a command in a session of its own; None for one killed, whole, at the time limit."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
    try:
        output, _ = process.communicate(timeout=limit_seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=10)
        return None, output
    except BaseException:  # Ctrl-C: its own session would outlive us
        os.killpg(process.pid, signal.SIGKILL)
        raise


def last_line(output: str) -> str:
    """The last line that says something, cut to what fits a table."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no output"
