r"""The normal form of an answer: two spellings of one answer become one string, two answers never do.

``1{,}234``, ``1\,234``, ``$1,234$`` and ``1234.`` are all ``1234``; ``1 2`` is not ``12``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from pacore_rl.rewards.extract import MAX_ANSWER_CHARACTERS, last_boxed

# Full-width forms, and mathematics typed as characters rather than as TeX.
_CHARACTERS = str.maketrans(
    {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)}
    | dict.fromkeys("\u2212\u2013\u2012\ufe63", "-")
    | {"\u3000": " ", "\u3001": ",", "\u3002": ".", "\u00b0": r"^\circ", "\u00b2": "^{2}", "\u00b3": "^{3}"}
    | {"\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00b1": r"\pm ", "\u03c0": r"\pi "}
    | {
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u221e": r"\infty ",
        "\u222a": r"\cup ",
        "\u2208": r"\in ",
        "\u2205": r"\emptyset ",
    }
)
_RADICAL = re.compile(r"\u221a\s*([0-9]+|[a-zA-Z])")
_CHINESE_PREFIX = re.compile(r"(?:\\text\{\s*)?(?:\u7b54\u6848|\u7ed3\u679c)[\u662f\u4e3a]?:?\s*\}?\s*(?=[0-9\\(\[+-])")
"""The answer (or the result) is ..."""
_CHINESE_OR = re.compile(r"\s*(?:\\text\{\s*)?[\u6216\u548c\u4e0e](?:\s*\})?\s*(?=[0-9\\(\[+-])")

# TeX's spacing. An escaped backslash is matched first, so that the row break of "\\,3" is not taken for a space.
_SPACING = re.compile(r"(\\\\)|\\(?:[,;:>\s]|(?:quad|qquad|thinspace|enspace)(?![a-zA-Z]))|~")
_INVISIBLE = re.compile(
    r"(\\\\)|\\!|\\[()\[\]]|\\(?:left|right)\.|\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])|\\?\$"
)
_TYPESET_COMMA = re.compile(r"(?<=[0-9]),\\!(?=[0-9]{3}(?![0-9]))")
_FRACTION_STYLES = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_ALIASES = (
    (re.compile(r"\\leq(?:slant)?(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"(?<!\^)\\degree(?![a-zA-Z])"), r"^\\circ"),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset"),
)
_ALL_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\{([^{}\\]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:[\u2009\u202f\u00a0][0-9]{3})+(?![0-9])")
_COMMA_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:([, ])[0-9]{3})(?:\1[0-9]{3})*(?:\.[0-9]+)?")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)")
_SCIENTIFIC = re.compile(
    r"(?:([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:\\times|\\cdot)\s*)?10\^(?:\{([+-]?[0-9]{1,3})\}|([0-9]))"
    r"|([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))[eE]([+-]?[0-9]{1,3})"
)
_REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\{([0-9]+)\}")
_MIXED = re.compile(r"([+-]?)([0-9]+) ?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))")
_QUOTIENT = re.compile(r"([+-]?)(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([0-9]+))")


def normalise(text: str) -> str:
    """Drop what does not change an answer: delimiters, spacing, thousands separators, a final full stop.

    The result is still TeX. Spaces between letters and digits stay, single.
    """
    if not text.isascii():
        text = _CHINESE_PREFIX.sub("", _RADICAL.sub(r"\\sqrt{\1}", text.translate(_CHARACTERS)))
        text = _CHINESE_OR.sub(",", text)
    if ",\\!" in text:
        text = _TYPESET_COMMA.sub("", text)
    if "{,}" in text:
        text = _join_braced_commas(text)
    if "\\" in text or "$" in text or "~" in text:
        text = _INVISIBLE.sub(lambda match: match.group(1) or "", text)
        text = _FRACTION_STYLES.sub(r"\\frac", text)
        text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
        text = _SPACING.sub(lambda match: match.group(1) or "\u2009", text)
        for pattern, alias in _ALIASES:
            text = pattern.sub(alias, text)
        if match := _ALL_TEXT.fullmatch(text.strip(" .")):
            text = match.group(1)
    if not text.isascii():
        text = _SPACED_THOUSANDS.sub(lambda match: re.sub(r"\s", "", match.group()), text)
    text = _LOOSE_SPACE.sub("", text.strip())
    text = " ".join(text.split())
    if text.endswith((".", ",")) and len(text) > 1:
        text = text[:-1].rstrip()
    if _COMMA_THOUSANDS.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    return text


def _join_braced_commas(text: str) -> str:
    """``1{,}234`` is one number; any other ``{,}`` is a comma."""
    text = re.sub(r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))", "", text)
    return text.replace("{,}", ",")


def canonical_integer(text: str) -> str | None:
    """The one spelling of an integer of any size, or None. Digits are never converted, so size costs nothing."""
    if not _INTEGER.fullmatch(text):
        return None
    digits = text.lstrip("+-").lstrip("0") or "0"
    return "-" + digits if text[0] == "-" and digits != "0" else digits


def rational(text: str) -> tuple[Fraction, bool] | None:
    """``(value, written as a decimal)`` of an integer, a decimal or a quotient of integers; None of anything else."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    if _INTEGER.fullmatch(text):
        return Fraction(text), False
    if _DECIMAL.fullmatch(text):
        return Fraction(text if text[-1] != "." else text + "0"), True
    if match := _QUOTIENT.fullmatch(text):
        sign, top, bottom, plain_top, plain_bottom = match.groups()
        denominator = int(bottom or plain_bottom)
        if denominator:
            return Fraction(int(top or plain_top), denominator) * (-1 if sign == "-" else 1), False
        return None
    return _written_otherwise(text)


def _written_otherwise(text: str) -> tuple[Fraction, bool] | None:
    """Scientific notation, repeating decimals and mixed numbers."""
    if match := _SCIENTIFIC.fullmatch(text):
        mantissa = match[1] or match[4] or "1"
        value = Fraction(mantissa + "0" * mantissa.endswith(".")) * Fraction(10) ** int(
            match[2] or match[3] or match[5]
        )
        return value, "." in mantissa and value.denominator != 1
    if match := _REPEATING.fullmatch(text):
        sign, whole, once, again = match.groups()
        value = Fraction(
            int(whole + once + again or "0") - int(whole + once or "0"), 10 ** len(once) * (10 ** len(again) - 1)
        )
        return (-value if sign == "-" else value), False
    if match := _MIXED.fullmatch(text):
        sign, whole, top, bottom, plain_top, plain_bottom = match.groups()
        numerator, denominator = int(top or plain_top), int(bottom or plain_bottom)
        if 0 < numerator < denominator:
            value = int(whole) + Fraction(numerator, denominator)
            return (-value if sign == "-" else value), False
    return None


def canonical(text: str) -> str:
    """The normal form with numbers in lowest terms: ``0.50`` and ``2/4`` are ``1/2``. Votes are counted on it."""
    if integer := canonical_integer(text):
        return integer
    number = rational(text)
    return text if number is None else str(number[0])


@lru_cache(maxsize=65536)
def normal_ground_truth(ground_truth: str) -> str:
    r"""Normal form of a ground truth, taken out of its ``\boxed{...}`` where it stands in one."""
    boxed = last_boxed(ground_truth) if "\\boxed" in ground_truth else None
    return normalise(ground_truth if boxed is None else boxed)
