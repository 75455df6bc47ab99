"""What travels through curation: candidates, what is dropped of them and why, and the one form of a filter.

A filter sees a batch of candidates and returns those that stay (as they are, or changed, such as with a checker chosen)
and a :class:`Drop` for each of the others: nothing leaves the way without being counted. ::

    sources -> [Candidate] -> filter -> filter -> ... -> problems.parquet
                                 |         |
                                 +-- [Drop] --> rejects.jsonl, the funnel, the card
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pacore_rl.types import Problem

Domain = Literal["math", "code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A program that is known to be right or wrong for a coding problem."""

    language: str
    """As its source names it: python3, cpp, java, ..."""
    code: str
    is_right: bool
    label: str
    """The verdict that its source gives: accepted, wrong_answer, time_limit_exceeded, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A problem on its way through curation, with what training does not see."""

    problem: Problem
    """Conversation, ground truth (a ``TestSuite`` as JSON for code), reward; ``source`` is the recipe's name for it."""
    licence: str = ""
    """Of its source, as the recipe states it."""
    contest: str = ""
    """The contest it comes from, where its source says so; empty otherwise."""
    year: int | None = None
    """Of that contest."""
    responses: tuple[str, ...] = ()
    """Messages that came with it (the released form); unscored."""
    solutions: tuple[Solution, ...] = ()
    """Known programs; code only."""

    @property
    def id(self) -> str:
        """The problem's."""
        return self.problem.id

    @property
    def domain(self) -> Domain:
        """``code`` where tests score it, ``math`` otherwise."""
        return "code" if self.problem.reward == "code" else "math"

    @property
    def statement(self) -> str:
        """The turn that awaits an answer: what rules, judges and decontamination read."""
        return self.problem.conversation[-1].content

    def with_problem(self, **changes: object) -> Candidate:
        """The same candidate with fields of its problem replaced."""
        return dataclasses.replace(self, problem=dataclasses.replace(self.problem, **changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Why one candidate does not go on. Also what a reject file holds of a record that could not be read."""

    id: str
    """The candidate's; for an unreadable record, where it stands."""
    source: str
    step: str
    """What dropped it: ``read``, a rule's name, ``exact_duplicate``, ``contaminated``, ``judge``, ..."""
    reason: str
    """One short human sentence, with what was found."""
    excerpt: str = ""
    """The beginning of its statement, or what was near the trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """What a filter made of a batch: every candidate is in one of the two."""

    kept: tuple[Candidate, ...]
    """In the order given."""
    drops: tuple[Drop, ...]


Progress = Callable[[int, int], None]
"""Told (done, all) of what a filter looks at in a batch, as it goes."""


def unwatched(done: int, total: int) -> None:
    """A :data:`Progress` that nobody follows."""


class Filter(Protocol):
    """One step of the way. The order of its answers does not depend on how candidates are cut into batches."""

    @property
    def name(self) -> str:
        """The step in the funnel."""
        ...

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        """Sift a batch. Failures of a network or a sandbox are drops with a reason, or raise to be resumed later."""
        ...


@runtime_checkable
class SlowFilter(Filter, Protocol):
    """One that takes long for a batch, and says how far it is."""

    on_progress: Progress


def sift(candidates: Sequence[Candidate], *, step: str, reason_of: Callable[[Candidate], str | None]) -> Sifted:
    """Drop those for which ``reason_of`` gives a reason."""
    kept: list[Candidate] = []
    drops: list[Drop] = []
    for candidate in candidates:
        reason = reason_of(candidate)
        if reason is None:
            kept.append(candidate)
        else:
            drops.append(drop(candidate, step=step, reason=reason))
    return Sifted(kept=tuple(kept), drops=tuple(drops))


def drop(candidate: Candidate, *, step: str, reason: str) -> Drop:
    """The record of a candidate's end, with the beginning of its statement."""
    return Drop(
        id=candidate.id,
        source=candidate.problem.source,
        step=step,
        reason=reason,
        excerpt=" ".join(candidate.statement[:400].split())[:200],
    )
