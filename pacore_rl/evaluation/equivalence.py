r"""Which of a problem's answers are the same: ``\frac{1}{2}`` and ``0.5`` are one candidate of a vote, not two.

Verdicts carry answers in a normal form, which joins spellings but not expressions. Here the mathematical reward
compares the forms with each other, as it compares an answer with the ground truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pacore_rl.interfaces import Scorer
from pacore_rl.types import Problem, Turn, Verdict

COMPARABLE = ("math", "judge")
"""Rewards whose answers are mathematics; those of others are the same only where they are spelled alike."""


def representatives(verdicts: Sequence[Verdict], reward: str, scorer: Scorer) -> dict[str, str]:
    """Answer -> the answer that stands for all that equal it, for every answer that a verdict has.

    All right answers equal the ground truth, so they are one. Wrong ones are compared with those that stand for the
    groups found so far, the most frequent first.
    """
    votes = Counter(verdict.answer for verdict in verdicts if verdict.answer is not None)
    right = {verdict.answer for verdict in verdicts if verdict.correct}
    found: dict[str, str] = {}
    leaders: list[str] = []
    first_right = next((answer for answer, _ in votes.most_common() if answer in right), None)
    for answer, _ in votes.most_common():
        if answer in right and first_right is not None:
            found[answer] = first_right
        elif reward not in COMPARABLE or (leader := _leader(answer, leaders, scorer)) is None:
            leaders.append(answer)
            found[answer] = answer
        else:
            found[answer] = leader
    return found


def merged(verdicts: Sequence[Verdict], stands_for: Mapping[str, str]) -> list[Verdict]:
    """The verdicts with equal answers spelled alike, so that votes on them are counted together."""
    return [
        verdict if verdict.answer is None else replace(verdict, answer=stands_for.get(verdict.answer, verdict.answer))
        for verdict in verdicts
    ]


def _leader(answer: str, leaders: Sequence[str], scorer: Scorer) -> str | None:
    """The first of ``leaders`` that the answer equals; a comparison that fails or takes too long is no equality."""
    compared = scorer.score([(_asking_for(leader), f"\\boxed{{{answer}}}", "stopped") for leader in leaders]).result()
    return next((leader for leader, verdict in zip(leaders, compared, strict=True) if verdict.correct), None)


def _asking_for(answer: str) -> Problem:
    turn = Turn(role="user", content="Are the two the same?")
    return Problem(id="equivalence", conversation=(turn,), ground_truth=answer, reward="math")
