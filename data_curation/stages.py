"""Which problems each training stage keeps (paper, section 3.1 and Appendix C): pure functions.

stage 1   0 < message accuracy < 9/24 (code: 15/24): seldom right alone, and yet not never
stage 2   0 < synthesis accuracy < 1, measured with a stage-1 checkpoint: what is left to learn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pacore_rl.synthesis.pool_shards import Pool
from pacore_rl.types import Problem

STAGE1_UPPER = 9 / 24
STAGE1_UPPER_BY_REWARD: Mapping[str, float] = MappingProxyType({"code": 15 / 24})

STAGE2_DRAWS = 4
STAGE2_RESPONSES_PER_DRAW = 4
STAGE2_WIDENED_RESPONSES = 64

_NUM_BINS = 12
_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What a stage's filter did to its problems. The four counts add up to all of them."""

    stage: str
    num_kept: int
    num_too_easy: int
    """At or above the upper threshold of their domain."""
    num_never_right: int
    num_unscored: int
    """Without a measurement; neither kept nor judged."""
    histogram: tuple[int, ...]
    """[12] measured problems by accuracy: bin i is [i/12, (i+1)/12), the last one includes 1."""
    mean_accuracy: float | None
    """Over measured problems; None where there is none."""

    @property
    def num_problems(self) -> int:
        """All problems the filter saw."""
        return self.num_kept + self.num_too_easy + self.num_never_right + self.num_unscored

    def as_text(self) -> str:
        """A plain table: counts, then the histogram with one bar a bin."""
        rows = [
            ("kept", self.num_kept),
            ("too easy", self.num_too_easy),
            ("never right", self.num_never_right),
            ("not measured", self.num_unscored),
            ("all", self.num_problems),
        ]
        total = max(self.num_problems, 1)
        lines = [self.stage]
        lines += [f"  {name:<14}{count:>8,}  {count / total:6.1%}" for name, count in rows]
        if self.mean_accuracy is not None:
            lines.append(f"  {'mean accuracy':<14}{self.mean_accuracy:>8.3f}")
            tallest = max(self.histogram)
            for i, count in enumerate(self.histogram):
                bar = "#" * -(-count * _BAR_WIDTH // tallest)
                lines.append(f"  {i / _NUM_BINS:5.3f} - {(i + 1) / _NUM_BINS:5.3f}{count:>8,}  {bar}".rstrip())
        return "\n".join(lines)


def stage1_keep(message_accuracy: float, *, upper: float = STAGE1_UPPER) -> bool:
    """``0 < accuracy < upper``, both strict. A fraction such as 9/24 compares exactly with 9 right of 24."""
    return 0.0 < message_accuracy < float(upper)


def select_stage1(
    problems: Sequence[Problem],
    pool: Pool,
    upper: float = STAGE1_UPPER,
    *,
    upper_by_reward: Mapping[str, float] = STAGE1_UPPER_BY_REWARD,
    min_messages: int = 1,
) -> tuple[tuple[Problem, ...], StageReport]:
    """The problems to train stage 1 on, in their order, and the report.

    ``upper_by_reward`` overrides ``upper`` for problems of a reward (code). Problems with fewer than ``min_messages``
    scored messages count as unscored.
    """
    accuracies = {
        problem.id: pool.message_accuracy(problem.id)
        for problem in problems
        if pool.num_scored(problem.id) >= max(min_messages, 1)
    }
    uppers = {problem.id: upper_by_reward.get(problem.reward, upper) for problem in problems}
    return _select("stage 1, by message accuracy", problems, accuracies, uppers)


def select_stage2(
    problems: Sequence[Problem], accuracies: Mapping[str, float]
) -> tuple[tuple[Problem, ...], StageReport]:
    """The problems to train stage 2 on, in their order, and the report: ``0 < synthesis accuracy < 1``, strict.

    ``accuracies`` by problem id; problems without one count as unscored.
    """
    uppers = {problem.id: 1.0 for problem in problems}
    return _select("stage 2, by synthesis accuracy", problems, accuracies, uppers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Synthesis responses to one problem, as scored so far."""

    num_correct: int = 0
    num_scored: int = 0
    """Less than what was generated where the scoring of some failed."""
    num_draws: int = 0
    """Message sets drawn so far."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            num_correct=self.num_correct + other.num_correct,
            num_scored=self.num_scored + other.num_scored,
            num_draws=self.num_draws + other.num_draws,
        )

    @property
    def accuracy(self) -> float | None:
        """None where nothing was scored."""
        return self.num_correct / self.num_scored if self.num_scored else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisDraw:
    """One message set to draw for a problem, and how many responses to sample from it."""

    problem_id: str
    draw_index: int
    """Key of the seeded draw: every index of a problem is another message set."""
    num_responses: int


def needs_widening(tally: Tally) -> bool:
    """Whether all or none of a first measurement were right, so that 16 responses cannot tell 0 or 1 from nearly so."""
    if tally.num_draws * STAGE2_RESPONSES_PER_DRAW >= STAGE2_WIDENED_RESPONSES:
        return False
    # More draws than a first measurement makes: a widening was begun, and is finished whatever it has found so far.
    begun = tally.num_draws > STAGE2_DRAWS
    return begun or (tally.num_draws == STAGE2_DRAWS and tally.num_correct in (0, tally.num_scored))


def stage2_plan(tallies: Mapping[str, Tally]) -> tuple[SynthesisDraw, ...]:
    """What is to be sampled next, given what was scored so far: an empty plan means that the measurement is complete.

    A fresh problem (``Tally()``) gets 4 message draws x 4 responses; one whose responses were then all right or all
    wrong is widened to 64 by 12 more draws. The plan depends on the tallies alone, so a measurement that was stopped
    goes on where it was.
    """
    plan: list[SynthesisDraw] = []
    for problem_id, tally in tallies.items():
        target = STAGE2_DRAWS
        if needs_widening(tally):
            target = STAGE2_WIDENED_RESPONSES // STAGE2_RESPONSES_PER_DRAW
        plan.extend(
            SynthesisDraw(problem_id=problem_id, draw_index=i, num_responses=STAGE2_RESPONSES_PER_DRAW)
            for i in range(tally.num_draws, target)
        )
    return tuple(plan)


@dataclass(slots=True)
class _Counts:
    kept: list[Problem] = field(default_factory=list[Problem])
    too_easy: int = 0
    never_right: int = 0
    unscored: int = 0


def _select(
    stage: str, problems: Sequence[Problem], accuracies: Mapping[str, float], uppers: Mapping[str, float]
) -> tuple[tuple[Problem, ...], StageReport]:
    counts = _Counts()
    histogram = [0] * _NUM_BINS
    measured: list[float] = []
    for problem in problems:
        accuracy = accuracies.get(problem.id)
        if accuracy is None:
            counts.unscored += 1
            continue
        if not 0.0 <= accuracy <= 1.0:
            raise ValueError(f"the accuracy of problem {problem.id!r} is {accuracy}; accuracies lie in [0, 1].")
        measured.append(accuracy)
        # The small shift keeps 7/12, whose product with 12 may round below 7, in its own bin.
        histogram[min(int(accuracy * _NUM_BINS + 1e-9), _NUM_BINS - 1)] += 1
        if 0.0 < accuracy < uppers[problem.id]:
            counts.kept.append(problem)
        elif accuracy == 0.0:
            counts.never_right += 1
        else:
            counts.too_easy += 1
    report = StageReport(
        stage=stage,
        num_kept=len(counts.kept),
        num_too_easy=counts.too_easy,
        num_never_right=counts.never_right,
        num_unscored=counts.unscored,
        histogram=tuple(histogram),
        mean_accuracy=sum(measured) / len(measured) if measured else None,
    )
    return tuple(counts.kept), report
