"""Every ground truth against itself, when the data is loaded: an answer that no response can match teaches nothing."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.base import Question
from pacore_rl.rewards.registry import reward_of
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Problem, Verdict


def check_ground_truths(problems: Iterable[Problem], config: RewardConfig | None = None) -> list[tuple[Problem, str]]:
    """The problems whose own ground truth would not be accepted, in order, each with a reason to show.

    Numbers and words are checked by rules; other mathematics goes through the checker processes as an answer would
    (about 60 a second and core), which are started only if there is any. Problems whose reward has no such check, such
    as a function of the user's, pass.
    """
    scorer = LocalScorer(config or RewardConfig(), end_of_reasoning="")
    try:
        inspected = [(problem, _inspect(problem, scorer)) for problem in problems]
        reasons = [(problem, _reason(problem, finding)) for problem, finding in inspected]
    finally:
        scorer.close()
    return [(problem, reason) for problem, reason in reasons if reason is not None]


def _inspect(problem: Problem, scorer: LocalScorer) -> str | Future[Verdict] | None:
    try:
        inspect = reward_of(problem.reward).inspect_ground_truth
    except ValueError as error:
        return str(error)
    finding = None if inspect is None else inspect(problem.ground_truth)
    return scorer.ask(finding) if isinstance(finding, Question) else finding


def _reason(problem: Problem, finding: str | Future[Verdict] | None) -> str | None:
    if not isinstance(finding, Future):
        return finding
    verdict = finding.result()  # bounded: every question has a time limit
    if verdict.correct:
        return None
    if problem.reward == "code":
        return f"its tests cannot be used: {verdict.reason}"
    return f"its ground truth {problem.ground_truth!r} is not accepted as an answer to itself: {verdict.reason}"
