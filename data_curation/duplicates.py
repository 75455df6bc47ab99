"""Duplicates across all sources: exact ones after normalisation, and near ones by MinHash (datasketch).

The first of a group stays, so the order of sources in the recipe is an order of trust. Copies whose answers are
different numbers are all dropped: one of them is wrong, and nothing tells which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_curation.normal_text import UInt64, key, normal_words, window_hashes
from data_curation.records import Candidate, Drop, Sifted, drop
from pacore_rl.rewards.normal import normal_ground_truth, rational

EXACT, NEAR, CONFLICT = "exact_duplicate", "near_duplicate", "conflicting_answers"
SHINGLE_WORDS = 3
NUM_PERMUTATIONS = 128
MIN_NEAR_WORDS = 12
"""Shorter statements have too few shingles for their overlap to tell."""
_MISS_WEIGHT = 0.9
"""A pair that the index misses is lost, one that it finds in vain costs a comparison: so it is tuned to find."""


@dataclass(slots=True, kw_only=True)
class ExactDuplicates:
    """Finds statements that were seen before. Holds a few 64-bit keys and an id for each different statement.

    Contradictions are found in a first pass over everything (``survey``), copies in a second (``__call__``).
    """

    name: str = EXACT
    _answers: dict[int, int] = field(default_factory=dict[int, int])
    _contradicted: set[int] = field(default_factory=set[int])
    _first: dict[int, str] = field(default_factory=dict[int, str])

    def survey(self, candidates: Iterable[Candidate]) -> None:
        """Remember the answers of all statements; must have seen every candidate before the second pass."""
        for candidate in candidates:
            answer = _number(candidate)
            if answer and self._answers.setdefault(_statement(candidate), answer) != answer:
                self._contradicted.add(_statement(candidate))

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        """Candidates come in the order that decides which stays."""
        kept: list[Candidate] = []
        drops: list[Drop] = []
        for candidate in candidates:
            statement = _statement(candidate)
            if statement in self._contradicted:
                drops.append(drop(candidate, step=CONFLICT, reason="copies of it have another answer"))
            elif (first := self._first.setdefault(statement, candidate.id)) != candidate.id:
                drops.append(drop(candidate, step=EXACT, reason=f"the same as {first}"))
            else:
                kept.append(candidate)
        return Sifted(kept=tuple(kept), drops=tuple(drops))


@dataclass(slots=True, kw_only=True)
class NearDuplicates:
    """Finds statements whose word 3-grams overlap those of an earlier one, with the same numbers in both.

    Pairs come from MinHash and locality-sensitive hashing; the true Jaccard similarity of their shingles decides. Two
    statements with different numbers are two problems. Holds about 3 kB for each statement that stays.
    """

    similarity: float
    name: str = NEAR
    _index: Any = None
    _seen: dict[str, tuple[UInt64, int]] = field(default_factory=dict[str, tuple[UInt64, int]])
    """Shingles and numbers, as hashes, by id."""

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        """Candidates come in the order that decides which stays."""
        if self.similarity >= 1:
            return Sifted(kept=tuple(candidates), drops=())
        from datasketch import MinHash, MinHashLSH  # late: it takes a second to import

        if self._index is None:
            weights = (1 - _MISS_WEIGHT, _MISS_WEIGHT)
            self._index = MinHashLSH(threshold=self.similarity, num_perm=NUM_PERMUTATIONS, weights=weights)
        kept: list[Candidate] = []
        drops: list[Drop] = []
        words = [normal_words(candidate.statement) for candidate in candidates]
        shingles = [np.unique(window_hashes(one, SHINGLE_WORDS)) for one in words]
        sketches = MinHash.generator(
            (one.tolist() for one in shingles), num_perm=NUM_PERMUTATIONS, seed=1, hashfunc=_low_bits
        )
        for candidate, one, mine, sketch in zip(candidates, words, shingles, sketches, strict=True):
            if len(one) < MIN_NEAR_WORDS:
                kept.append(candidate)
                continue
            numbers = key(sorted(word for word in one if word.isdigit()))
            twin = self._twin(mine, numbers, self._index.query(sketch))
            if twin is None:
                self._index.insert(candidate.id, sketch)
                self._seen[candidate.id] = (mine, numbers)
                kept.append(candidate)
            else:
                drops.append(drop(candidate, step=NEAR, reason=f"{twin[1]:.0%} similar to {twin[0]}"))
        return Sifted(kept=tuple(kept), drops=tuple(drops))

    def _twin(self, mine: UInt64, numbers: int, found: Iterable[str]) -> tuple[str, float] | None:
        """The most similar of the earlier statements that were found, and how similar it is."""
        best: tuple[str, float] | None = None
        for id in sorted(found):
            other, other_numbers = self._seen[id]
            shared = len(np.intersect1d(mine, other, assume_unique=True))
            similarity = shared / (len(mine) + len(other) - shared)
            if similarity >= self.similarity and numbers == other_numbers and (best is None or similarity > best[1]):
                best = (id, similarity)
        return best


def _statement(candidate: Candidate) -> int:
    return key(normal_words(candidate.statement, signs=True))


def _number(candidate: Candidate) -> int:
    """Equal for equal numbers, 0 for an answer that is none: of two ways to write it nothing is known by their text."""
    value = (
        rational(normal_ground_truth(candidate.problem.ground_truth)) if candidate.problem.reward == "math" else None
    )
    return 0 if value is None else key([str(value[0])])


def _low_bits(shingle: int) -> int:
    return shingle & 0xFFFFFFFF
