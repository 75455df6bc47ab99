"""Synthetic large-integer arithmetic (paper, Appendix C): A and B uniform in [low, high], one operation, in words.

The paper draws A and B from [1e11, 1e13] and takes sums, differences, products and modular powers by a fixed large
prime. Answers are exact integers of any size. ::

    "What is 712345678901 + 98765432109? Give the result inside \\boxed{}."      ground truth: 811111111010
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pacore_rl.types import Problem, Turn

Operation = Literal["add", "subtract", "multiply", "power_mod"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

PAPER_LOW = 10**11
PAPER_HIGH = 10**13
PRIME = 2**61 - 1
"""The fixed modulus, a Mersenne prime above every A of the paper's range."""

_MAX_DIGITS = 2000  # products stay below the 4300 digits that Python converts to text by default

_ASKS = (
    r" Put the final answer in \boxed{}.",
    r" Give the result inside \boxed{}.",
    r" Write the exact integer in \boxed{}.",
)
_ASKS_ZH = (r"请把最终答案写在\boxed{}中。", r"结果用\boxed{}给出。")

TEMPLATES: dict[Operation, tuple[str, ...]] = {
    "add": (
        "What is {a} + {b}?",
        "Compute the sum of {a} and {b}.",
        "A warehouse holds {a} screws and receives {b} more. How many screws does it hold now?",
        "Add {b} to {a} and state the exact total.",
        "Let $x = {a}$ and $y = {b}$. Find $x + y$.",
        "One counter reads {a}, another reads {b}. What do the two readings add up to?",
        "计算 {a} + {b} 的值。",
        "甲数是 {a}，乙数是 {b}，两数之和是多少？",
    ),
    "subtract": (
        "What is {a} - {b}?",
        "Compute the difference when {b} is subtracted from {a}.",
        "Let $x = {a}$ and $y = {b}$. Find $x - y$; the result may be negative.",
        "Evaluate {a} minus {b} exactly.",
        "An account shows a balance of {a} cents and is charged {b} cents. What balance, possibly negative, is left?",
        "Which integer must be added to {b} to obtain {a}?",
        "计算 {a} - {b} 的值。",
        "从 {a} 中减去 {b}，得到的整数是多少（可以为负数）？",
    ),
    "multiply": (
        "What is {a} × {b}?",
        "Compute the product of {a} and {b}.",
        "A grid has {a} rows with {b} cells each. How many cells does it have?",
        "Let $x = {a}$ and $y = {b}$. Find $x \\cdot y$.",
        "Multiply {a} by {b} and give every digit.",
        "Find the area of a rectangle whose sides measure {a} and {b}.",
        "计算 {a} × {b} 的值。",
        "一个长方形的长是 {a}，宽是 {b}，它的面积是多少？",
    ),
    "power_mod": (
        "Find the remainder when ${a}^{{{b}}}$ is divided by {p}.",
        "Compute ${a}^{{{b}}} \\bmod {p}$.",
        "What is {a} raised to the power {b}, modulo {p}?",
        "Let $p = {p}$. Determine the unique $r$ with $0 \\le r < p$ and $r \\equiv {a}^{{{b}}} \\pmod{{p}}$.",
        "The number {a} is multiplied by itself so that it appears {b} times as a factor. What does this product "
        "leave as its remainder on division by {p}?",
        "Working modulo the prime {p}, evaluate ${a}^{{{b}}}$ as an integer from 0 to {p} - 1.",
        "求 ${a}^{{{b}}}$ 除以 {p} 的余数。",
        "设 $p = {p}$，计算 ${a}^{{{b}}} \\bmod p$。",
    ),
}

_EVALUATE: dict[Operation, Callable[[int, int, int], int]] = {
    "add": lambda a, b, _: a + b,
    "subtract": lambda a, b, _: a - b,
    "multiply": lambda a, b, _: a * b,
    "power_mod": pow,
}
_COMMUTATIVE = ("add", "multiply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """``a (operation) b``, for ``power_mod`` modulo ``modulus``."""

    operation: Operation
    a: int
    b: int
    modulus: int = PRIME

    @property
    def id(self) -> str:
        """The same for two tasks with the same solution path: a + b and b + a are one task."""
        a, b = sorted((self.a, self.b)) if self.operation in _COMMUTATIVE else (self.a, self.b)
        modulus = f"-mod-{self.modulus}" if self.operation == "power_mod" else ""
        return f"arithmetic-{self.operation}-{a}-{b}{modulus}"

    @property
    def result(self) -> int:
        """The exact answer; for ``power_mod`` in [0, modulus)."""
        return _EVALUATE[self.operation](self.a, self.b, self.modulus)


def generate_arithmetic(
    num: int,
    *,
    low: int = PAPER_LOW,
    high: int = PAPER_HIGH,
    operations: Sequence[Operation] = OPERATIONS,
    seed: int,
    modulus: int = PRIME,
) -> tuple[Problem, ...]:
    """``num`` different problems, A and B uniform in [low, high] (both included), operation and template uniform.

    A longer list with the same seed starts with the shorter one. Raises ValueError for a range or operations that
    cannot give them.
    """
    _check(num, low, high, operations, modulus)
    rng = random.Random(seed)
    problems: dict[str, Problem] = {}
    while len(problems) < num:
        operation = rng.choice(tuple(operations))
        task = Arithmetic(operation=operation, a=rng.randint(low, high), b=rng.randint(low, high), modulus=modulus)
        template = rng.randrange(len(TEMPLATES[operation]))
        question = _question(task, template, rng)
        if task.id not in problems:
            problems[task.id] = Problem(
                id=task.id,
                conversation=(Turn(role="user", content=question),),
                ground_truth=str(task.result),
                reward="math",
                source="synthetic-arithmetic",
                tags={"operation": operation, "template": template, "digits": len(str(high))},
            )
    return tuple(problems.values())


def operation_names(names: Sequence[str]) -> tuple[Operation, ...]:
    """The names as operations. Raises ValueError for one that is none."""
    unknown = sorted(set(names) - set(OPERATIONS))
    if unknown:
        raise ValueError(f"operations {unknown} are unknown; choose from {', '.join(OPERATIONS)}.")
    return tuple(operation for operation in OPERATIONS if operation in names)


def split_held_out(
    problems: Sequence[Problem], share: float, *, salt: str = "held-out"
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Training and held-out problems: each goes by the hash of its own id, about ``share`` of them to the second.

    A problem stays on its side whatever is generated besides it, with whichever seed.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"held-out share {share} must lie in [0, 1].")
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for problem in problems:
        digest = hashlib.blake2b(f"{salt}\0{problem.id}".encode(), digest_size=8).digest()
        sides[1 if int.from_bytes(digest, "little") < share * 2**64 else 0].append(problem)
    return tuple(sides[0]), tuple(sides[1])


def _question(task: Arithmetic, template: int, rng: random.Random) -> str:
    wording = TEMPLATES[task.operation][template]
    chinese = any("\u4e00" <= character <= "\u9fff" for character in wording)
    ask = rng.choice(_ASKS_ZH if chinese else _ASKS)
    return wording.format(a=task.a, b=task.b, p=task.modulus) + ask


def _check(num: int, low: int, high: int, operations: Sequence[Operation], modulus: int) -> None:
    unknown = [operation for operation in operations if operation not in OPERATIONS]
    if unknown or not operations:
        raise ValueError(f"operations {list(operations)} must be one or more of {', '.join(OPERATIONS)}.")
    if not 0 <= low <= high < 10**_MAX_DIGITS:
        raise ValueError(
            f"A and B cannot be drawn from {low} to {high}: 0 <= low <= high must hold, below {_MAX_DIGITS} digits."
        )
    if "power_mod" in operations and modulus < 2:
        raise ValueError(f"modulus {modulus} must be at least 2; the paper's is a large prime.")
    pairs = (high - low + 1) ** 2
    different = sum(pairs // 2 if operation in _COMMUTATIVE else pairs for operation in set(operations))
    # Half of what exists at most: beyond it, drawing again until something new comes takes ever longer.
    if num < 0 or num > different // 2:
        raise ValueError(
            f"{num} different problems are too many for numbers from {low} to {high} with {len(set(operations))} "
            f"operations ({different // 2} can be given); widen the range."
        )
