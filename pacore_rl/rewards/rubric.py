"""The reward ``rubric``: a language model answers one question about a reply, such as whether it kept an instruction.

The ground truth is JSON, ``{"question": ..., "expected": "YES" or "NO"}``: the reply is right where the judge's answer
to the question is the expected one. The judge sees the reply and the question, not the conversation (MultiChallenge,
arXiv 2501.17399). There is no answer to vote on.
"""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.base import Question, Reward, Tools, unparsed
from pacore_rl.types import Verdict

NAME = "rubric"
MAX_REPLY_CHARACTERS = 20_000


def settle(message: str, ground_truth: str) -> Verdict | Question:
    reply = message.strip()
    if not reply:
        return unparsed("the reply is empty")
    if len(reply) > MAX_REPLY_CHARACTERS:
        return unparsed(f"the reply has {len(reply)} characters; a judge reads {MAX_REPLY_CHARACTERS} at most")
    return Question(reward=NAME, answer=reply, ground_truth=ground_truth)


def answer(question: Question, tools: Tools) -> Future[Verdict]:
    """The judge's verdict, without the reply as an answer: no two replies are the same."""
    judged, passed_on = tools.judge.ask(question), Future[Verdict]()

    def pass_on(done: Future[Verdict]) -> None:
        if done.cancelled():
            passed_on.cancel()
            passed_on.set_running_or_notify_cancel()
        elif (error := done.exception()) is not None:
            passed_on.set_exception(error)
        else:
            passed_on.set_result(replace(done.result(), answer=None))

    judged.add_done_callback(pass_on)
    return passed_on


def inspect_ground_truth(ground_truth: str) -> str | None:
    try:
        fields: Any = json.loads(ground_truth)
        asked, expected = fields["question"], fields["expected"]
    except (ValueError, TypeError, KeyError):
        return 'the ground truth of a rubric must be {"question": ..., "expected": "YES" or "NO"}'
    if not isinstance(asked, str) or not asked.strip() or expected not in ("YES", "NO"):
        return 'a rubric needs a question, and "YES" or "NO" as what is expected'
    return None


def unready(config: RewardConfig) -> str | None:
    if config.judge.base_url is None:
        return "its reward is 'rubric', but reward.judge.base_url is not set; name the endpoint of a judge."
    return None


REWARD = Reward(settle=settle, answer=answer, inspect_ground_truth=inspect_ground_truth, unready=unready)
