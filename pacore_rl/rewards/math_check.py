r"""Is one answer equal to another? math-verify's opinion, and a re-check of every yes. Runs in checker processes only.

math-verify (0.9) rounds to six decimals, takes the last number of ``1 = 2 = 3``, drops the base of ``101_2`` and reads
the point ``(2, 1)`` and the set ``{1, 2}`` as the same; each of these is refused here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify  # pyright: ignore[reportMissingImports]
from sympy.core.relational import Relational

from pacore_rl.rewards.rewrite import is_enclosed, rewritten

# sympy has no useful types: its expressions are Any in this file.
Expression = Any

_EXTRACTION = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        # Its own way with units reads the letters of 3ab as one; ours is below.
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
        ),
    )
]
_DIGITS = 50
_EXACT, _DECIMAL, _ROUGH = sympy.Float("1e-12"), sympy.Float("1e-5"), sympy.Float("0.05")
_IDENTICAL = sympy.Float("1e-40")
_ZERO = sympy.Float("1e-40")
POINTS = ((0, 1), (1, 4), (-3, 0))
"""Intervals from which letters get their values, one point each: two different expressions of an answer's size do not
agree to 40 digits at three arbitrary points of either sign."""

_CHAIN = re.compile(r"(?<![<>!\\:])=|\\(?:approx|simeq)(?![a-zA-Z])")
_LIST = re.compile(r"[,;]|\\text\{\s*(?:and|or)\s*\}|\\(?:quad|wedge|vee)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\{[^{}]*\}")
_NO_LETTERS = re.compile(r"\\(?:text|mathrm|mbox|mathbb|begin|end|operatorname)\*?\{[^{}]*\}(?:\{[lrc|]*\})?")
_TRAILING_UNIT = re.compile(
    r"(?<=[0-9})\]])\s*(?:\\(?:text|mathrm|mbox)\{\s*(?!and\b|or\b)([A-Za-z\u4e00-\u9fff][^{}]*)\}"
    r"|((?:[ckm]m|[km]g|m[lL]|lb|ft|(?:inche|degree|dollar|cent|hour|minute|second|day|year|meter|metre|mile|unit)s?|inch|[\u4e00-\u9fff]{1,8})))"
    r"(?:\^\{?[23]\}?)?$"
)
_BASE = re.compile(r"(?<=[0-9])_\{?\(?([0-9]+)\)?\}?")
_PRIMES = re.compile(r"(?<=[0-9])'+$")
_CONSTANTS = frozenset({"e", "i"})


def check(answer: str, ground_truth: str) -> tuple[bool, str]:
    """``(equal, why)`` of two normalised answers without a box around them."""
    is_itself = answer == ground_truth  # a ground truth at load: it must be parsed, to be matched by other forms
    answer, unit = _without_unit(answer)
    ground_truth, expected_unit = _without_unit(ground_truth)
    if unit and expected_unit and unit[0] != expected_unit[0]:
        return False, f"in {unit}, not in {expected_unit}"
    one, other = rewritten(answer, ground_truth)
    if one == other and not is_itself:
        refusal = _refusal_of_text(answer, ground_truth)
        return (False, refusal) if refusal else (True, "equal to the ground truth")
    expected = _parsed(other)
    if not expected or isinstance(expected[0], str):
        return False, "the ground truth cannot be parsed, and the answer is not its text"
    given = _parsed(one)
    if not given or isinstance(given[0], str):
        return False, "the answer cannot be parsed"
    if not _equal(expected, given, has_percent="%" in one + other):
        return False, "not equal"
    refusal = _refusal_of_text(answer, ground_truth) or _refusal(one, other, given[0], expected[0])
    return (False, refusal) if refusal else (True, "equal to the ground truth")


def _without_unit(text: str) -> tuple[str, str]:
    """``12\\text{ cm}^2`` is ``("12", "cm")``. A unit on one side only is taken to be the one that was asked for."""
    match = _TRAILING_UNIT.search(text)
    return (text, "") if match is None else (text[: match.start()], (match.group(1) or match.group(2)).lower())


@lru_cache(maxsize=1024)
def _parsed(text: str) -> list[Expression]:
    """What math-verify reads; remembered, since the responses to one problem share its ground truth."""
    # No time limit of its own: the checker process has one alarm for everything.
    return parse(f"\\boxed{{{text}}}", extraction_config=_EXTRACTION, parsing_timeout=None)  # type: ignore[arg-type]


def _equal(expected: list[Expression], given: list[Expression], *, has_percent: bool) -> bool:
    """Two expressions are compared by value, which takes a fiftieth of the time that simplifying their difference may;
    everything else is math-verify's."""
    if not has_percent and isinstance(expected[0], sympy.Expr) and isinstance(given[0], sympy.Expr):
        same = _same_values(expected[0], given[0])
        if same is not None:
            return same
    return verify(expected, given, timeout_seconds=None)


def _same_values(expected: Expression, given: Expression) -> bool | None:
    """Whether two expressions have the same value wherever their letters are replaced by numbers; None where that does
    not settle it."""
    letters = {str(letter) for letter in expected.free_symbols | given.free_symbols}
    if not letters:
        exact, other_exact = expected.doit(), given.doit()
        if exact.is_Rational and other_exact.is_Rational:
            return bool(exact == other_exact)
        if exact.is_Integer and other_exact.is_Float and abs(exact - other_exact) > _DECIMAL:
            return False  # an integer is written in full, however close its first digits come
    is_complex = "i" in letters or expected.has(sympy.I) or given.has(sympy.I)
    has_decimal = _floats(expected) or _floats(given)
    for point in range(len(POINTS) if letters - _CONSTANTS else 1):
        value, other = _value(expected, point), _value(given, point)
        if value is None or other is None:
            return None
        if _close(value, other, _EXACT if has_decimal else _IDENTICAL):
            continue
        if not is_complex and not (value.is_real and other.is_real):
            return None  # a root or a logarithm where its argument is not what the problem had in mind
        # Close, but not the same: where a decimal may have been meant, math-verify's rounding decides.
        return None if has_decimal and _close(value, other, _DECIMAL) else False
    return True


def _refusal_of_text(answer: str, ground_truth: str) -> str | None:
    """Why a yes does not count, by what is written; None where it does."""
    if _bases_differ(answer, ground_truth):
        return "written in another base"
    if is_enclosed(ground_truth, "(") and is_enclosed(answer, "\\{"):
        return "a set where a point or an interval was asked for"
    if is_enclosed(answer, "(") and "," in answer and (is_enclosed(ground_truth, "\\{") or "\\pm" in ground_truth):
        return "a point or an interval where a set was asked for"
    if _PRIMES.findall(answer) != _PRIMES.findall(ground_truth):
        return "in minutes, or feet"
    if not _chains_hold(answer) and not _chains_fail_alike(answer, ground_truth):
        return "its own equations do not hold"
    return None


def _refusal(answer: str, ground_truth: str, given: Expression, expected: Expression) -> str | None:
    """Why a yes does not count, by what was parsed; None where it does."""
    letters = [_letters(text) for text in (answer, ground_truth)]
    if letters[0] != letters[1] and any(
        len(_letters_of(expression)) < len(found) for expression, found in zip((given, expected), letters, strict=True)
    ):
        return "its letters are not those of the ground truth, and the parser lost some"
    percent = "%" in answer or "%" in ground_truth
    if not _agree(expected, given, percent=percent):
        return "equal only after rounding"
    return None


def _bases_differ(answer: str, ground_truth: str) -> bool:
    """A base that is written on one side only is taken to be the one that was asked for."""
    bases, expected_bases = set(_BASE.findall(answer)), set(_BASE.findall(ground_truth))
    return bool(bases) and bool(expected_bases) and bases != expected_bases


def _chains_hold(answer: str) -> bool:
    """In ``a = 2 + 3 = 5`` all sides that are numbers must agree (after an approximation sign, roughly)."""
    for part in _LIST.split(answer):
        sides = _CHAIN.split(part)
        if len(sides) < 2:
            continue
        tolerance = _ROUGH if "\\approx" in part or "\\simeq" in part else _DECIMAL if "." in part else _EXACT
        values = [value for side in sides if (value := _number(side)) is not None]
        if not all(_close(one, other, tolerance) for one, other in pairwise(values)):
            return False
    return True


def _letters(text: str) -> set[str]:
    """Letters that stand for something, of the last side of an equation."""
    bare = _COMMAND.sub(" ", _NO_LETTERS.sub(" ", _CHAIN.split(text)[-1]))
    return {letter.lower() for letter in re.findall(r"[a-zA-Z]", bare)} - _CONSTANTS


def _letters_of(expression: Expression) -> set[str]:
    found = {letter.lower() for symbol in getattr(expression, "free_symbols", ()) for letter in str(symbol)}
    return {letter for letter in found if letter.isalpha()} - _CONSTANTS


def _chains_fail_alike(answer: str, ground_truth: str) -> bool:
    """A ground truth such as ``0 = 1`` may be quoted."""
    return answer == ground_truth


def _number(side: str) -> Expression | None:
    """The value of a side without letters (units aside), None of any other."""
    bare = _UNIT.sub("", side)
    letters = re.findall(r"[a-zA-Z]", _COMMAND.sub("", bare))
    if not bare.strip() or any(letter not in _CONSTANTS for letter in letters):
        return None
    parsed = _parsed(bare)
    if not parsed or isinstance(parsed[0], str) or parsed[0].free_symbols:  # \\Delta is a letter too
        return None
    return _value(parsed[0])


def _agree(expected: Expression, given: Expression, *, percent: bool) -> bool:
    """The same numbers in the same places, to a relative 1e-12, or 1e-5 where a decimal is involved."""
    if isinstance(expected, Relational) and isinstance(given, Relational):
        return _same_relation(expected, given)
    expected_parts, given_parts = _parts(expected), _parts(given)
    if len(expected_parts) != len(given_parts):
        return True  # differently built, such as a union and its complement: equal by algebra, not by rounding
    unordered = isinstance(expected, sympy.Set) and not isinstance(expected, sympy.Interval)
    unmatched = list(given_parts)
    for part in expected_parts:
        candidates = unmatched if unordered else unmatched[:1]
        match = next((other for other in candidates if _same(part, other, percent=percent)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return True


def _parts(expression: Expression) -> Sequence[Expression]:
    """The numbers a collection is made of; an equation counts as its right-hand side."""
    if isinstance(expression, sympy.MatrixBase):
        return list(expression.flat())
    if isinstance(expression, sympy.Interval):
        return [expression.start, expression.end]
    if isinstance(expression, (sympy.Set, sympy.Tuple)):
        return [part for argument in expression.args for part in _parts(argument)]
    if isinstance(expression, Relational) or type(expression).__name__ == "And":
        last = expression.args[-1]
        return _parts(last) if isinstance(last, (Relational, sympy.Basic)) else [last]
    return [expression]


def _same_relation(expected: Relational, given: Relational) -> bool:
    """``2x - y = 1`` and ``y = 2x - 1``: the differences of their sides are a constant multiple of each other."""
    ratios: list[Expression] = []
    for salt in range(len(POINTS)):
        values = [_value(side, salt) for relation in (expected, given) for side in relation.args]
        sides = [value for value in values if value is not None]
        if len(sides) < len(values):
            return True  # not numbers: nothing was rounded
        gap, other_gap = sides[0] - sides[1], sides[2] - sides[3]
        if abs(gap) <= _ZERO or abs(other_gap) <= _ZERO:
            return bool(abs(gap) <= _ZERO and abs(other_gap) <= _ZERO)
        ratios.append(other_gap / gap)
    tolerance = _DECIMAL if _floats(expected) or _floats(given) else _EXACT
    return all(_close(one, other, tolerance) for one, other in pairwise(ratios))


def _same(expected: Expression, given: Expression, *, percent: bool) -> bool:
    value, other = _value(expected), _value(given)
    if value is None or other is None:
        return True  # not numbers: nothing was rounded
    has_decimal = bool(_floats(expected) or _floats(given))
    is_integer = bool(getattr(expected, "is_Integer", False))
    tolerance = _DECIMAL if has_decimal and not is_integer else _EXACT
    if percent and any(_close(value * scale, other, tolerance) for scale in (100, sympy.Rational(1, 100))):
        return True
    return _close(value, other, tolerance)


def _floats(expression: Expression) -> bool:
    return isinstance(expression, sympy.Basic) and bool(expression.atoms(sympy.Float))


def _value(expression: Expression, point: int = 0) -> Expression | None:
    """The number an expression evaluates to, its letters replaced by numbers fixed by their names; None of others."""
    if not isinstance(expression, sympy.Expr):
        return None
    chosen: Any = {letter: _number_for(str(letter), point) for letter in sorted(expression.free_symbols, key=str)}
    value = expression.doit().subs(chosen).evalf(_DIGITS)
    return value if value.is_number and value.is_finite and not value.free_symbols else None


def _number_for(letter: str, point: int) -> Expression:
    if letter in _CONSTANTS:
        return sympy.E if letter == "e" else sympy.I
    low, high = POINTS[point]
    return low + (high - low) * sympy.Rational(1 + zlib.crc32(letter.encode(), point) % 9973, 9975)


def _close(one: Expression, other: Expression, tolerance: Expression) -> bool:
    gap, size = abs(one - other), abs(one)
    return bool(gap <= _ZERO) if size == 0 else bool(gap <= tolerance * size)
