"""The rewards by name.

To add one: a file beside this one with ``REWARD = Reward(settle=...)``, a line in ``REWARDS`` and a test. A function of
yours needs no registry line: see ``functions``.
"""

from __future__ import annotations

import difflib
from functools import lru_cache

from pacore_rl.rewards import exact, functions, judge, maths, rubric
from pacore_rl.rewards.base import Reward
from pacore_rl.rewards.code import reward as code

REWARDS: dict[str, Reward] = {
    "exact": exact.REWARD,
    "judge": judge.REWARD,
    "math": maths.REWARD,
    "code": code.REWARD,
    "rubric": rubric.REWARD,
}


@lru_cache(maxsize=256)
def reward_of(name: str) -> Reward:
    """The reward called ``name``, or the one made of the function ``package.module:function``.

    Raises ``ValueError``, with the nearest right name, where there is none.
    """
    if name in REWARDS:
        return REWARDS[name]
    if ":" in name:
        return functions.reward_of_function(name)
    near = difflib.get_close_matches(name.lower(), REWARDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "choose one of these."
    raise ValueError(
        f"unknown reward {name!r}; the rewards are {', '.join(map(repr, REWARDS))}, "
        f"or 'package.module:function' for one of your own: {hint}"
    )
