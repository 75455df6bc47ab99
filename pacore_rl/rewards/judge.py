"""The reward ``judge``: rules first, then math-verify, and a language model for what neither can settle.

The judge sees the problem, the ground truth and the extracted answer, never the reasoning. What has no content, or
addresses the judge, is wrong without being asked about.
"""

from __future__ import annotations

import re
from concurrent.futures import Future

from pacore_rl.config import RewardConfig
from pacore_rl.rewards import guard, maths
from pacore_rl.rewards.base import Question, Reward, Tools, right, unparsed, wrong
from pacore_rl.rewards.exact import NO_ANSWER
from pacore_rl.rewards.extract import MAX_ANSWER_CHARACTERS, last_boxed
from pacore_rl.rewards.normal import canonical, normal_ground_truth, normalise, rational
from pacore_rl.types import Problem, Verdict

NAME = "judge"
MAX_JUDGED_CHARACTERS = 2_000

_CONTENT = re.compile(r"[^\W_]")
_LAYOUT = re.compile(r"\\(?:[lcv]?dots|q?quad|text|mathrm|boxed|left|right)(?![a-zA-Z])")
_PROSE = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{4,}")
_EMPTY_PHRASES = frozenset(
    ("answer", "the answer", "final answer", "the final answer", "your answer", "see above", "as above", "above")
    + ("solution", "the solution", "result", "the result", "todo", "tbd", "n/a", "same as reference", "correct")
)
_ADDRESSES_JUDGE = re.compile(r"verdict|reference answer|student'?s answer|ignore (?:all|the|previous)", re.IGNORECASE)


def settle(message: str, ground_truth: str) -> Verdict | Question:
    boxed = last_boxed(message, MAX_JUDGED_CHARACTERS)
    answer = normalise(boxed) if boxed is not None else ""
    if not answer:
        return unparsed(NO_ANSWER)
    expected = normal_ground_truth(ground_truth)
    shown = canonical(answer)
    decided = maths.same_by_rule(answer, expected)
    if decided:
        return right(shown, "equal to the ground truth")
    if rational(answer) is not None and rational(expected) is not None:
        return wrong(shown, "another number")
    if reason := contentless(answer):
        return wrong(shown, reason)
    assert boxed is not None, "an answer without a box"
    return Question(reward=NAME, answer=boxed, ground_truth=ground_truth)  # as they are: a judge reads spaces


def contentless(answer: str) -> str | None:
    """Why an answer is not worth a judge's time; None where it is."""
    if not _CONTENT.search(_LAYOUT.sub("", answer)):
        return "the answer has no content"
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer).strip(" .:").casefold()
    if words in _EMPTY_PHRASES:
        return "the answer has no content"
    if _ADDRESSES_JUDGE.search(answer):
        return "the answer addresses its judge"
    return None


def answer(question: Question, tools: Tools) -> Verdict | Future[Verdict]:
    """math-verify's yes is enough; everything else, and all prose, the judge decides."""
    pair = (normalise(question.answer), normal_ground_truth(question.ground_truth))
    if not any(len(text) > MAX_ANSWER_CHARACTERS or _PROSE.search(text) or guard.refusal(text) for text in pair):
        reply = tools.checkers.ask(*pair)
        if reply.outcome == "equal":
            return right(canonical(pair[0]), reply.detail, reply.seconds)
    return tools.judge.ask(question)


def latest_turn(problem: Problem) -> str:
    return problem.conversation[-1].content


def inspect_ground_truth(ground_truth: str) -> str | None:
    expected = normal_ground_truth(ground_truth)
    if not expected:
        return "the ground truth is empty"
    if len(expected) > MAX_JUDGED_CHARACTERS:
        return f"the ground truth has {len(expected)} characters; answers have at most {MAX_JUDGED_CHARACTERS}"
    if rational(expected) is None and (reason := contentless(expected)):
        return f"as an answer to itself it would be refused unread: {reason}"
    return None


def unready(config: RewardConfig) -> str | None:
    if config.judge.base_url is None:
        return "its reward is 'judge', but reward.judge.base_url is not set; name an endpoint, or give another reward."
    return None


REWARD = Reward(
    settle=settle, answer=answer, context=latest_turn, inspect_ground_truth=inspect_ground_truth, unready=unready
)
