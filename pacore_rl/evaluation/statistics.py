"""Means over problems with 95% intervals.

The problem is the unit of sampling: responses to one problem are correlated, so that an interval over responses would
be far too narrow. Every function here takes one value per problem (its mean over responses, draws, ...) and asks how
the mean would move had other problems been chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

NUM_RESAMPLES = 4000
"""Bootstrap resamples: the ends of a 95% interval are then steady to a few percent of its width."""
_Z_95 = 1.959963984540054
_ROUNDING = 1e-9
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems and its 95% interval."""

    mean: float
    low: float
    high: float
    num_problems: int

    def to_dict(self) -> dict[str, float | int]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "num_problems": self.num_problems}


def mean_share(values_by_problem: Sequence[float | None]) -> Estimate:
    """The mean of shares in [0, 1], such as accuracies, with a 95% interval over problems.

    The normal interval after z^2 / 2 imagined problems at 0 and as many at 1 have joined those that there are. Where
    every value is 0 or 1 that is Agresti and Coull's (The American Statistician 52, 1998), which keeps its coverage
    near 0 and 1, where a few problems of the other kind have just not been met; values in between are the same case.

    Args:
        values_by_problem: [P] in [0, 1]; None where it is undefined, which is left out.

    Raises:
        ValueError: no value, or one that is no share.
    """
    values = _checked(values_by_problem)
    if bool(np.any((values < -_ROUNDING) | (values > 1 + _ROUNDING))):
        raise ValueError(f"a share lies between 0 and 1, got {values.min():g} to {values.max():g}; see mean_amount.")
    return _estimate(values, imagined={0.0: _Z_95**2 / 2, 1.0: _Z_95**2 / 2}, least=0.0)


def mean_amount(values_by_problem: Sequence[float | None], *, seed: int = 0) -> Estimate:
    """The mean of amounts of any size, such as tokens, with a 95% interval over problems.

    The percentile cluster bootstrap: problems are resampled with replacement, each with all of its responses (Efron and
    Tibshirani, An Introduction to the Bootstrap, chapter 13). The seed makes it repeat. Below some twenty problems the
    interval is a little too narrow.

    Args:
        values_by_problem: [P] finite; None where it is undefined, which is left out.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    return _bootstrap(_checked(values_by_problem), seed)


def paired_difference(first_by_problem: Sequence[float | None], second_by_problem: Sequence[float | None]) -> Estimate:
    """Mean of first - second, two shares in [0, 1] paired by problem, with a 95% interval over problems.

    Pairing takes out how hard the problems are, so this interval is the one to read when two quantities of the same
    problems are compared; two overlapping intervals of ``mean_share`` say less. The normal interval after two imagined
    problems, half of one in each way that two answers can be right or wrong: Agresti and Min's (Statistics in Medicine
    24, 2005) where every share is 0 or 1.

    Args:
        first_by_problem, second_by_problem: [P] each, the same problems in the same order; those where either is None
            are left out.
    """
    if len(first_by_problem) != len(second_by_problem):
        raise ValueError(
            f"a paired difference needs the same problems twice, got {len(first_by_problem)} and "
            f"{len(second_by_problem)} values; give both for every problem, None where one is undefined."
        )
    pairs = zip(first_by_problem, second_by_problem, strict=True)
    differences = _checked([a - b for a, b in pairs if a is not None and b is not None])
    return _estimate(differences, imagined={-1.0: 0.5, 0.0: 1.0, 1.0: 0.5}, least=-1.0)


def estimates_by_tag(
    values_by_problem: Sequence[float | None], tags_by_problem: Sequence[str | int | float | None]
) -> Mapping[str, Estimate]:
    """The estimate for each value of a tag, in the tag's order; problems without value or tag are left out."""
    groups: dict[str | int | float, list[float]] = {}
    for value, tag in zip(values_by_problem, tags_by_problem, strict=True):
        if value is not None and tag is not None:
            groups.setdefault(tag, []).append(value)
    ordered = sorted(groups, key=lambda tag: (isinstance(tag, str), tag))
    return {str(tag): mean_share(groups[tag]) for tag in ordered}


def _checked(values_by_problem: Sequence[float | None]) -> Float64:
    values = np.asarray([value for value in values_by_problem if value is not None], dtype=np.float64)
    if not values.size:
        raise ValueError("an interval over problems needs a value for at least one problem, got none.")
    if not bool(np.all(np.isfinite(values))):
        raise ValueError(
            f"{int(np.sum(~np.isfinite(values)))} of {values.size} values are not finite; give None for the problems "
            "on which the quantity is undefined."
        )
    return values


def _estimate(values: Float64, *, imagined: Mapping[float, float], least: float) -> Estimate:
    """The normal interval with imagined problems (value -> how many), cut to [least, 1] and never beside the mean."""
    n, mean = values.size, float(values.mean())
    all_n = n + sum(imagined.values())
    centre = (n * mean + sum(value * weight for value, weight in imagined.items())) / all_n
    squares = float(((values - centre) ** 2).sum()) + sum(w * (value - centre) ** 2 for value, w in imagined.items())
    half = _Z_95 * math.sqrt(squares / all_n / all_n)
    low, high = max(least, min(centre - half, mean)), min(1.0, max(centre + half, mean))
    return Estimate(mean=mean, low=low, high=high, num_problems=n)


def _bootstrap(values: Float64, seed: int) -> Estimate:
    rng = np.random.default_rng(seed)
    n = values.size
    means: list[Float64] = []
    rows = max(1, min(NUM_RESAMPLES, _CHUNK_VALUES // n))
    for start in range(0, NUM_RESAMPLES, rows):
        picked = rng.integers(n, size=(min(rows, NUM_RESAMPLES - start), n))
        means.append(values[picked].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(mean=float(values.mean()), low=float(low), high=float(high), num_problems=n)
