"""Every ground truth against itself, when the data is loaded: an answer that no response can match teaches nothing."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from pacore_rl.config import RewardConfig
from pacore_rl.machine import num_cores
from pacore_rl.rewards.base import Question
from pacore_rl.rewards.registry import reward_of
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Problem, Verdict

PATIENT_SECONDS = 20.0
"""For one ground truth, whose limit of CPU time stays what it is: a busy machine must not make it a bad one."""


def check_ground_truths(problems: Iterable[Problem], config: RewardConfig | None = None) -> list[tuple[Problem, str]]:
    """The problems whose own ground truth would not be accepted, in order, each with a reason to show.

    Numbers and words are checked by rules; other mathematics goes through the checker processes as an answer would
    (about 60 a second and core), which are started only if there is any, one a core: nothing else runs yet. Problems
    whose reward has no such check, such as a function of the user's, pass.
    """
    config = config or RewardConfig()
    patient = max(config.timeout_seconds, PATIENT_SECONDS)
    num_workers = max(config.num_workers or 0, num_cores())
    config = config.model_copy(update={"num_workers": num_workers, "timeout_seconds": patient})
    scorer = LocalScorer(config, end_of_reasoning="")
    unready: dict[str, str | None] = {}
    try:
        inspected = [(problem, _inspect(problem, config, scorer, unready)) for problem in problems]
        reasons = [(problem, _reason(problem, finding)) for problem, finding in inspected]
    finally:
        scorer.close()
    return [(problem, reason) for problem, reason in reasons if reason is not None]


def _inspect(
    problem: Problem, config: RewardConfig, scorer: LocalScorer, unready: dict[str, str | None]
) -> str | Future[Verdict] | None:
    name = config.custom.name or problem.reward
    try:
        reward = reward_of(name)
    except ValueError as error:
        return str(error)
    if name not in unready:
        unready[name] = None if reward.unready is None else reward.unready(config)
    if (complaint := unready[name]) is not None:
        unready[name] = f"reward {name!r} cannot be used, as told of the first problem that asks for it"
        return complaint
    finding = None if reward.inspect_ground_truth is None else reward.inspect_ground_truth(problem.ground_truth)
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
