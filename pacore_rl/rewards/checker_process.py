"""The checkers of mathematical answers: children (see ``child_process``) that run math-verify.

Started as ``python -m pacore_rl.rewards.checker_process <fd>``. A computer algebra system may hold the interpreter lock
in one long C call, so neither threads nor signals are enough: the checker's own alarm ends what Python can end, the
scorer kills the rest.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from pacore_rl.rewards.child_process import Service, serve

MEMORY_BYTES = 2 * 1024**3
ALARM_AGAIN_SECONDS = 0.25
"""An alarm swallowed by a bare ``except`` of a library rings again."""
WARM_UP = (
    (r"(x+1)^2", r"x^2+2x+1"),
    (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"),
    (r"(0,1]", r"[0,1)"),
    (r"\begin{pmatrix}1\\ \frac{1}{2}\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"\{(1,2),(-3,\pi)\}", r"(1,2),(3,4)"),
    (r"(-\infty,-5]\cup(5,\infty)", r"x\neq 0"),
    (r"\frac{-1\pm\sqrt{17}}{2}", r"i\sqrt[3]{6},-2i"),
    (r"\log_2 3+\ln 5", r"\sin^2 x+\cos(2x)"),
    (r"\binom{n}{2}+n!", r"2^{n-1}-e^{-x}"),
    (r"y=2x-3", r"f(x)=\frac{x}{x+1}"),
    (r"55^\circ", r"12.5\%"),
    (r"\text{even}", r"x_{1}\cdot 3\times 10^{5}"),
)
"""Compared once before the first fork: on first use the parser builds its tables and sympy imports its rest."""


class _OutOfTime(BaseException):
    """Not an ``Exception``, so that no library takes it for a failed parse."""


def _ring(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise _OutOfTime


def answer_question(question: dict[str, Any]) -> dict[str, Any]:
    """The reply to ``{"answer", "ground_truth", "cpu_seconds"}``; ``last`` says that the checker then retires."""
    from pacore_rl.rewards.math_check import check

    limit = float(question["cpu_seconds"])
    signal.signal(signal.SIGPROF, _ring)
    try:
        signal.setitimer(signal.ITIMER_PROF, limit, ALARM_AGAIN_SECONDS)
        try:
            equal, reason = check(question["answer"], question["ground_truth"])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _OutOfTime:
        return {"outcome": "timeout", "detail": f"not compared within {limit:g} s of CPU time", "last": True}
    except MemoryError:
        return {"outcome": "timeout", "detail": "not compared within the memory limit", "last": True}
    except Exception as error:
        return {"outcome": "different", "detail": f"cannot be compared: {type(error).__name__}", "last": False}
    return {"outcome": "equal" if equal else "different", "detail": reason, "last": False}


def main() -> None:
    logging.disable(logging.CRITICAL)  # math-verify warns of every time limit left to us
    from pacore_rl.rewards.math_check import check

    for answer, ground_truth in WARM_UP:
        check(answer, ground_truth)
    serve(int(sys.argv[1]), Service(answer=answer_question, memory_bytes=MEMORY_BYTES))


if __name__ == "__main__":
    main()
