"""Reward functions of the user's own: ``package.module:function``, called in processes that can be killed.

The function gets the problem and the message (what follows the reasoning) and returns a number in [0, 1], of which 1
counts as correct, or a ``Verdict``:

    def score(problem: Problem, message: str) -> float | Verdict

What it raises, a number outside [0, 1], a crash and a time limit are failures of ours: the response is left out of the
batch and counted, never scored 0.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import asdict

from pacore_rl.config import CustomRewardConfig, RewardConfig
from pacore_rl.rewards.base import Question, Reward, Tools, failed
from pacore_rl.rewards.children import ChildLate, ChildLost, Children, ChildrenUnavailable
from pacore_rl.types import Problem, Verdict

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_GIB = 1024**3


def reward_of_function(name: str) -> Reward:
    """The reward made of the function ``name``. Raises ``ValueError`` where that cannot be a function's name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"reward {name!r} does not name a function; write it as 'package.module:function'.")

    def settle(message: str, ground_truth: str) -> Question:
        return Question(reward=name, answer=message, ground_truth=ground_truth)

    def answer(question: Question, tools: Tools) -> Verdict:
        return tools.functions.score(question)

    def unready(config: RewardConfig) -> str | None:
        pools = FunctionPools(config.custom)
        try:
            return pools.complaint(name)
        finally:
            pools.close()

    return Reward(settle=settle, answer=answer, context=_context, unready=unready)


class FunctionPools:
    """The processes of every function in use, each started when first asked."""

    def __init__(self, config: CustomRewardConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._pools: dict[str, Children] = {}

    def score(self, question: Question) -> Verdict:
        """The function's verdict; its failures are tried once more, except for a time limit of its own."""
        name, started = question.reward, time.monotonic()
        asked = {"message": question.answer, "problem": question.context}
        loss = ""
        for attempt in range(2):
            try:
                reply = self._pool(name).ask(asked, fresh=attempt > 0)
            except ChildLate as late:
                loss = f"did not return within reward.custom.timeout_seconds={self._config.timeout_seconds:g}"
                if not late.was_stopped:
                    break
            except ChildLost as lost:
                loss = f"ended its process ({lost})"
            except ChildrenUnavailable as error:
                loss = str(error)
                break
            else:
                if "error" not in reply:
                    return Verdict(**reply["verdict"], seconds=time.monotonic() - started)
                loss = reply["error"]
        return failed(f"{name} {loss}", seconds=time.monotonic() - started)

    def complaint(self, name: str) -> str | None:
        """Why the function cannot be loaded; None where it can."""
        try:
            self._pool(name).start()
        except ChildrenUnavailable as error:
            return (
                f"reward {name!r} cannot be loaded: {error}; it must name an importable function of (problem, message)."
            )
        return None

    def close(self) -> None:
        with self._lock:
            pools = tuple(self._pools.values())
        for pool in pools:
            pool.close()

    def _pool(self, name: str) -> Children:
        with self._lock:
            if name not in self._pools:
                config = self._config
                self._pools[name] = Children(
                    ("pacore_rl.rewards.function_process", name, str(int(config.memory_gib * _GIB))),
                    config.timeout_seconds,
                    environment=config.environment,
                    search_path=(os.getcwd(),),
                )
            return self._pools[name]


def _context(problem: Problem) -> str:
    """The problem as JSON; ``problem_of`` reads it."""
    record = asdict(problem) | {"tags": dict(problem.tags)}
    return json.dumps(record, ensure_ascii=False, sort_keys=True)
