"""The two records every reward is made of, and the verdicts they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacore_rl.config import RewardConfig
from pacore_rl.types import Problem, Verdict

if TYPE_CHECKING:
    from pacore_rl.rewards.checker_pool import CheckerPool
    from pacore_rl.rewards.code.open_sandboxes import OpenSandboxes
    from pacore_rl.rewards.functions import FunctionPools
    from pacore_rl.rewards.judge_client import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the quick rules could not settle. Equal questions are answered once and remembered."""

    reward: str
    """Name of the reward that asks."""
    answer: str
    """What is judged: the extracted answer in its normal form, or the whole message."""
    ground_truth: str
    context: str = ""
    """What else of the problem the answer depends on (see ``Reward.context``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a reward may use to answer its questions; each starts when first used, and a scorer's threads share it."""

    config: RewardConfig
    """The scorer's settings, for rewards that have some of their own."""
    checkers: CheckerPool
    functions: FunctionPools
    judge: Judge
    sandboxes: OpenSandboxes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One way of scoring a message against a ground truth."""

    settle: Callable[[str, str], Verdict | Question]
    """``(message, ground truth)``; runs in the caller's thread, so it takes microseconds and never raises."""
    answer: Callable[[Question, Tools], Verdict | Future[Verdict]] | None = None
    """Answers what ``settle`` left open; runs in a scorer's thread. What only waits returns a future, and the thread is
    free again."""
    context: Callable[[Problem], str] | None = None
    """What the answer depends on beside message and ground truth; part of the question, hence of what is remembered."""
    limit_seconds: Callable[[RewardConfig], float] | None = None
    """Longest time of one ``answer``; None: that of a checker process."""
    inspect_ground_truth: Callable[[str], str | Question | None] | None = None
    """None where the ground truth is sound, a reason where it is not, or a question that must come out correct."""
    unready: Callable[[RewardConfig], str | None] | None = None
    """Why the reward cannot be used with these settings; None where it can. Asked when problems are loaded."""


def right(answer: str, reason: str, seconds: float = 0.0) -> Verdict:
    return Verdict(reward=1.0, correct=True, outcome="scored", reason=reason, answer=answer, seconds=seconds)


def wrong(answer: str, reason: str, seconds: float = 0.0) -> Verdict:
    return Verdict(reward=0.0, correct=False, outcome="scored", reason=reason, answer=answer, seconds=seconds)


def unparsed(reason: str) -> Verdict:
    return Verdict(reward=0.0, correct=False, outcome="unparsed", reason=reason)


def failed(reason: str, answer: str | None = None, seconds: float = 0.0) -> Verdict:
    """A failure of ours: the row is masked out, so its reward of 0 is never learned from."""
    return Verdict(reward=0.0, correct=False, outcome="sandbox_error", reason=reason, answer=answer, seconds=seconds)
