from __future__ import annotations

import re

import numpy as np
import pytest
from evaluation_fakes import CharacterTokenizer, FakeGenerator, FakeScorer, config_of, message_of, problem_of

from pacore_rl.evaluation.configurations import ConfigurationsResult, evaluate_configurations
from pacore_rl.types import Finish

SOLO = "</think>[wrong1]"


def policy(prompt: str, rng: np.random.Generator) -> tuple[str, Finish]:
    """Alone right one time in four; with references right as soon as one of them is."""
    found = re.search(r"Problem (\d+)\?", prompt)
    assert found is not None
    right = f"right{found.group(1)}"
    if "Reference 1:" in prompt:
        return f"</think>[{right}]" if f"[{right}]" in prompt else "</think>[wrong9]", "stopped"
    return (f"</think>[{right}]" if rng.random() < 0.25 else f"</think>[wrong{rng.integers(2)}]"), "stopped"


def evaluate(generator: FakeGenerator, **options: object) -> ConfigurationsResult:
    settings: dict[str, object] = {
        "configurations": [(4,), (8,), (8, 2)],
        "self_consistency_pool": 16,
        "samples_per_problem": 2,
    } | options
    problems = [problem_of(index, length=5 + index % 2) for index in range(40, 80)]
    return evaluate_configurations(
        problems,
        generator=generator,
        scorer=FakeScorer(),
        tokenizer=CharacterTokenizer(),
        config=config_of(),
        seed=1,
        **settings,  # pyright: ignore[reportArgumentType]
    )


def test_configurations_beside_votes_of_equal_cost() -> None:
    generator = FakeGenerator(policy=policy)
    result = evaluate(generator)
    four, eight, two_rounds = result.configurations
    assert four.configuration == (4,)
    assert four.accuracy.mean == pytest.approx(1 - 0.75**4, abs=0.12)
    assert eight.accuracy.mean > four.accuracy.mean > result.solo.mean
    # Every response here is about as long, so that [4] costs 5 votes, [8] 9 and [8, 2] 11.
    assert [run.equal_ttc.k for run in result.configurations] == [5, 9, 11]
    assert four.equal_ttc.ttc_tokens == pytest.approx(5 * result.solo_tokens.mean)
    assert four.ttc_tokens.mean == pytest.approx(5 * len(SOLO), rel=0.1)
    assert two_rounds.ttc_tokens.mean == pytest.approx(11 * len(SOLO), rel=0.1)
    # Two wrong answers share three quarters of the votes: voting can't be right as often as synthesis.
    assert four.minus_self_consistency.low > 0.1
    assert four.minus_self_consistency.mean == pytest.approx(four.accuracy.mean - four.equal_ttc.accuracy.mean)
    assert [point.k for point in result.self_consistency] == [1, 2, 4, 8, 16]
    assert result.self_consistency[0].accuracy.mean == pytest.approx(result.solo.mean)
    assert set(four.by_tag["length"]) == {"5", "6"}
    assert four.by_tag["length"]["5"]["accuracy"].num_problems == 20
    # Solo pool, then per run: nothing for round 1, one closing round each, one middle round for [8, 2].
    assert len(generator.calls) == 1 + 2 * (1 + 1 + 2)


def test_configurations_are_compared_on_one_group_of_problems() -> None:
    result = evaluate(FakeGenerator(policy=policy), configurations=[(8,), (2,)])
    eight, two = (run.by_problem for run in result.configurations)
    odd = [(a or 0) - (b or 0) for a, b in zip(eight, two, strict=True)][1::2]
    difference = result.difference((8,), (2,), tag="length", value=6)
    assert difference.num_problems == 20
    assert difference.mean == pytest.approx(sum(odd) / 20)
    assert result.difference((8,), (2,)).num_problems == 40
    with pytest.raises(ValueError, match=r"ran \[\[8\], \[2\]\] and groups problems by \{'length': \[5, 6\]\}"):
        result.difference((8,), (2,), tag="length", value=7)


def test_it_repeats() -> None:
    first, second = (evaluate(FakeGenerator(policy=policy)) for _ in range(2))
    assert first == second


def test_a_pool_too_small_for_a_vote_is_topped_up() -> None:
    generator = FakeGenerator(policy=policy)
    result = evaluate(generator, self_consistency_pool=4, configurations=[(8,)], samples_per_problem=1)
    (run,) = result.configurations
    assert run.equal_ttc.k == 9
    assert [point.k for point in result.self_consistency] == [1, 2, 4]
    # K_1 exceeds the pool: round 1 is generated; the last call tops the pool up by 5.
    assert [call[0].num_samples for call in generator.calls] == [4, 8, 1, 5]


def test_a_given_first_round_is_drawn_and_charged() -> None:
    problems = [problem_of(index) for index in range(40, 80)]
    pool = {p.id: [message_of(p, f"right{p.id[1:]}", num_tokens=1000)] * 4 for p in problems}
    generator = FakeGenerator(policy=policy)
    result = evaluate(generator, first_round=pool, configurations=[(4,)], self_consistency_pool=2)
    (run,) = result.configurations
    assert run.accuracy.mean == 1
    assert run.ttc_tokens.mean == 4000 + len("</think>[right40]")
    assert run.equal_ttc.k == round(run.ttc_tokens.mean / result.solo_tokens.mean)


@pytest.mark.parametrize("spoilt", [("", "failed"), ("</think>[crash]", "stopped")])
def test_solo_responses_that_failed_are_not_drawn_and_cost_nothing(spoilt: tuple[str, Finish]) -> None:
    """A third of the solo responses cannot be generated, or scored: round 1 shows four of the others."""
    shown: list[int] = []

    def spoils(prompt: str, rng: np.random.Generator) -> tuple[str, Finish]:
        if "Reference 1:" not in prompt:
            return spoilt if rng.random() < 1 / 3 else ("</think>[wrong1]", "stopped")
        shown.append(len(re.findall(r"\[wrong1\]", prompt)))
        return "</think>[wrong9]", "stopped"

    result = evaluate(FakeGenerator(policy=spoils), configurations=[(4,)], self_consistency_pool=32)
    (run,) = result.configurations
    assert result.num_failed_solo > 300 and run.num_failed == 0
    assert result.solo_tokens.mean == len(SOLO)
    assert run.ttc_tokens.mean == 5 * len(SOLO) and run.equal_ttc.k == 5
    assert shown == [4] * (2 * 40)


def test_a_run_of_which_an_inner_call_failed_is_left_out_of_every_mean() -> None:
    """Of [4, 2] on problem 40 all calls that read four messages fail; those of the others never."""

    def fails(prompt: str, rng: np.random.Generator) -> tuple[str, Finish]:
        if "Problem 40?" in prompt and "Reference 4:" in prompt:
            return "", "failed"
        return "</think>[wrong1]", "stopped"

    (run,) = evaluate(FakeGenerator(policy=fails), configurations=[(4, 2)]).configurations
    assert run.num_failed == 2 and run.by_problem[0] is None and None not in run.by_problem[1:]
    assert run.ttc_tokens.mean == 7 * len(SOLO) and run.ttc_tokens.num_problems == 39


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="samples_per_problem=0"):
        evaluate(FakeGenerator(policy=policy), samples_per_problem=0)
    with pytest.raises(RuntimeError, match="no solo response has a token"):
        evaluate(FakeGenerator(policy=lambda prompt, rng: ("", "failed")))
