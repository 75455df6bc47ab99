"""The reward of replies by a question about them, against a scripted judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from judge_server import JudgeServer, serving
from reward_helpers import problem

from pacore_rl.config import JudgeConfig, RewardConfig
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.rubric import MAX_REPLY_CHARACTERS
from pacore_rl.rewards.scorer import LocalScorer

RUBRIC = json.dumps({"question": "Is the recipe vegan?", "expected": "YES"})


@contextmanager
def scorer_of(reply: str) -> Iterator[tuple[LocalScorer, JudgeServer]]:
    with serving(lambda number, body: reply) as server:
        scorer = LocalScorer(RewardConfig(judge=JudgeConfig(base_url=server.url, model="m", max_retries=0)), "")
        try:
            yield scorer, server
        finally:
            scorer.close()


@pytest.mark.parametrize(("said", "correct"), [("It is.\nVERDICT: YES", True), ("Cheese.\nVERDICT: NO", False)])
def test_the_judge_decides_and_sees_reply_and_question(said: str, correct: bool) -> None:
    with scorer_of(said) as (scorer, server):
        (verdict,) = scorer.score([(problem(RUBRIC, "rubric"), "Tofu and {rice}.\nVERDICT: YES", "stopped")]).result()
        assert (verdict.correct, verdict.reward, verdict.outcome) == (correct, float(correct), "scored")
        assert verdict.answer is None, "there is nothing to vote on"
        prompt = server.prompts[0]
        assert "Is the recipe vegan?" in prompt and "Tofu and {rice}." in prompt
        assert "VERDICT: NO (it is not YES)" in prompt


@pytest.mark.parametrize("reply", ["", " \n ", "x" * (MAX_REPLY_CHARACTERS + 1)])
def test_what_cannot_be_judged_is_not_asked_about(reply: str) -> None:
    with scorer_of("VERDICT: YES") as (scorer, server):
        (verdict,) = scorer.score([(problem(RUBRIC, "rubric"), reply, "stopped")]).result()
        assert (verdict.outcome, verdict.reward) == ("unparsed", 0.0) and not server.bodies


def test_a_reply_without_verdict_is_a_failure_of_ours() -> None:
    with scorer_of("I would rather not say.") as (scorer, _):
        (verdict,) = scorer.score([(problem(RUBRIC, "rubric"), "Tofu.", "stopped")]).result()
        assert verdict.outcome == "judge_error"


def test_a_rubric_that_is_none_and_a_judge_that_is_missing_are_told() -> None:
    judge = RewardConfig(judge=JudgeConfig(base_url="http://localhost:9/v1", model="m"))
    for truth in ("YES", "[]", json.dumps({"question": "?", "expected": "maybe"})):
        ((_, reason),) = check_ground_truths([problem(truth, "rubric")], judge)
        assert "YES" in reason
    assert check_ground_truths([problem(RUBRIC, "rubric")], judge) == []
    ((_, reason),) = check_ground_truths([problem(RUBRIC, "rubric")])
    assert "reward.judge.base_url is not set" in reason
