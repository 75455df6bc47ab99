"""Every ground truth of real problem files answers itself, and never another one of its file.

Reads the folder that ``PACORE_DATA`` names (files of records with ``answer``); skips itself without one. Takes ten
minutes of CPU time for 40,000 problems.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from reward_helpers import boxed, problem

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.scorer import LocalScorer

FOLDER = Path(os.environ.get("PACORE_DATA", "no folder of problems"))
FILES = sorted(FOLDER.glob("math_*/*.jsonl*"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="PACORE_DATA names no folder with math_*/*.jsonl files"),
]

EQUAL = frozenset(
    frozenset(pair)
    for pair in (
        ("2Ax", "2 A x"),
        ("x = y", "y = x"),
        (r"\log 2", r"\log_{10} 2"),
        (r"\text{A,B}", r"\text{A, B}"),
        *((rf"\text{{{letter}}}", rf"\text{{({letter})}}") for letter in "ABCDE"),
        *((letter, f"({letter})") for letter in "ABCDE"),
        (r"\text{(E)}", r"\text{(E)},"),
        (r"\text{No}", "No"),
        (r"\dfrac38", r"\dfrac 3 8"),
        (r"-\frac 32", r"- \frac 32"),
        (r"-\frac{1}{\sqrt{2}}", r"-\frac{\sqrt{2}}{2}"),
        (r"\frac{\sqrt{5} - 1}{2}", r"\frac{-1 + \sqrt{5}}{2}"),
        (r"\sqrt{2},-\sqrt{2}", r"\sqrt{2}, -\sqrt{2}"),
        (r"\frac{n(n+1)}{2}+1", r"1+\frac{1}{2}n(n+1)"),
        ("c = 5", r"5^\circ"),
        ("N", "a_n = n"),
        ("78", r"78\%"),
        (r"\text{A,B,C,D}", r"\text{CBAD}"),
        ("(D)", r"(D) \ 1"),
    )
)
"""Pairs found equal and looked at by hand: the same but for spelling, a logarithm whose base the file does not name, a
number without its name or unit, a letter in the other case, a percentage without its sign, the same choices in another
order, and a choice without its value."""


@pytest.fixture(scope="module")
def patient() -> Iterator[LocalScorer]:
    scorer = LocalScorer(RewardConfig(timeout_seconds=20), "</think>")
    yield scorer
    scorer.close()


def truths_of(path: Path) -> list[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return sorted({str(json.loads(line)["answer"]) for line in lines})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_itself(patient: LocalScorer, path: Path) -> None:
    truths = truths_of(path)
    items = [(problem(truth), boxed(truth), "stopped") for truth in truths]
    verdicts = patient.score(items).result()  # type: ignore[arg-type]
    assert [truth for truth, verdict in zip(truths, verdicts, strict=True) if not verdict.correct] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_never_another(patient: LocalScorer, path: Path) -> None:
    """A random other one, and the nearest ones by their letters, which are the likeliest to be mistaken."""
    truths = truths_of(path)
    rng = random.Random(0)
    near = sorted(truths, key=lambda truth: (sorted(filter(str.isalpha, truth)), len(truth), truth))
    pairs = {(truth, rng.choice(truths)) for truth in truths} | set(pairwise(near))
    pairs = sorted((answer, truth) for answer, truth in pairs if frozenset((answer, truth)) not in EQUAL)
    different = [(answer, truth) for answer, truth in pairs if answer != truth]
    items = [(problem(truth), boxed(answer), "stopped") for answer, truth in different]
    verdicts = patient.score(items).result()  # type: ignore[arg-type]
    accepted = [pair for pair, verdict in zip(different, verdicts, strict=True) if verdict.correct]
    assert [pair for pair in accepted if not _same_value(*pair)] == []


def _same_value(one: str, other: str) -> bool:
    """By floating point, for what is plain arithmetic; an opinion of its own."""
    try:
        return abs(_float(one) - _float(other)) <= 1e-9 * abs(_float(other))
    except (SyntaxError, NameError, TypeError, ValueError, ZeroDivisionError):
        return False


def _float(text: str) -> float:
    import re

    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", text.strip("$ "))
    text = re.sub(r"\\sqrt\{(\d+)\}", r"((\1)**0.5)", text).replace("\\pi", "3.141592653589793").replace("^", "**")
    if not re.fullmatch(r"[0-9.()+*/ -]{1,60}", text):
        raise ValueError(text)
    return float(eval(re.sub(r"(?<=[0-9)])(?=\()", "*", text)))
