r"""Refuses answers whose value would take a computer algebra system for ever to compute, by reading them only.

It is a saving, not the defence: what passes it still runs in a process that can be killed.
"""

from __future__ import annotations

import re

MAX_NESTING = 24
MAX_DIGITS = 400
MAX_EXPONENT = 20_000
MAX_FACTORIAL = 3_000
MAX_BINOMIAL = 10_000
MAX_POWERS = 40

_NUMBER = re.compile(r"[0-9]+")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[+-]?\s*([0-9]+)")
_TOWER = re.compile(r"(?=(?:\^|\*\*)[\s{(]*[+-]?\s*([0-9]+)([\s})]*)(?:\^|\*\*)[\s{(]*[+-]?\s*([0-9]+))")
_HIGH_TOWER = re.compile(r"(?:(?:\^|\*\*)\s*[{(]+\s*[0-9a-zA-Z\\]{1,12}\s*){2}(?:\^|\*\*)")
_FACTORIAL = re.compile(r"([0-9]+)\s*[})]*\s*!")
_NESTED_FACTORIAL = re.compile(r"![!\s]*[})\]]+\s*!|!!!")
_FACTORIAL_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[(0-9]+\s*\)*!")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*([0-9]+)")
_BINOMIAL_OF_POWER = re.compile(r"\\[dt]?binom\s*\{[^{}]*[0-9]\s*\^")
_BIG_OPERATOR = re.compile(
    r"\\(?:sum|prod|coprod|i*int|oint|lim|limsup|liminf|bigcup|bigcap|bigoplus|det|begin\{(?:align|cases))(?![a-zA-Z])"
)


def refusal(answer: str) -> str | None:
    """Why an answer (at most ``extract.MAX_ANSWER_CHARACTERS`` long) is not worth computing; None where it is."""
    if match := _BIG_OPERATOR.search(answer):
        return f"{match.group()} is not evaluated"
    if _nesting(answer) > MAX_NESTING:
        return f"brackets nest more than {MAX_NESTING} deep"
    if any(len(number) > MAX_DIGITS for number in _NUMBER.findall(answer)):
        return f"a number has more than {MAX_DIGITS} digits"
    if answer.count("^") + answer.count("**") > MAX_POWERS:
        return f"more than {MAX_POWERS} powers"
    if any(_above(number, MAX_EXPONENT) for number in _EXPONENT.findall(answer)):
        return f"an exponent exceeds {MAX_EXPONENT}"
    if _HIGH_TOWER.search(answer) or any(_tower_is_huge(*match) for match in _TOWER.findall(answer)):
        return "a tower of powers"
    if _NESTED_FACTORIAL.search(answer) or _FACTORIAL_EXPONENT.search(answer):
        return "a factorial of a factorial, or one in an exponent"
    if any(_above(number, MAX_FACTORIAL) for number in _FACTORIAL.findall(answer)):
        return f"a factorial of more than {MAX_FACTORIAL}"
    if any(_above(number, MAX_BINOMIAL) for number in _BINOMIAL.findall(answer)):
        return f"a binomial coefficient of more than {MAX_BINOMIAL}"
    if _BINOMIAL_OF_POWER.search(answer):
        return "a binomial coefficient of a power"
    return None


def _nesting(text: str) -> int:
    """Deepest nesting of brackets of any kind (closing ones are not matched by kind)."""
    deepest = depth = 0
    for character in text:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth = max(0, depth - 1)
    return deepest


def _above(digits: str, limit: int) -> bool:
    return len(digits) > len(str(limit)) or int(digits) > limit


def _tower_is_huge(inner: str, closed: str, outer: str) -> bool:
    """``(a^inner)^outer`` multiplies the exponents, ``a^{inner^outer}`` raises them."""
    if len(inner) > 5 or len(outer) > 5:
        return True
    if closed.strip():
        return int(inner) * int(outer) > MAX_EXPONENT
    return len(outer) > 2 or int(inner) ** int(outer) > MAX_EXPONENT
