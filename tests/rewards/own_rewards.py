"""Reward functions as a user may write them, good and bad."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pacore_rl.types import Problem, Verdict

not_a_function = 3


def half(problem: Problem, message: str) -> float:
    return 0.5 if problem.ground_truth in message else 0.0


def uses_everything(problem: Problem, message: str) -> Verdict:
    turn, weight = problem.conversation[-1], problem.tags["weight"]
    assert (turn.role, turn.content, problem.id, problem.source, weight) == ("user", "?", "p", "here", 2.5)
    return Verdict(reward=1.0, correct=True, outcome="scored", reason="all there", answer=str(len(message)))


def broken(problem: Problem, message: str) -> float:
    raise KeyError(problem.ground_truth)


def too_much(problem: Problem, message: str) -> float:
    return 2.0


def not_a_number(problem: Problem, message: str) -> float:
    return float("nan")


def text(problem: Problem, message: str) -> Any:
    return "good"


def nothing(problem: Problem, message: str) -> Any:
    return None


def crash(problem: Problem, message: str) -> float:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 1.0


def leave(problem: Problem, message: str) -> float:
    sys.exit(0)


def stop_once(problem: Problem, message: str) -> float:
    """Stops its process at the first call; the message names the file that remembers it."""
    seen = Path(message)
    if not seen.exists():
        seen.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return 1.0


def loop(problem: Problem, message: str) -> float:
    while True:
        time.sleep(0.01)


def eat(problem: Problem, message: str) -> float:
    return float(len(bytearray(8 * 1024**3)))


def speak(problem: Problem, message: str) -> float:
    print("nothing of this reaches the scorer", flush=True)
    return 1.0


def environment(problem: Problem, message: str) -> float:
    return float("SEEN" in os.environ and "HIDDEN" not in os.environ)
