"""Decontamination (paper, Appendix C): training problems that repeat evaluation problems, digits masked or by n-grams.

    exact     equal words with every number masked: the same problem, or the same one with other numbers
    n-gram    ``size`` words in a row (64) that an evaluation problem has too: a copy within a longer text, or a part

The index holds hashes of the evaluation problems only: 5,000 of them take a few megabytes, whatever they are compared
with. Training problems stream past it. All windows of a batch of texts are hashed and looked up at once, in numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_curation.normal_text import MASK, UInt64, all_window_hashes, key, masked_words, normal_words
from data_curation.records import Candidate, Drop, Sifted, drop
from pacore_rl.config_curation import HeldOutContest
from pacore_rl.problems import load_problems
from pacore_rl.types import Problem

CONTAMINATED, HELD_OUT = "contaminated", "held_out_contest"
DEFAULT_SIZE = 64
MIN_MASKED_WORDS = 6
"""A statement with fewer words besides its numbers ("Compute # + #.") is only equal to one with the same numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationIndex:
    """Hashes of evaluation problems; built once, asked millions of times."""

    size: int
    masked: dict[int, str]
    """Hash of the masked words -> id of the evaluation problem."""
    verbatim: frozenset[int]
    """Hashes of the words as they are, of problems with few words."""
    windows: UInt64
    """Sorted hashes of every ``size`` words in a row."""
    owners: tuple[str, ...]
    """Ids of the evaluation problems by their number."""
    window_owner: np.ndarray
    """Number of the owner of each of ``windows``."""

    @property
    def num_bytes(self) -> int:
        """Memory of the hashes."""
        return self.windows.nbytes + self.window_owner.nbytes + 100 * (len(self.masked) + len(self.verbatim))

    def find(self, texts: Sequence[str]) -> list[str | None]:
        """For each text, which evaluation problem it repeats and how; None for a clean one."""
        words = [normal_words(text) for text in texts]
        found = [self._exact(one) for one in words]
        if not len(self.windows):
            return found
        hashes, num_windows = all_window_hashes(words, self.size)
        places = np.minimum(np.searchsorted(self.windows, hashes), len(self.windows) - 1)
        hits = np.flatnonzero(self.windows[places] == hashes)
        rows = np.searchsorted(np.cumsum(num_windows), hits, side="right")
        for hit, row in zip(hits, rows, strict=True):
            found[row] = (
                found[row] or f"{self.size} words in a row are of {self.owners[self.window_owner[places[hit]]]}"
            )
        return found

    def _exact(self, words: list[str]) -> str | None:
        masked = masked_words(words)
        owner = self.masked.get(key(masked))
        if owner is None:
            return None
        if _is_short(masked) and key(words) not in self.verbatim:
            return None
        return f"the same as {owner}, numbers aside"


def build_index(problems: Iterable[Problem], *, size: int = DEFAULT_SIZE) -> EvaluationIndex:
    """Index the statements of evaluation problems; one longer than ``size`` words is found by any ``size`` of them."""
    masked: dict[int, str] = {}
    verbatim: set[int] = set()
    owners: list[str] = []
    texts: list[list[str]] = []
    for problem in problems:
        words = normal_words(problem.conversation[-1].content)
        masks = masked_words(words)
        masked.setdefault(key(masks), problem.id)
        if _is_short(masks):
            verbatim.add(key(words))
        owners.append(problem.id)
        texts.append(words)
    hashes, num_windows = all_window_hashes(texts, size)
    windows, first = np.unique(hashes, return_index=True)
    return EvaluationIndex(
        size=size,
        masked=masked,
        verbatim=frozenset(verbatim),
        windows=windows,
        owners=tuple(owners),
        window_owner=np.repeat(np.arange(len(owners), dtype=np.int32), num_windows)[first],
    )


def load_index(paths: Sequence[Path], *, size: int) -> EvaluationIndex:
    """The index of evaluation files. Raises ValueError for one that is missing or damaged: what it holds would leak."""
    problems = [problem for path in paths for problem in load_problems(path)]
    return build_index(problems, size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decontamination:
    """Drops what the index finds; a ``records.Filter``."""

    index: EvaluationIndex
    name: str = CONTAMINATED

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        kept: list[Candidate] = []
        drops: list[Drop] = []
        found = self.index.find([candidate.statement for candidate in candidates])
        for candidate, reason in zip(candidates, found, strict=True):
            if reason is None:
                kept.append(candidate)
            else:
                drops.append(drop(candidate, step=self.name, reason=reason))
        return Sifted(kept=tuple(kept), drops=tuple(drops))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutContests:
    """Drops whole contests, by name and year; a ``records.Filter``."""

    contests: tuple[HeldOutContest, ...]
    name: str = HELD_OUT

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        kept: list[Candidate] = []
        drops: list[Drop] = []
        for candidate in candidates:
            contest = self._held_out(candidate)
            if contest is None:
                kept.append(candidate)
            else:
                drops.append(drop(candidate, step=self.name, reason=f"{contest} is held out"))
        return Sifted(kept=tuple(kept), drops=tuple(drops))

    def _held_out(self, candidate: Candidate) -> str | None:
        origin = candidate.problem.tags.get("origin", "")
        names = f"{candidate.contest} {candidate.problem.source} {origin} {candidate.id}"
        text = f" {' '.join(normal_words(names.replace('_', ' ')))} "
        for contest in self.contests:
            if f" {' '.join(normal_words(contest.name))} " not in text:
                continue
            if not contest.years:
                return contest.name
            for year in contest.years:
                if candidate.year == year or (candidate.year is None and f" {year} " in text):
                    return f"{contest.name} {year}"
        return None


def _is_short(masks: Sequence[str]) -> bool:
    return sum(word != MASK for word in masks) < MIN_MASKED_WORDS
