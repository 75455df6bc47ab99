"""Ways of spending test-time compute on a problem: PaCoRe's K vectors, and the baselines that generate too.

Votes and the best of k need no condition: they are counted on the pool of solo answers (``benchmark_metrics``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pacore_rl.synthesis.levels import LEVELS, MAX_ROUNDS, check_configuration, sequential

Method = Literal["rounds", "aggregation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One way; equal conditions of one evaluation share their records."""

    method: Method
    configuration: tuple[int, ...] = ()
    """rounds: [K_1, ..., K_{R-1}]; the closing round of 1 is implied."""
    compacted: bool = True
    """rounds: False shows whole trajectories to the next round (figure 4)."""
    population: int = 0
    group: int = 0
    num_waves: int = 0
    """aggregation: candidates, candidates that each new one is made from, and waves, the first one included."""

    @property
    def key(self) -> str:
        """Names it in records and files: ``K=32,4``, ``K=16 uncompacted``, ``aggregation 4 of 2 x 8``."""
        if self.method == "aggregation":
            return f"aggregation {self.population} of {self.group} x {self.num_waves}"
        return f"K={','.join(map(str, self.configuration))}{'' if self.compacted else ' uncompacted'}"

    @property
    def label(self) -> str:
        """For tables: ``high, K=[32, 4]``, ``sequential x 17``."""
        if self.method == "aggregation":
            return f"recursive aggregation, {self.population} candidates from {self.group}, {self.num_waves} waves"
        if self.is_sequential:
            return f"sequential, {self.num_trajectories} rounds"
        level = next((f"{name}, " for name, rounds in LEVELS.items() if rounds == self.configuration), "")
        return f"{level}K={list(self.configuration)}{'' if self.compacted else ', no compaction'}"

    @property
    def is_sequential(self) -> bool:
        """Whether it is [1, ..., 1]."""
        return self.method == "rounds" and bool(self.configuration) and set(self.configuration) == {1}

    @property
    def num_trajectories(self) -> int:
        """Trajectories of one answer."""
        return self.population * self.num_waves if self.method == "aggregation" else sum(self.configuration) + 1

    @property
    def first_round(self) -> int:
        """Trajectories that are drawn from the pool of solo answers."""
        if self.method == "aggregation":
            return self.population
        return self.configuration[0] if self.configuration else 0


def rounds_of(configuration: Sequence[int], *, compacted: bool = True) -> Condition:
    """A K vector. Raises ValueError for one out of bounds."""
    check_configuration(configuration)
    return Condition(method="rounds", configuration=tuple(configuration), compacted=compacted)


def sequential_of(num_trajectories: int) -> Condition:
    """[1, ..., 1] of that many trajectories, the closing one included; at least two."""
    return rounds_of(sequential(min(max(2, num_trajectories), MAX_ROUNDS + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The test-time compute that a K vector used, for baselines to use as much."""

    ttc_tokens: float
    """T, of the K vector."""
    solo_tokens: float
    """a, of a trajectory from the plain problem."""
    synthesis_tokens: float
    """f, of a trajectory that reads messages: the K vector's closing ones."""

    @property
    def num_solo(self) -> int:
        """T / a, rounded; 1 at least: solo answers of the same cost."""
        return max(1, round(self.ttc_tokens / self.solo_tokens))

    def sequential(self) -> Condition:
        """[1, ..., 1] with n trajectories: a + (n - 1) f = T, rounded."""
        return sequential_of(1 + round((self.ttc_tokens - self.solo_tokens) / self._later_tokens))

    def aggregation(self, *, population: int, group: int) -> Condition:
        """N candidates in w waves: N a + (w - 1) N f = T, rounded; a smaller population where two waves cost more."""
        two_waves = self.solo_tokens + self._later_tokens
        population = max(1, min(population, int(self.ttc_tokens / two_waves)))
        waves = 1 + round((self.ttc_tokens - population * self.solo_tokens) / (population * self._later_tokens))
        return Condition(
            method="aggregation", population=population, group=min(group, population), num_waves=max(2, waves)
        )

    @property
    def _later_tokens(self) -> float:
        return self.synthesis_tokens or self.solo_tokens
