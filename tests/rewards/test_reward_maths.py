from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pacore_rl.rewards import guard
from pacore_rl.types import Verdict

RIGHT = [  # (answer, ground truth)
    ("3", "3"),
    ("3.", "3"),
    ("+3", "3"),
    ("-3", "-3"),
    ("\u22123", "-3"),
    ("1,234,567", "1234567"),
    (r"1\,234\,567", "1234567"),
    ("1\u2009234\u2009567", "1234567"),
    ("1{,}234{,}567", "1234567"),
    ("9" * 500, "9" * 500),
    ("x = 5", "5"),
    ("5", "x=5"),
    ("0.5", r"\frac{1}{2}"),
    (r"\dfrac12", r"\frac{1}{2}"),
    ("2/4", r"\frac{1}{2}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("0.333333", r"\frac{1}{3}"),
    (r"1\frac{1}{2}", r"\frac32"),
    (r"\frac{1}{3} \approx 0.333", r"\frac13"),
    (r"\sqrt{50}", r"5\sqrt{2}"),
    ("1.414214", r"\sqrt2"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"),
    (r"\frac{\pi}{4}", r"\pi/4"),
    (r"2\pi r", r"2\pi r"),
    ("1024", "2^{10}"),
    (r"3 \times 10^8", "300000000"),
    ("10", r"\binom{5}{2}"),
    ("5!", "120"),
    (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{n^2+n}{2}", "n(n+1)/2"),
    ("b+a", "a+b"),
    ("3ab", "3ba"),
    ("2x+1", "y=2x+1"),
    ("(1, 2)", "(1,2)"),
    (r"\left(1, 2\right)", "(1,2)"),
    ("2,1", r"\{1,2\}"),
    (r"1 \text{ and } 2", r"\{1,2\}"),
    (r"x=1 \text{ or } x=2", r"\{1,2\}"),
    (r"\pm 2", "-2,2"),
    (r"(-\infty,3)", "x<3"),
    ("[0,1)", "[0,1)"),
    (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"50\%", "0.5"),
    ("50", r"50\%"),
    (r"12\text{ cm}", "12"),
    (r"12^\circ", "12"),
    ("12cm", r"12\text{ cm}"),
    (r"\frac{5}{2}\text{ hours}", "2.5"),
    ("12", r"12\text{ cm}^2"),
    (r"\$12", "12"),
    (r"\text{yes}", "Yes"),
    ("No solution", r"\text{no solution}"),
    (r"\textbf{(B)}", "B"),
    (r"\text{B}", "B"),
    ("101_2", "101_{2}"),
    ("101", "101_2"),
    (r"x = 2 + 3 = 5", "5"),
    ("1+i", "i+1"),
    (r"\infty", r"\infty"),
    (r"e^{2x}", r"(e^x)^2"),
    ("AB", "AB"),
    (r"\boxed{7}", "7"),
    (r"10^{-10}", r"\frac{1}{10^{10}}"),
]

WRONG = [
    ("4", "3"),
    ("3", "-3"),
    ("9" * 499 + "8", "9" * 500),
    ("12345678901234567891", "12345678901234567890"),
    ("5.0000001", "5"),
    ("12345678.1", "12345678"),
    ("0.33", r"\frac13"),
    ("0.3333", r"\frac13"),
    ("1.41", r"\sqrt2"),
    (r"\frac{22}{7}", r"\pi"),
    ("1 = 2 = 3", "3"),
    (r"1 = 2 = \sqrt{2}", r"\sqrt{2}"),
    (r"x = \sqrt{2} = 2\sqrt{2}", r"2\sqrt{2}"),
    (r"\pi = 3\pi = \frac{\pi}{4}", r"\frac{\pi}{4}"),
    ("0.0000001", "0"),
    ("10^{-20}", "0"),
    (r"2 \times 10^{-10}", "10^{-10}"),
    ("0.0000002", r"10^{-7}"),
    (r"10^{-8}\pi", r"10^{-9}\pi"),
    (r"10^{-18}\sqrt{2}", r"10^{-18}\sqrt{3}"),
    ("ba", "ab"),
    ("CAB", "ABC"),
    ("AA", "Aa"),
    ("x+2", "x+1"),
    ("(2,1)", "(1,2)"),
    (r"\{1,2\}", "(1,2)"),
    (r"\{2,1\}", "(1,2)"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    ("2,3", "2"),
    ("2", "2,3"),
    ("[1,2]", "(1,2)"),
    ("[1,2]", "[1,2)"),
    (r"-\infty", r"\infty"),
    ("x>3", "x<3"),
    (r"x \le 3", "x<3"),
    ("y=5", "x=5"),
    ("3", "3ab"),
    ("5", "5m"),
    (r"12\text{ minutes}", r"12\text{ hours}"),
    ("101_3", "101_2"),
    ("1 2", "12"),
    ("no", "Yes"),
    ("C", "B"),
    ("1010", "10"),
    ("3^2", "3_2"),
    (r"\frac{2}{1}", r"\frac{1}{2}"),
    (r"\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("the answer", "3"),
    ("?", "3"),
    (r"\frac{1}{0}", "3"),
    (r"\frac{1}{0}", r"\infty"),
]


@pytest.mark.parametrize(("answer", "ground_truth"), RIGHT)
def test_right(verdict_of: Callable[..., Verdict], answer: str, ground_truth: str) -> None:
    verdict = verdict_of(answer, ground_truth)
    assert (verdict.reward, verdict.correct, verdict.outcome) == (1.0, True, "scored"), verdict.reason
    assert verdict.answer


@pytest.mark.parametrize(("answer", "ground_truth"), WRONG)
def test_wrong(verdict_of: Callable[..., Verdict], answer: str, ground_truth: str) -> None:
    verdict = verdict_of(answer, ground_truth)
    assert (verdict.reward, verdict.correct, verdict.outcome) == (0.0, False, "scored"), verdict.reason


def test_megabytes(verdict_of: Callable[..., Verdict]) -> None:
    started = time.monotonic()
    for answer in ("9" * 2_000_000, "{" * 2_000_000, "\\boxed{" * 300_000, " " * 2_000_000 + "3"):
        assert verdict_of(answer, "3").outcome == "unparsed"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "answer",
    [
        "x^2y^2z^2",
        "2^{2023}",
        "e^{x^2}",
        "2^{2^{n}}",
        "2000!",
        r"\binom{100}{50}",
        "(x^2)^{10}",
        "3^{1/3}",
        "0." + "3" * 50,
    ],
)
def test_the_guard_lets_ordinary_answers_through(answer: str) -> None:
    assert guard.refusal(answer) is None


def test_verdict_counts_votes_on_one_form(verdict_of: Callable[..., Verdict]) -> None:
    answers = {verdict_of(answer, "7").answer for answer in ("0.5", r"\frac12", "2/4", r"\dfrac{1}{2}")}
    assert answers == {"1/2"}
