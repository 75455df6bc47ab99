"""The children that call a user's reward function.

Started as ``python -m pacore_rl.rewards.function_process <fd> <package.module:function> <memory in bytes>``.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pacore_rl.rewards.child_process import Service, serve
from pacore_rl.rewards.extract import last_boxed
from pacore_rl.rewards.normal import canonical, normalise
from pacore_rl.types import Problem, Turn, Verdict

MAX_REASON_CHARACTERS = 500
MAX_VOTE_CHARACTERS = 2_000

Function = Callable[[Problem, str], Any]


def load(name: str) -> Function:
    """The function. Raises whatever its module raises, and ``TypeError`` where it is none."""
    module_name, _, function_name = name.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    if not callable(function):
        raise TypeError(f"{function_name} is {type(function).__name__}, not a function")
    return function


def answer_question(function: Function, question: dict[str, Any]) -> dict[str, Any]:
    """``{"verdict": fields of a Verdict}`` or ``{"error": why there is none}``."""
    problem = problem_of(question["problem"])
    try:
        verdict = _verdict(function(problem, question["message"]), question["message"])
    except MemoryError:
        return {"error": "ran out of reward.custom.memory_gib", "last": True}
    except Exception as error:
        return {"error": f"raised {type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS], "last": False}
    fields = asdict(verdict)
    del fields["seconds"]
    fields["reason"] = verdict.reason[:MAX_REASON_CHARACTERS]
    fields["answer"] = verdict.answer and verdict.answer[:MAX_VOTE_CHARACTERS]
    return {"verdict": fields, "last": False}


def problem_of(text: str) -> Problem:
    """The problem that ``functions`` wrote down."""
    record = json.loads(text)
    return Problem(**record | {"conversation": tuple(Turn(**turn) for turn in record["conversation"])})


def _verdict(score: Any, message: str) -> Verdict:
    if isinstance(score, Verdict):
        if not 0 <= score.reward <= 1:
            raise ValueError(f"it returned a reward of {score.reward}; it must lie in [0, 1]")
        return score
    reward = float(score)
    if not 0 <= reward <= 1:  # NaN too
        raise ValueError(f"it returned {reward}; it must return a number in [0, 1]")
    boxed = last_boxed(message)
    return Verdict(
        reward=reward,
        correct=reward == 1,
        outcome="scored",
        reason="scored by a function of the user's",
        answer=canonical(normalise(boxed)) if boxed else None,
    )


def main() -> None:
    descriptor, name, memory_bytes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    try:
        function = load(name)
    except BaseException as error:  # a module may even call sys.exit
        with socket.socket(fileno=descriptor) as control:
            control.send(f"{type(error).__name__}: {error}".encode()[:MAX_REASON_CHARACTERS])
        raise
    serve(descriptor, Service(answer=lambda question: answer_question(function, question), memory_bytes=memory_bytes))


if __name__ == "__main__":
    main()
