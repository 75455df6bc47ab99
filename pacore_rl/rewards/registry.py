"""The rewards by name.

To add one: a file beside this one with ``REWARD = Reward(settle=...)``, a line in ``REWARDS`` and a test. A function of
yours needs no registry line: a problem whose reward is ``package.module:function`` is scored by
``function(message, ground_truth)``, which returns a number in [0, 1] (1 counts as correct) or a ``Verdict``.
"""

from __future__ import annotations

import difflib
import importlib
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from pacore_rl.rewards import exact, maths
from pacore_rl.rewards.base import Question, Reward, failed
from pacore_rl.rewards.code import reward as code
from pacore_rl.types import Verdict

if TYPE_CHECKING:
    from pacore_rl.rewards.checker_pool import CheckerPool

REWARDS: dict[str, Reward] = {
    "exact": exact.REWARD,
    "math": maths.REWARD,
    "code": code.REWARD,
}


def validate_reward(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is a reward that can be used here."""
    reward_of(name)


@lru_cache(maxsize=256)
def reward_of(name: str) -> Reward:
    """The reward called ``name``, or the one made of the function ``package.module:function``.

    Raises ``ValueError``, with the nearest right name, where there is none.
    """
    if name in REWARDS:
        return REWARDS[name]
    if ":" in name:
        return _reward_of_function(name)
    near = difflib.get_close_matches(name.lower(), REWARDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "choose one of these."
    raise ValueError(
        f"unknown reward {name!r}; the rewards are {', '.join(map(repr, REWARDS))}, "
        f"or 'package.module:function' for one of your own: {hint}"
    )


def _reward_of_function(name: str) -> Reward:
    module_name, _, function_name = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reward {name!r} cannot be loaded ({error}); 'package.module:function' must name an importable function "
            "of (message, ground_truth)."
        ) from error
    if not callable(found):
        # A ValueError like every other unusable name, although it is a type that is wrong.
        raise ValueError(
            f"reward {name!r} is {type(found).__name__}; it must be a function of (message, ground_truth)."
        )

    function = cast("Callable[[str, str], float | Verdict]", found)

    def settle(message: str, ground_truth: str) -> Question:
        return Question(reward=name, answer=message, ground_truth=ground_truth)

    def answer(question: Question, pool: CheckerPool) -> Verdict:
        return _call(name, function, question)

    return Reward(settle=settle, answer=answer)


def _call(name: str, function: Callable[[str, str], float | Verdict], question: Question) -> Verdict:
    """The user's verdict. What the function raises, or a score outside [0, 1], is a failure of ours, never a 0."""
    started = time.monotonic()
    try:
        score = function(question.answer, question.ground_truth)
    except Exception as error:
        return failed(f"{name} raised {type(error).__name__}: {error}", seconds=time.monotonic() - started)
    if isinstance(score, Verdict):
        return score
    seconds = time.monotonic() - started
    if not 0 <= score <= 1:
        return failed(f"{name} returned {score}; it must return a number in [0, 1]", seconds=seconds)
    return Verdict(
        reward=float(score),
        correct=score == 1,
        outcome="scored",
        reason=f"scored by {name}",
        answer=question.answer,
        seconds=seconds,
    )
