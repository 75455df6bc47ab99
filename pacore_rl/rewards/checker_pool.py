"""The checker processes of mathematical answers, as the scorer sees them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from pacore_rl.rewards.children import ChildLate, ChildLost, Children, ChildrenUnavailable

MAX_CPU_SECONDS = 2.0
CPU_SHARE_OF_LIMIT = 0.4
"""A checker's own limit is CPU time, so that a busy machine does not turn right answers into wrong ones."""
STOOD_STILL_SHARE = 0.3
"""A checker that used less of its CPU time than this when its time was up did not have the cores for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a question."""

    outcome: Literal["equal", "different", "timeout", "failed"]
    """``failed``: our checkers died or stood still, whatever the answer was."""
    detail: str
    seconds: float


class CheckerPool:
    """Checker processes, started when first asked; see ``Children`` for how many."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._cpu_seconds = min(MAX_CPU_SECONDS, CPU_SHARE_OF_LIMIT * timeout_seconds)
        self._children = Children(("pacore_rl.rewards.checker_process",), timeout_seconds)

    def ask(self, answer: str, ground_truth: str) -> Reply:
        """Compare two normalised answers. Takes at most about twice the time limit (once more after a failure of ours),
        and never raises for what they hold."""
        question = {"answer": answer, "ground_truth": ground_truth, "cpu_seconds": self._cpu_seconds}
        started = time.monotonic()
        loss = ""
        for attempt in range(2):
            try:
                reply = self._children.ask(question, fresh=attempt > 0)
            except ChildLate as late:
                if late.cpu_seconds >= STOOD_STILL_SHARE * self._cpu_seconds:
                    detail = f"not compared within {self._timeout_seconds:g} s"
                    return Reply(outcome="timeout", detail=detail, seconds=time.monotonic() - started)
                had = f"had {late.cpu_seconds:.1f} s of CPU time in {self._timeout_seconds:g} s"
                loss = f"checker process {late.pid} {had}"
            except ChildLost as lost:
                loss = f"checker {lost}"
            except ChildrenUnavailable as error:
                loss = f"{error}; check that math-verify is installed"
                break
            else:
                return Reply(outcome=reply["outcome"], detail=reply["detail"], seconds=time.monotonic() - started)
        return Reply(outcome="failed", detail=loss, seconds=time.monotonic() - started)

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process of the pool that is alive, the template first."""
        return self._children.pids

    def close(self) -> None:
        """End every process. Questions in progress come back as ``failed``. Safe to call twice."""
        self._children.close()
