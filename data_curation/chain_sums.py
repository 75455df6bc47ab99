"""Chain sums: arithmetic whose written-out solution does not fit in one short reply.

A problem lists ``n`` labelled one-digit numbers and asks for their total::

    Add A3 B7 C2 D5 E1.          ground truth: 18

Written out one addition at a time (``A-A=3;B7=10;C2=12``), a chain longer than the response budget cannot be
finished by one trajectory. A trajectory that starts from another one's labelled partial total (``A-C=12``) can go
further, which is what parallel coordinated reasoning is for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pacore_rl.types import Problem, Turn

LETTERS = "ABCDEFGHIJKL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSum:
    """One chain: ``numbers[i]`` (1 to 9) carries the label ``LETTERS[i]``."""

    numbers: tuple[int, ...]

    @property
    def last(self) -> int:
        """Index of the last number."""
        return len(self.numbers) - 1

    def partial(self, start: int, end: int) -> int:
        """Sum of the numbers ``start`` to ``end``, both included."""
        return sum(self.numbers[start : end + 1])

    @property
    def question(self) -> str:
        listing = " ".join(f"{LETTERS[i]}{number}" for i, number in enumerate(self.numbers))
        return f"Add {listing}."

    @property
    def answer(self) -> str:
        return str(self.partial(0, self.last))


def claim(start: int, end: int, total: int) -> str:
    """A labelled total, e.g. ``A-D=17``: the numbers from A to D add up to 17."""
    return f"{LETTERS[start]}-{LETTERS[end]}={total}"


def sample_chain(rng: random.Random, lengths: range) -> ChainSum:
    """One chain whose length is uniform over ``lengths`` (2 to 12 numbers)."""
    if lengths.start < 2 or lengths[-1] > len(LETTERS):
        raise ValueError(f"chain lengths {lengths} leave 2..{len(LETTERS)}; choose lengths within it.")
    return ChainSum(numbers=tuple(rng.randint(1, 9) for _ in range(rng.choice(lengths))))


def generate_chain_sums(num: int, lengths: range, *, seed: int) -> tuple[Problem, ...]:
    """``num`` different chains as problems; a longer list with the same seed starts with the shorter one."""
    rng = random.Random(f"chain-sums-{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < num:
        problem = chain_problem(sample_chain(rng, lengths))
        problems.setdefault(problem.id, problem)
    return tuple(problems.values())


def chain_problem(chain: ChainSum) -> Problem:
    """The chain as a problem whose answer must match exactly; its numbers name it."""
    return Problem(
        id=f"chain-{''.join(map(str, chain.numbers))}",
        conversation=(Turn(role="user", content=chain.question),),
        ground_truth=chain.answer,
        reward="exact",
        source="chain_sums",
        tags={"length": len(chain.numbers)},
    )
