"""What the rounds of a problem exchange with whoever generates: a plan in, calls out, replies back, answers at last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, Self

from pacore_rl.synthesis.compaction import check_compaction
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.types import Finish

Outcome = Literal["answered", "unclosed", "truncated", "empty", "overflow", "failed", "unfinished"]
"""How a problem ended: ``answered``, or why not. ``unclosed`` is a reasoning that the model stopped without closing;
the others are those of ``pacore_rl.types.Finish``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """When a round goes on without its slowest calls. The closing round never does."""

    quorum: float
    """Share of the round's calls that must have ended, in (0, 1]."""
    deadline_seconds: float
    """Since the round began; before it, every call is waited for."""

    def __post_init__(self) -> None:
        if not 0 < self.quorum <= 1 or not self.deadline_seconds >= 0:
            raise ValueError(
                f"quorum={self.quorum:g} must lie in (0, 1], and deadline_seconds={self.deadline_seconds:g} must be 0 "
                "or more."
            )

    def is_enough(self, num_ended: int, num_calls: int, elapsed_seconds: float) -> bool:
        """Whether a round of ``num_calls`` may go on with ``num_ended`` of them."""
        if num_ended >= num_calls:
            return True
        return elapsed_seconds >= self.deadline_seconds and num_ended >= ceil(self.quorum * num_calls - 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsPlan:
    """How a problem is to be answered. Build with :meth:`of`, which checks it."""

    configuration: tuple[int, ...]
    """[R - 1], K_1 to K_{R-1}; the closing round is implied."""
    compactions: tuple[str, ...]
    """[R], the compaction of each round by name; the last makes the answer of the closing trajectory."""
    end_of_reasoning: str
    seed: int
    num_answers: int = 1
    """Samples of the closing round. They share the rounds before it, as the responses of a training step do."""
    stragglers: Stragglers | None = None

    @classmethod
    def of(
        cls,
        configuration: Sequence[int],
        *,
        compaction: str | Sequence[str] = "after_reasoning",
        end_of_reasoning: str = "</think>",
        seed: int = 0,
        num_answers: int = 1,
        stragglers: Stragglers | None = None,
    ) -> Self:
        """A plan; one name in ``compaction`` is that of every round.

        Raises ValueError for a round or a number of answers below 1, an unknown compaction, and a number of
        compactions that is not that of the rounds, the closing one included.
        """
        rounds = tuple(configuration)
        if any(size < 1 for size in rounds):
            raise ValueError(f"configuration {list(rounds)} has an empty round; every round needs 1 or more.")
        if num_answers < 1:
            raise ValueError(f"{num_answers} answers were asked for; ask for at least one.")
        names = (compaction,) * (len(rounds) + 1) if isinstance(compaction, str) else tuple(compaction)
        if len(names) != len(rounds) + 1:
            raise ValueError(
                f"{len(names)} compactions were given for {len(rounds) + 1} rounds, the closing one included; give one "
                "for each, or one name for all."
            )
        for name in names:
            check_compaction(name)
        return cls(
            configuration=rounds,
            compactions=names,
            end_of_reasoning=end_of_reasoning,
            seed=seed,
            num_answers=num_answers,
            stragglers=stragglers,
        )

    @property
    def num_rounds(self) -> int:
        """R, the closing round included."""
        return len(self.configuration) + 1

    def num_samples(self, round_index: int) -> int:
        """Trajectories of a round, counted from 0."""
        return (*self.configuration, self.num_answers)[round_index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One round of one problem: ``num_samples`` independent trajectories from P(x, M)."""

    problem_id: str
    round_index: int
    is_final: bool
    messages: tuple[str, ...]
    """M, in the order in which the prompt lists them; () asks the plain problem."""
    num_samples: int
    seed: int
    """Of the whole call, for an engine that parts it by sample; see :meth:`sample_seed`."""
    num_dropped: int
    """Messages of the round before that are not shown: empty, failed, or too long for the window."""
    stragglers: Stragglers | None

    def sample_seed(self, sample: int) -> int:
        """A seed in [0, 2^31) for one sample, where each is a request of its own."""
        return draw_seed(self.seed, "rounds/call", sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One trajectory, as far as the rounds look at it."""

    text: str
    """Reasoning and conclusion, with the end-of-reasoning marker between them."""
    finish: Finish
    generated_tokens: int
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    wasted_tokens: int = 0
    """Generated by attempts that broke before this one."""
    is_estimated: bool = False
    """Whether the server's own counts were missing or impossible."""
    error: str = ""
    """What went wrong, in words, where ``finish`` is ``failed`` or ``overflow``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a closing trajectory concluded."""

    outcome: Outcome
    text: str | None
    """The conclusion. None where there is none, and never an empty text. A ``truncated`` one lacks its end."""
    reply: Reply


def answer_of(reply: Reply, conclusion: str) -> Answer:
    """The typed answer of a closing trajectory whose compaction gave ``conclusion``."""
    if reply.finish != "stopped":
        return Answer(outcome=reply.finish, text=conclusion or None, reply=reply)
    return Answer(outcome="answered" if conclusion else "unclosed", text=conclusion or None, reply=reply)
