from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_curation.stages import (
    SynthesisDraw,
    Tally,
    needs_widening,
    select_stage1,
    select_stage2,
    stage1_keep,
    stage2_plan,
)
from pacore_rl.config import Config
from pacore_rl.curation_runs import curate_stage1
from pacore_rl.problems import load_problems, save_problems
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.types import Outcome, PoolMessage, Problem, Turn, Verdict


def problem(id: str, reward: str = "math") -> Problem:
    return Problem(id=id, conversation=(Turn(role="user", content="?"),), ground_truth="1", reward=reward)


def messages(id: str, num_correct: int, num: int, outcome: Outcome = "scored") -> Sequence[PoolMessage]:
    return [
        PoolMessage(
            problem_id=id,
            text="1",
            finish="stopped",
            verdict=Verdict(reward=float(i < num_correct), correct=i < num_correct, outcome=outcome, reason=""),
            num_tokens=1,
            model="m",
        )
        for i in range(num)
    ]


@pytest.mark.parametrize(("num_correct", "kept"), [(0, False), (1, True), (8, True), (9, False), (24, False)])
def test_stage_1_keeps_strictly_between_0_and_9_of_24(num_correct: int, kept: bool) -> None:
    assert stage1_keep(num_correct / 24) is kept


@given(num=st.integers(1, 600), upper=st.integers(1, 600))
def test_a_threshold_given_as_a_fraction_is_exact(num: int, upper: int) -> None:
    upper = min(upper, num)
    kept = [stage1_keep(num_correct / num, upper=upper / num) for num_correct in range(num + 1)]
    assert sum(kept) == upper - 1


def test_select_stage_1(tmp_path: Path) -> None:
    pool = MessagePool.open(tmp_path / "pool.jsonl")
    right = {"never": 0, "rarely": 1, "just": 8, "edge": 9, "always": 24, "code just": 14, "code edge": 15}
    for id, num_correct in right.items():
        pool.append(messages(id, num_correct, 24))
    pool.append(messages("broken", 24, 24, outcome="sandbox_error"))
    problems = [problem(id, "code" if id.startswith("code") else "math") for id in [*right, "broken", "absent"]]
    kept, report = select_stage1(problems, pool)
    assert [p.id for p in kept] == ["rarely", "just", "code just"]
    assert (report.num_kept, report.num_too_easy, report.num_never_right, report.num_unscored) == (3, 3, 1, 2)
    assert report.num_problems == len(problems)
    # Accuracies 0, 1, 8, 9, 24, 14 and 15 of 24 in twelfths.
    assert report.histogram == (2, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 1)
    assert report.mean_accuracy == pytest.approx(71 / 168)


def test_select_stage_1_thresholds_are_parameters(tmp_path: Path) -> None:
    pool = MessagePool.open(tmp_path / "pool.jsonl")
    pool.append([*messages("a", 2, 4), *messages("b", 3, 4), *messages("few", 1, 3)])
    problems = [problem("a"), problem("b", "code"), problem("few")]
    kept, report = select_stage1(problems, pool, 0.75, upper_by_reward={"code": 1.0}, min_messages=4)
    assert [p.id for p in kept] == ["a", "b"] and report.num_unscored == 1


def test_the_command_takes_the_recipes_thresholds(tmp_path: Path) -> None:
    problems, pool = tmp_path / "problems.jsonl", MessagePool.open(tmp_path / "pool.jsonl")
    save_problems(problems, [problem("a"), problem("b"), problem("few")])
    pool.append([*messages("a", 1, 4), *messages("b", 3, 4), *messages("few", 1, 3)])

    def kept(**stages: float) -> list[str]:
        config = Config.model_validate(
            {
                "model": {"path": "unused"},
                "data": {"problems": str(problems)},
                "synthesis": {"min_messages": 0, "max_messages": 0},
                "curation": {"stages": stages},
            }
        )
        out = curate_stage1(config, problems=problems, pool=pool.path, out=tmp_path / "stage1.jsonl")
        return [one.id for one in load_problems(out)]

    assert kept() == ["a", "few"]
    assert kept(stage1_upper=0.9) == ["a", "b", "few"]
    assert kept(min_messages=4) == ["a"]


def test_select_stage_2() -> None:
    accuracies = {"none": 0.0, "some": 1 / 64, "most": 63 / 64, "all": 1.0, "not asked": 0.5}
    problems = [problem(id) for id in ("all", "most", "some", "none", "absent")]
    kept, report = select_stage2(problems, accuracies)
    assert [p.id for p in kept] == ["most", "some"]
    assert (report.num_kept, report.num_too_easy, report.num_never_right, report.num_unscored) == (2, 1, 1, 1)
    with pytest.raises(ValueError, match="accuracies lie in"):
        select_stage2([problem("a")], {"a": 1.5})


def test_the_report_is_a_table() -> None:
    _, report = select_stage2([problem("a"), problem("b"), problem("c")], {"a": 0.5, "b": 0.0})
    lines = report.as_text().splitlines()
    assert lines[:7] == [
        "stage 2, by synthesis accuracy",
        "  kept                 1   33.3%",
        "  too easy             0    0.0%",
        "  never right          1   33.3%",
        "  not measured         1   33.3%",
        "  all                  3  100.0%",
        "  mean accuracy    0.250",
    ]
    assert lines[7] == "  0.000 - 0.083       1  " + "#" * 40
    assert lines[8] == "  0.083 - 0.167       0"
    assert len(lines) == 7 + 12
    _, empty = select_stage2([], {})
    assert empty.mean_accuracy is None and "mean" not in empty.as_text()


def test_stage_2_starts_with_4_draws_of_4_responses() -> None:
    plan = stage2_plan({"a": Tally()})
    assert plan == tuple(SynthesisDraw(problem_id="a", draw_index=i, num_responses=4) for i in range(4))


@pytest.mark.parametrize(("num_correct", "widened"), [(0, True), (1, False), (15, False), (16, True)])
def test_stage_2_widens_where_all_or_none_were_right(num_correct: int, widened: bool) -> None:
    tally = Tally(num_correct=num_correct, num_scored=16, num_draws=4)
    assert needs_widening(tally) is widened
    plan = stage2_plan({"a": tally})
    assert [draw.draw_index for draw in plan] == (list(range(4, 16)) if widened else [])
    assert sum(draw.num_responses for draw in plan) == (48 if widened else 0)


@given(correct=st.lists(st.integers(0, 4), min_size=16, max_size=16), stop=st.integers(0, 16))
def test_a_measurement_that_was_stopped_ends_as_one_that_was_not(correct: list[int], stop: int) -> None:
    def measure(tally: Tally, limit: int) -> Tally:
        for draw in stage2_plan({"a": tally})[:limit]:
            tally += Tally(num_correct=correct[draw.draw_index], num_scored=4, num_draws=1)
        return tally

    whole = measure(measure(Tally(), 16), 16)
    stopped = measure(Tally(), stop)
    assert measure(measure(measure(stopped, stop), 16), 16) == whole
    assert stage2_plan({"a": whole}) == ()
    assert whole.num_scored == (64 if sum(correct[:4]) in (0, 16) else 16)


def test_failed_scorings_are_not_wrong_answers() -> None:
    assert Tally(num_correct=3, num_scored=12, num_draws=4).accuracy == 0.25
    assert Tally(num_draws=4).accuracy is None
    assert needs_widening(Tally(num_correct=12, num_scored=12, num_draws=4))
