"""Answers made to hang, kill or fool the checker: never correct, each within 6 s and 2 GiB, and the next is judged."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from reward_helpers import boxed, problem

from pacore_rl.rewards import guard
from pacore_rl.rewards.checker_process import MEMORY_BYTES
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Verdict

TRUTH = r"x^2+\sqrt{7}"
LIMIT_SECONDS = 6.0

TOWERS = (
    "9^{9^{9^{9}}}",
    "9^{9^{9}}",
    "9^9^9^9",
    "10^10^10",
    "10^{10^{10}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "((9^{9999})^{9999})^{9999}",
    "1.5^{19999}^{1.5}",
    "x^{99999999999}",
    "2^{-99999999999}",
    "(1+10^{-9})^{10^{9}}",
    "e^{e^{e^{e^{e^{9}}}}}",
    "10**10**10",
    r"\sqrt[10^{10}]{10^{10^{10}}}",
    "1e999999999",
    "1e999",
    "0x" + "f" * 300,
)
FACTORIALS = (
    "(((((9!)!)!)!)!)!",
    "100000000!",
    "3!!!!!!",
    "((3!)!)!",
    "2^{100!}",
    r"\frac{10000!}{9999!}",
    r"\binom{10^9}{5 \cdot 10^8}",
    r"\binom{1000000000}{500000000}",
    r"\Gamma(10^{9})",
    r"\zeta(10^{-30})",
)
OPERATORS = (
    r"\sum_{k=1}^{10^{9}} \frac{1}{k}",
    r"\sum_{k=1}^{\infty} \frac{\sin k}{k^{k}}",
    r"\prod_{k=1}^{1000000} k",
    r"\int_0^1 e^{e^{e^x}} dx",
    r"\iiint x^{x} dx dy dz",
    r"\lim_{x \to 0} \frac{\sin x}{x}",
    r"\frac{d^{99}}{dx^{99}} x^{x}",
    r"\det\begin{pmatrix}" + r"\\".join("&".join("x" for _ in range(8)) for _ in range(8)) + r"\end{pmatrix}",
)
DEEP = (
    "(" * 400 + "1" + ")" * 400,
    "{" * 400 + "1" + "}" * 400,
    "[" * 900,
    r"\frac{1}{" * 60 + "1" + "}" * 60,
    r"\sqrt{" * 100 + "2" + "}" * 100,
    r"\left(" * 150 + "1",
    "-" * 900 + "1",
    "x_{" * 200 + "1" + "}" * 200,
    r"\text{" * 150 + "1" + "}" * 150,
)
LONG = (
    "9" * 2_000_000,
    "{" * 2_000_000,
    " " * 2_000_000 + "3",
    r"\boxed{" * 300_000,
    "1" * 900 + "+x",
    "1" + "=1" * 400,
    "1" + ",1" * 400,
    "+".join(f"x_{{{index}}}^{{{index}}}" for index in range(60)),
    r"\begin{pmatrix}" + r"\\".join("&".join("1" for _ in range(20)) for _ in range(20)) + r"\end{pmatrix}",
    "1&" * 450,
    r"1\pm" * 200 + "1",
    "<".join("x" * 200),
)
ALGEBRA = (
    "(x+y+z+w)^{500}",
    "(x+1)^{9999}(x+2)^{9999}",
    "(1+x+x^2+x^3)^{2000}-1",
    r"\sin(\cos(\tan(\sin(\cos(\tan(x^{17}+y^{19}))))))^{99}",
    r"\sqrt{4^{2012}+1}-\sqrt{4^{2012}}",
    r"(2^{2019}-1)^{2018}",
    "x^{17}+x^{13}-y^{19}=x^{23}+3",
    r"\{x : x^{9}-3x+1 > 0\}",
    r"\max(" + ",".join(f"x^{{{index}}}" for index in range(30)) + ")",
)
PATTERNS = (
    "1," * 400 + "a",
    "1,000" * 150 + "x",
    "A,B" * 200 + "!",
    "a" * 500 + "\\",
    "\u2009" * 500 + "1",
    "1 " * 400 + "2",
    "0." + "9" * 400 + r"\overline{" + "9" * 300 + "}",
    "|" * 300,
    "$" * 500,
    "\\" * 301,
    r"\frac" * 150,
    "^" * 300,
    "%" * 500,
    "'" * 500,
)
EVIL = (
    "__import__('os').system('touch owned')",
    "lambda: 0",
    "lambda",
    "eval(open('/etc/passwd').read())",
    r"\input{/etc/passwd}",
    r"\write18{touch owned}",
    r"\def\a{\a\a}\a",
    r"\newcommand{\x}{\x\x}\x",
    r"\loop\iftrue\repeat",
    r"\csname end\endcsname",
    "S(1).__class__.__mro__",
    "True",
    "nan",
    r"\infty-\infty",
    "Symbol('x')**2+sqrt(7)+0*exec('1')",
    "{{7*7}}${7*7}",
)
UNICODE = (
    "\x00\x01\ud83d3",
    "\x00",
    "x\u00b2+\u221a8",
    "\u0663",
    "\u202e7\u221a+2^x",
    "x\u0301" * 300,
    "\u200b" * 400 + "1",
    "\ufeff3",
    "\U0001d7df",
    "\u216b",
    "\ud800\udfff",
    "\u2460" * 100,
)
HOSTILE = (*TOWERS, *FACTORIALS, *OPERATORS, *DEEP, *LONG, *ALGEBRA, *PATTERNS, *EVIL, *UNICODE)


def test_there_are_many() -> None:
    assert len(set(HOSTILE)) >= 100


@pytest.fixture(scope="module")
def verdicts(scorer: LocalScorer) -> dict[str, Verdict]:
    """All of them, asked at once; none takes longer than it may."""
    patience = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # of a machine that others use too
    started = time.monotonic()
    items = [(problem(TRUTH), boxed(answer), "stopped") for answer in HOSTILE]
    found = scorer.score(items).result()  # type: ignore[arg-type]
    rounds = len(HOSTILE) / scorer.num_workers
    assert time.monotonic() - started < LIMIT_SECONDS * rounds * patience
    assert max(verdict.seconds for verdict in found) < LIMIT_SECONDS * patience
    return dict(zip(HOSTILE, found, strict=True))


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: ascii(answer[:24]))
def test_hostile_answers_end_in_time(verdicts: dict[str, Verdict], answer: str) -> None:
    verdict = verdicts[answer]
    assert (verdict.reward, verdict.correct) == (0.0, False), verdict.reason
    assert verdict.outcome in ("scored", "timeout", "unparsed"), verdict.reason


def test_the_next_answer_is_judged(scorer: LocalScorer) -> None:
    """After all of those, and at once."""
    items = [(problem(TRUTH), boxed(answer), "stopped") for answer in (HOSTILE[3], r"\sqrt{7}+x^2", r"\sqrt{7}-x^2")]
    verdicts = scorer.score(items).result()  # type: ignore[arg-type]
    assert [verdict.correct for verdict in verdicts] == [False, True, False]
    assert not Path("owned").exists()


def test_checkers_cannot_take_more_memory(scorer: LocalScorer) -> None:
    assert scorer.score([(problem("b+a"), boxed("a+b"), "stopped")]).result()[0].correct
    checkers = scorer._answers.tools.checkers.pids[1:]
    assert checkers
    for pid in checkers:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
        assert line.split()[3:5] == [str(MEMORY_BYTES)] * 2


@pytest.mark.parametrize("answer", [*TOWERS[:7], *FACTORIALS[:6], *OPERATORS[:4], *DEEP[:4]])
def test_most_are_refused_unread(answer: str) -> None:
    started = time.process_time()
    assert guard.refusal(answer) is not None
    assert time.process_time() - started < 0.01
