from __future__ import annotations

import numpy as np
import pytest

from pacore_rl.evaluation.statistics import estimates_by_tag, mean_amount, mean_share, paired_difference


def test_a_plain_share_has_agrestis_and_coulls_interval() -> None:
    # 5 of 10, worked by hand: n + z^2 = 13.8415, half 1.96 sqrt(0.25 / 13.8415) = 0.26340.
    estimate = mean_share([1.0] * 5 + [0.0] * 5)
    assert estimate.mean == 0.5
    assert (estimate.low, estimate.high) == pytest.approx((0.23660, 0.76340), abs=1e-4)
    assert estimate.num_problems == 10


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.18981), (1.0, 0.81019, 1.0)])
def test_an_all_wrong_share_is_not_certain(value: float, low: float, high: float) -> None:
    # n = 20: centre 1.92073 / 23.8415 = 0.08056, half 1.96 sqrt(0.08056 x 0.91944 / 23.8415) = 0.10925.
    estimate = mean_share([value] * 20)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-4)


def test_one_more_success_hardly_moves_the_interval() -> None:
    never, once = mean_share([0.0] * 12), mean_share([0.0] * 11 + [1 / 64])
    assert once.low == never.low == 0.0
    assert once.high == pytest.approx(never.high, abs=0.002)


@pytest.mark.parametrize(("share", "num_problems"), [(0.02, 30), (0.05, 12), (0.5, 30), (0.952, 30), (0.98, 30)])
def test_shares_are_covered_near_the_ends_too(share: float, num_problems: int) -> None:
    """Problems of very different difficulty, 64 answers each: a bootstrap covers 73 to 83% of the first and last."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        difficulty = rng.beta(share / 2, (1 - share) / 2, size=num_problems)
        estimate = mean_share((rng.binomial(64, difficulty) / 64).tolist())
        covered += estimate.low <= share <= estimate.high
    assert covered / 400 > 0.92


def test_amounts_are_bootstrapped_and_that_repeats() -> None:
    values = np.random.default_rng(0).normal(400, 200, size=400).tolist()
    first, second = mean_amount(values), mean_amount([*values, None])
    assert first == second
    half = 1.96 * np.std(values) / 20
    assert first.high - first.mean == pytest.approx(half, rel=0.1)
    assert first.mean - first.low == pytest.approx(half, rel=0.1)


def test_pairing_takes_out_the_problems_difficulty() -> None:
    difficulty = np.random.default_rng(1).uniform(0, 0.8, size=100)
    difference = paired_difference((difficulty + 0.2).tolist(), difficulty.tolist())
    assert difference.mean == pytest.approx(0.2)
    assert difference.high - difference.low < 0.05


def test_a_difference_has_agrestis_and_mins_interval() -> None:
    # 6 of 96 gained, none lost. n + 2 = 98; centre 6 / 98 = 0.06122, half 1.96 sqrt((7 / 98 - 0.0612^2) / 98) = 0.0515.
    gained = paired_difference([1.0] * 6 + [0.0] * 90 + [None], [0.0] * 97)
    assert (gained.mean, gained.num_problems) == (0.0625, 96)
    assert (gained.low, gained.high) == pytest.approx((0.00971, 0.11273), abs=1e-4)
    same = paired_difference([1.0] * 30, [1.0] * 30)
    assert same.low == -same.high < 0 < same.high < 0.1, "30 problems that agree do not prove that all would"


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        mean_share([None])
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        mean_amount([0.5, float("nan")])
    with pytest.raises(ValueError, match="a share lies between 0 and 1"):
        mean_share([0.5, 20.0])
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_difference([0.1, 0.2], [0.1])


def test_tags_group_the_problems_in_numeric_order() -> None:
    groups = estimates_by_tag([0.0, 1.0, 0.5, None, 1.0], [10, 5, 10, 5, None])
    assert list(groups) == ["5", "10"]
    assert groups["10"].mean == 0.25
    assert groups["5"].num_problems == 1
