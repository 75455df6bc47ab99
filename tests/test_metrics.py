"""Step metrics against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pacore_rl.experience import Draw, Scored, experience_batch, is_trainable
from pacore_rl.metrics import policy_metrics, scoring_failures, scoring_metrics, synthesis_metrics
from pacore_rl.types import Float32, MessageSet, Outcome, Problem, Trajectory, Turn, Verdict


def verdict(correct: bool, answer: str | None = "1", outcome: Outcome = "scored") -> Verdict:
    return Verdict(reward=float(correct), correct=correct, outcome=outcome, reason="", answer=answer)


def draw(name: str, *messages: Verdict) -> Draw:
    problem = Problem(id=name, conversation=(Turn(role="user", content="?"),), ground_truth="1", reward="exact")
    message_set = MessageSet(messages=("m",) * len(messages), verdicts=messages)
    return Draw(problem=problem, message_set=message_set, prompt_ids=np.arange(3, dtype=np.int32), seed=0)


def scored(draw: Draw, correct: bool, text: str = "", outcome: Outcome = "scored", num_tokens: int = 2) -> Scored:
    trajectory = Trajectory(
        prompt_ids=draw.prompt_ids,
        response_ids=np.arange(num_tokens, dtype=np.int32),
        logprobs=np.full(num_tokens, -1.0, dtype=np.float32),
        text=text,
        finish="stopped",
        weight_versions=np.zeros(num_tokens, np.int32),
    )
    return Scored(draw=draw, trajectory=trajectory, verdict=verdict(correct, outcome=outcome))


def test_synthesis_beside_its_messages() -> None:
    # One problem whose vote is wrong (2 against 1), one whose messages are all wrong.
    mixed = draw("mixed", verdict(True, "1"), verdict(False, "2"), verdict(False, "2"), verdict(False, "3"))
    wrong = draw("wrong", verdict(False, "2"), verdict(False, "3"))
    rows = [scored(mixed, True), scored(mixed, True), scored(wrong, True, "Ref 2: so"), scored(wrong, False)]
    metrics = synthesis_metrics(rows)
    assert metrics["synthesis/accuracy"] == 0.75
    assert metrics["messages/accuracy"] == pytest.approx((0.25 + 0.0) / 2)
    assert metrics["messages/majority_vote"] == 0.0
    assert metrics["synthesis/emergent_correct"] == 0.5
    assert metrics["synthesis/cross_check_words"] == 0.25


def test_emergent_correctness_is_absent_where_it_is_undefined() -> None:
    assert "synthesis/emergent_correct" not in synthesis_metrics([scored(draw("p", verdict(True)), True)])
    unknown = draw("q", verdict(False, "2"), verdict(False, outcome="judge_error"))  # the other may be right
    assert "synthesis/emergent_correct" not in synthesis_metrics([scored(unknown, True)])


def test_our_failures_are_masked_and_counted() -> None:
    one = draw("p", verdict(False, "2"))
    rows = [scored(one, True), scored(one, False, outcome="sandbox_error"), scored(one, False, num_tokens=0)]
    assert scoring_failures(rows) == 1
    assert [is_trainable(row) for row in rows] == [True, False, False]
    assert synthesis_metrics(rows)["synthesis/accuracy"] == 0.5


def test_scoring_that_hides_behind_generation() -> None:
    rows = [scored(draw("p"), True) for _ in range(3)]
    rows = [replace(row, verdict=replace(row.verdict, seconds=4.0)) for row in rows]
    shared = replace(rows[0], trajectory=rows[1].trajectory)  # an equal answer: its verdict is the first one's
    metrics = scoring_metrics([*rows, shared], waited_seconds=1.5, num_workers=2)
    assert metrics["throughput/scoring_work_seconds"] == 12.0
    assert metrics["throughput/scoring_overlap"] == 0.75
    assert scoring_metrics(rows, waited_seconds=60.0, num_workers=2)["throughput/scoring_overlap"] == 0.0
    at_once = scoring_metrics([scored(draw("p"), True)], waited_seconds=0.1, num_workers=2)
    assert at_once == {"throughput/scoring_work_seconds": 0.0}


def test_no_row_to_learn_from_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no response"):
        experience_batch([])


def test_gap_between_engine_and_trainer() -> None:
    batch = experience_batch([scored(draw("p"), True), scored(draw("q"), False)])
    trainer_A: Float32 = np.array([-1.0, -1.0, -1.5, -1.0], dtype=np.float32)
    metrics = policy_metrics(batch, trainer_A, np.zeros(4, dtype=np.float32))
    assert metrics["policy/logprob_gap_mean"] == pytest.approx(0.125)
    assert metrics["policy/logprob_gap_max"] == pytest.approx(0.5)
    # r - 1 - log r with r = exp(-0.5), averaged over four tokens
    assert metrics["policy/logprob_gap_kl"] == pytest.approx((np.exp(-0.5) - 1 + 0.5) / 4)
