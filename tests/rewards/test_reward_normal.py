from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacore_rl.rewards.normal import canonical, canonical_integer, normal_ground_truth, normalise, rational


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" A-G = 26 ", "A-G=26"),
        ("1,234,567", "1234567"),
        ("1{,}234{,}567", "1234567"),
        (r"1\,234\,567", "1234567"),
        ("1\u2009234\u2009567", "1234567"),
        ("1 234 567", "1234567"),
        ("1 2", "1 2"),
        ("12 34", "12 34"),
        ("1,23", "1,23"),
        ("(1, 234)", "(1,234)"),
        (r"(1\,234, 5)", "(1234,5)"),
        ("26.", "26"),
        ("$26$", "26"),
        (r"\$26", "26"),
        (r"\(26\)", "26"),
        ("\u221226", "-26"),
        ("- 26", "-26"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right]", "(1,2]"),
        (r"\leftarrow", r"\leftarrow"),
        (r"\sin x", r"\sin x"),
        (r"2\pi r", r"2\pi r"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"5\ \text{cm}", r"5\text{cm}"),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert normalise(normal) == normal


@given(st.integers())
def test_every_spelling_of_an_integer_is_one(value: int) -> None:
    for spelling in (str(value), f"{value:,}", f"${value:,}$".replace(",", "{,}"), f"{value:,}".replace(",", r"\,")):
        assert canonical_integer(normalise(spelling)) == str(value)


def test_integers_of_any_size() -> None:
    assert canonical_integer("-00012") == "-12"
    assert canonical_integer("-0") == "0"
    assert canonical_integer("+7") == "7"
    assert canonical_integer("9" * 100_000) == "9" * 100_000
    assert canonical_integer("1.0") is None
    assert canonical_integer("\u0663") is None


def test_rational() -> None:
    assert rational("0.50") == (Fraction(1, 2), True)
    assert rational(".5") == (Fraction(1, 2), True)
    assert rational("5.") == (Fraction(5), True)
    assert rational(r"-\frac{2}{4}") == (Fraction(-1, 2), False)
    assert rational("2/4") == (Fraction(1, 2), False)
    assert rational("1/0") is None
    assert rational("1/2/3") is None
    assert rational("1e5") == (Fraction(100_000), False)
    assert rational("9" * 5000) is None


def test_votes_meet_on_the_canonical_form() -> None:
    assert {canonical(text) for text in ("0.50", "1/2", r"\frac{2}{4}")} == {"1/2"}
    assert canonical("007") == "7"
    assert canonical("x+1") == "x+1"


def test_a_ground_truth_may_stand_in_a_box() -> None:
    assert normal_ground_truth(r"$\boxed{\dfrac{1}{2}}$") == r"\frac{1}{2}"
