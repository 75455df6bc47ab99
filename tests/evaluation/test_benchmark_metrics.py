from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from benchmark_fakes import PROBLEMS, evaluate, manifest_of, says
from evaluation_fakes import problem_of, verdict

from pacore_rl.config import RewardConfig
from pacore_rl.evaluation.asking import Ask
from pacore_rl.evaluation.conditions import Allowance, rounds_of, sequential_of
from pacore_rl.evaluation.equivalence import merged, representatives
from pacore_rl.evaluation.voting import majority_vote
from pacore_rl.rewards.scorer import open_scorer
from pacore_rl.synthesis.plan import Reply
from pacore_rl.types import Problem, Verdict


def one_problem(letters: str) -> tuple[Problem, object]:
    """A problem whose solo answers are ``letters`` ('r' right, '-' unparsed), and a synthesis that is always right."""
    problem = problem_of(1)

    def script(ask: Ask, sample: int) -> Reply:
        letter = "r" if ask.messages else letters[sample]
        return says({"r": "right1", "-": "!"}.get(letter, f"wrong{letter}"))

    return problem, script


def test_votes_and_pass_at_k_of_a_pool_by_hand(tmp_path: Path) -> None:
    problem, script = one_problem("rraa-bbr")  # 3 of 8 right; the whole pool votes r 3, a 2, b 2
    manifest = manifest_of([problem], samples=1, vote_sizes=[1, 2, 8], redraws=4000, pass_at=[1, 2, 8])
    result = evaluate(tmp_path, script, manifest, problems=[problem])  # pyright: ignore[reportArgumentType]
    assert result.solo.mean == 3 / 8
    assert result.majority_vote is not None and result.majority_vote.mean == 1.0
    votes = {point.k: point.accuracy.mean for point in result.self_consistency}
    pool = [verdict({"r": "R", "-": None}.get(c, c), c == "r") for c in "rraa-bbr"]
    assert votes[1] == 3 / 8 and votes[8] == 1.0
    assert votes[2] == pytest.approx(np.mean([majority_vote(pair) for pair in combinations(pool, 2)]), abs=0.02)
    assert {k: e.mean for k, e in result.solo_pass_at.items()} == {1: 3 / 8, 2: 1 - 10 / 28, 8: 1.0}


def test_the_mean_over_samples_comes_before_that_over_problems(tmp_path: Path) -> None:
    """Problem 1 loses three of four samples to a failure: its one sample weighs as much as four of another."""

    def script(ask: Ask, sample: int) -> Reply:
        if ask.messages and ask.problem.id == "p1":
            failed = ask.seed % 4 != 0
            return Reply(text="", finish="failed", generated_tokens=0) if failed else says("wrong")
        return says(ask.problem.ground_truth)

    result = evaluate(tmp_path, script, manifest_of(samples=32))
    (run,) = result.conditions
    assert 0 < run.num_failed < 32
    assert run.by_problem == (0.0, 1.0, 1.0, 1.0)
    assert run.accuracy.mean == 3 / 4


@pytest.mark.parametrize(
    ("allowance", "solo", "sequential", "aggregation"),
    [
        # 16 x 50 + 30 = 830: 16.6 solo answers; 50 + 26 x 30; 4 x 50 + 5 x 4 x 30 = 800
        (Allowance(ttc_tokens=830, solo_tokens=50, synthesis_tokens=30), 17, 27, (4, 6)),
        # 4 x 50 + 30 = 230: two waves of four would cost 320, so two candidates: 2 x 50 + 2 x 2 x 30 = 220
        (Allowance(ttc_tokens=230, solo_tokens=50, synthesis_tokens=30), 5, 7, (2, 3)),
        # Less than two waves of one: still two waves.
        (Allowance(ttc_tokens=60, solo_tokens=50, synthesis_tokens=30), 1, 2, (1, 2)),
    ],
)
def test_baselines_may_spend_what_the_k_vector_spent(
    allowance: Allowance, solo: int, sequential: int, aggregation: tuple[int, int]
) -> None:
    assert allowance.num_solo == solo
    assert allowance.sequential() == sequential_of(sequential)
    found = allowance.aggregation(population=4, group=2)
    assert (found.population, found.num_waves) == aggregation
    assert found.num_trajectories == aggregation[0] * aggregation[1]


def test_baselines_are_run_compared_and_paired_by_problem(tmp_path: Path) -> None:
    def script(ask: Ask, sample: int) -> Reply:
        """Alone half of the samples are right; with two references and more always, with one never."""
        if not ask.messages:
            return says(ask.problem.ground_truth if sample % 2 else f"wrong{sample % 4}")
        return says(ask.problem.ground_truth if len(ask.messages) > 1 else "wrong")

    baselines = ["self_consistency", "best_single", "sequential", "aggregation"]
    result = evaluate(tmp_path, script, manifest_of(configurations=[[8]], baselines=baselines))
    (run,) = result.conditions
    beside = run.equal_ttc
    assert beside is not None and beside.num_trajectories == 9
    labels = {other.condition.label: other.accuracy.mean for other in beside.others}
    assert labels == {
        "sequential, 9 rounds": 0.0,
        "recursive aggregation, 4 candidates from 2, 2 waves": 1.0,
    }
    assert beside.minus["sequential"].mean == 1.0 and beside.minus["aggregation"].mean == 0.0
    assert beside.best_single is not None and beside.best_single.accuracy.mean == 1.0
    assert beside.best_single.k == 8, "the pool holds no ninth answer, and the point says so"
    assert beside.self_consistency is not None
    assert beside.minus["self_consistency"].mean == pytest.approx(1 - beside.self_consistency.accuracy.mean)


def test_an_aggregation_shows_groups_of_its_population_and_earns_the_mean_of_the_last(tmp_path: Path) -> None:
    shown: list[tuple[str, ...]] = []

    def script(ask: Ask, sample: int) -> Reply:
        if ask.messages:
            shown.append(ask.messages)
            return says(ask.problem.ground_truth if ask.seed % 2 else "wrong")
        return says(f"solo{sample}")

    manifest = manifest_of(samples=1, configurations=[[8]], baselines=["aggregation"])
    result = evaluate(tmp_path, script, manifest)
    beside = result.conditions[0].equal_ttc
    assert beside is not None
    (aggregation,) = beside.others
    assert aggregation.ttc_tokens.mean == 2 * 4 * 10
    groups = [messages for messages in shown if len(messages) == 2]
    assert len(groups) == 4 * len(PROBLEMS)
    assert all(len(set(messages)) == 2 for messages in groups)
    assert {value % 0.25 for value in aggregation.by_problem if value is not None} == {0.0}


def test_conditions_are_named_for_readers() -> None:
    assert rounds_of((32, 4)).label == "high, K=[32, 4]"
    assert sequential_of(3).label == "sequential, 3 rounds" and sequential_of(3).configuration == (1, 1)
    with pytest.raises(ValueError, match="a round of 0"):
        rounds_of((0,))


def scored(answer: str | None, correct: bool = False) -> Verdict:
    return verdict(answer, correct)


def test_equal_expressions_vote_together() -> None:
    r"""Two spellings of \sqrt{2}/2 tie with two wrong ones that are each other's equal, which spelling alone misses."""
    verdicts = [
        scored("\\frac{\\sqrt{2}}{2}", True),
        scored("\\frac{1}{\\sqrt{2}}", True),
        scored("x+1"),
        scored("1+x"),
        scored("7"),
        scored(None),
    ]
    with open_scorer(RewardConfig()) as scorer:
        stands_for = representatives(verdicts, "math", scorer)
        unmerged = representatives(verdicts, "exact", scorer)
    together = merged(verdicts, stands_for)
    assert [v.answer for v in together] == [verdicts[0].answer] * 2 + ["x+1", "x+1", "7", None]
    assert majority_vote(together) == 1 / 2
    assert stands_for.keys() == {v.answer for v in verdicts} - {None}
    assert unmerged["1+x"] == "1+x" and majority_vote(merged(verdicts, unmerged)) == 1.0
