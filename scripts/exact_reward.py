"""A reward function of one's own, in its smallest form: the last boxed answer, compared as text."""

from __future__ import annotations

import re
import time

from pacore_rl.types import Problem

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
SECONDS = 0.01


def score(problem: Problem, message: str) -> float:
    """1 where the last boxed text is the ground truth. It dawdles a little, so that a fault can find it at work."""
    time.sleep(SECONDS)
    found = _BOXED.findall(message)
    return float(bool(found) and found[-1].strip() == problem.ground_truth)
