"""How good a judge is: its decisions on problems that were labelled by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_curation.judge_filter import Ballot

SAMPLE = Path(__file__).parent / "samples" / "judge_sample.jsonl"
"""100 problems, half of them well posed: real ones, ones that a rule drops, and real ones broken by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One problem with the right decision."""

    id: str
    is_well_posed: bool
    kind: str
    """``well posed``, or what is wrong: missing, parts, proof, figure, ..."""
    why: str
    problem: str
    answer: str
    origin: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of the decision to drop. Problems without a vote are in ``num_undecided`` and in no rate."""

    num_dropped_rightly: int
    num_dropped_wrongly: int
    num_kept_rightly: int
    num_kept_wrongly: int
    num_undecided: int
    num_neither: int
    """Of those dropped: no reply ended with yes or no."""
    missed_by_kind: dict[str, int]
    """Problems that should have been dropped and were kept, by what is wrong with them."""

    @property
    def precision(self) -> float:
        """Share of the dropped that are ill posed; 0 where none is dropped."""
        return self.num_dropped_rightly / max(1, self.num_dropped_rightly + self.num_dropped_wrongly)

    @property
    def recall(self) -> float:
        """Share of the ill posed that are dropped; 0 where there is none."""
        return self.num_dropped_rightly / max(1, self.num_dropped_rightly + self.num_kept_wrongly)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def load_sample(path: Path = SAMPLE) -> list[Labelled]:
    """Labelled problems, JSON Lines with the fields of :class:`Labelled`. ValueError names a line that is none."""
    labelled: list[Labelled] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            if line.strip():
                labelled.append(Labelled(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no labelled problem ({error}).") from error
    if not labelled:
        raise ValueError(f"{path} holds no labelled problem.")
    return labelled


def quality_of(labelled: Sequence[Labelled], ballots: Sequence[Ballot]) -> Quality:
    """Compare ballots with labels, in the same order."""
    counts: Counter[tuple[bool, bool]] = Counter()
    missed: Counter[str] = Counter()
    for one, ballot in zip(labelled, ballots, strict=True):
        if ballot.outcome == "failed":
            continue
        is_dropped = ballot.outcome != "yes"
        counts[is_dropped, one.is_well_posed] += 1
        missed[one.kind] += not is_dropped and not one.is_well_posed
    return Quality(
        num_dropped_rightly=counts[True, False],
        num_dropped_wrongly=counts[True, True],
        num_kept_rightly=counts[False, True],
        num_kept_wrongly=counts[False, False],
        num_undecided=sum(ballot.outcome == "failed" for ballot in ballots),
        num_neither=sum(ballot.outcome == "neither" for ballot in ballots),
        missed_by_kind={kind: num for kind, num in missed.most_common() if num},
    )
