"""Configurations by name and as text: ``low``, ``high``, ``32,4``.

A configuration is the vector (K_1, ..., K_{R-1}) of samples per round; the closing round of 1 is implied (paper,
section 2.1). One sample in every round gives the sequential variant of the paper's figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

LEVELS = MappingProxyType({"low": (4,), "medium": (16,), "high": (32, 4)})
"""The paper's three levels (table 1)."""

MAX_ROUND_SAMPLES = 1_024
"""Twice the largest pool of the paper; more in one round is taken for a slip."""
MAX_ROUNDS = 64
"""Rounds before the closing one."""

_GRAMMAR = (
    f"give {', '.join(LEVELS)}, or the samples of each round before the closing one, such as 16 or 32,4 "
    f"(at most {MAX_ROUNDS} rounds of 1 to {MAX_ROUND_SAMPLES:,})"
)


def parse_configuration(text: str) -> tuple[int, ...]:
    """The configuration of a level's name or of numbers: "high", "32,4" and "[32, 4]" are all (32, 4); "[]" is ().

    Raises ValueError, with what may be given, for anything else and for rounds outside 1 to ``MAX_ROUND_SAMPLES``.
    """
    cleaned = text.strip().lower()
    if cleaned in LEVELS:
        return LEVELS[cleaned]
    inner = cleaned[1:-1] if cleaned.startswith("[") and cleaned.endswith("]") else cleaned
    parts = [part.strip() for part in inner.split(",")] if inner.strip() else []
    if not parts and not cleaned.startswith("["):
        raise ValueError(f"the level is empty; {_GRAMMAR}.")
    try:
        configuration = tuple(int(part) for part in parts)
    except ValueError:
        raise ValueError(f"the level {text[:80]!r} is not known; {_GRAMMAR}.") from None
    check_configuration(configuration)
    return configuration


def check_configuration(configuration: Sequence[int]) -> None:
    """Raise ValueError, with what may be given, where a round or their number is out of bounds."""
    wrong = [size for size in configuration if not 1 <= size <= MAX_ROUND_SAMPLES]
    if wrong:
        raise ValueError(
            f"K={list(configuration)} has a round of {wrong[0]:,}; every round takes 1 to {MAX_ROUND_SAMPLES:,}."
        )
    if len(configuration) > MAX_ROUNDS:
        raise ValueError(f"K has {len(configuration)} rounds; at most {MAX_ROUNDS} may come before the closing one.")


def sequential(num_rounds: int) -> tuple[int, ...]:
    """The configuration of ``num_rounds`` rounds of one sample each, the closing one among them (figure 4)."""
    if num_rounds < 1:
        raise ValueError(f"a sequential configuration of {num_rounds} rounds was asked for; it needs at least 1.")
    return (1,) * (num_rounds - 1)


def as_text(configuration: Sequence[int]) -> str:
    """``32,4``: what :func:`parse_configuration` reads back; ``[]`` where the closing round is the only one."""
    return ",".join(map(str, configuration)) or "[]"
