"""When an output is right: testlib's comparisons by their names, and the choice among them where the data names none.

Each takes the expected output and the program's, and says what is wrong, or None. They run on our side of the sandbox
on whatever a program wrote, so no pattern backtracks over its length, and nothing is evaluated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

Checker = Callable[[bytes, bytes], str | None]

DEFAULT = "wcmp"
SPARE_BYTES = 65_536
"""An output may be this much longer than four times the expected one, before it is not looked at."""
INT64 = range(-(2**63), 2**63)
_INTEGER = re.compile(rb"[+-]?[0-9]{1,25}")
_HUGE = re.compile(rb"-?[0-9]+")
_REAL = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_DECIMAL = re.compile(rb"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]{1,4})?")
_MAX_REAL_BYTES = 1_000
_PARAMETRIC = re.compile(r"tokens( absolute| relative)? ([0-9.]+(?:e-?[0-9]+)?)", re.IGNORECASE)
_ROUNDING = 1e-15
"""testlib's allowance on top of the tolerance."""


def checker_named(name: str) -> Checker:
    """The comparison called ``name``. Raises ``ValueError`` with the names there are."""
    if name in CHECKERS:
        return CHECKERS[name]
    if found := _PARAMETRIC.fullmatch(name):
        kind, tolerance = (found[1] or "").strip(), float(found[2])
        absolute = tolerance if kind != "relative" else 0.0
        relative = tolerance if kind != "absolute" else 0.0
        return partial(_compare, convert=_as_is, equal=partial(_alike, absolute=absolute, relative=relative))
    raise ValueError(
        f"unknown checker {name!r}; the checkers are {', '.join(CHECKERS)}, 'tokens 1e-6' (words in any case, numbers "
        "within a tolerance; also 'tokens absolute 1e-6', 'tokens relative 1e-6'), or a checker program."
    )


def choose_checker(outputs: Iterable[str]) -> str:
    """The name of the checker that fits every expected output: answers of yes and no, decimals, else words.

    Never one that ignores order: that a list may come in any order cannot be seen from the outputs.
    """
    words = [output.encode(errors="surrogatepass").split() for output in outputs]
    flat = [word for line in words for word in line]
    if not flat:
        return DEFAULT
    if all(word.lower() in (b"yes", b"no") for word in flat):
        return "yesno" if all(len(line) == 1 for line in words) else "nyesno"
    if all(_REAL.fullmatch(word) for word in flat) and any(_DECIMAL.fullmatch(word) for word in flat):
        return "rcmp6"
    return DEFAULT


def compare(checker: Checker, expected: bytes, got: bytes) -> str | None:
    """What is wrong with an output, or None; far too long ones are refused unread."""
    if len(got) > 4 * len(expected) + SPARE_BYTES:
        return f"the output is {len(got)} bytes long, {len(expected)} were expected"
    return checker(expected, got)


def _compare(
    expected: bytes,
    got: bytes,
    *,
    convert: Callable[[bytes], object | None],
    equal: Callable[[object, object], bool],
    is_ordered: bool = True,
    count: int | None = None,
) -> str | None:
    """Word by word. ``convert`` gives None for a word that is not of the kind; an expected one is a fault of the data,
    told at load (see ``unfit``) and never right here."""
    wanted, found = expected.split(), got.split()
    if count is not None and len(found) != count:
        return f"{len(found)} words, not {count}"
    if len(wanted) != len(found):
        return f"{len(found)} words, not {len(wanted)}"
    values = [convert(word) for word in found]
    if None in values:
        return (
            f"word {values.index(None) + 1}: {_shown(found[values.index(None)])} is not of the kind that is asked for"
        )
    truths = [convert(word) for word in wanted]
    if not is_ordered:
        return None if _sorted(values) == _sorted(truths) else "not the same elements"
    for number, (truth, value) in enumerate(zip(truths, values, strict=True), start=1):
        if truth is None or not equal(truth, value):
            return f"word {number}: {_shown(found[number - 1])}, expected {_shown(wanted[number - 1])}"
    return None


def _sorted(values: Sequence[object]) -> list[object]:
    return sorted(values, key=lambda value: (value is None, value))  # pyright: ignore[reportArgumentType]


def _as_is(word: bytes) -> object | None:
    return word


def _caseless(word: bytes) -> object | None:
    return word.lower()


def _int64(word: bytes) -> object | None:
    return number if _INTEGER.fullmatch(word) and (number := int(word)) in INT64 else None


def _huge(word: bytes) -> object | None:
    if not _HUGE.fullmatch(word):
        return None
    digits = word.lstrip(b"-").lstrip(b"0") or b"0"
    return b"-" + digits if word.startswith(b"-") and digits != b"0" else digits


def _real(word: bytes) -> object | None:
    number = float(word) if len(word) <= _MAX_REAL_BYTES and _REAL.fullmatch(word) else math.nan
    return number if math.isfinite(number) else None


def _yes_or_no(word: bytes) -> object | None:
    return word.lower() if word.lower() in (b"yes", b"no") else None


def _same(truth: object, value: object) -> bool:
    return truth == value


def _close(truth: object, value: object, *, absolute: float, relative: float) -> bool:
    """testlib's doubleCompare: within the absolute or the relative error."""
    assert isinstance(truth, float) and isinstance(value, float)
    return abs(value - truth) <= max(absolute, relative * abs(truth)) + _ROUNDING


def _alike(truth: object, value: object, *, absolute: float, relative: float) -> bool:
    """Equal words in any case, or numbers within the error."""
    assert isinstance(truth, bytes) and isinstance(value, bytes)
    if truth.lower() == value.lower():
        return True
    numbers = _real(truth), _real(value)
    return None not in numbers and _close(*numbers, absolute=absolute, relative=relative)


def _lines(expected: bytes, got: bytes) -> str | None:
    """lcmp: the same lines, runs of blanks within them aside."""
    wanted, found = (text.rstrip().splitlines() for text in (expected, got))
    if len(wanted) != len(found):
        return f"{len(found)} lines, not {len(wanted)}"
    for number, (truth, line) in enumerate(zip(wanted, found, strict=True), start=1):
        if truth.split() != line.split():
            return f"line {number}: {_shown(line)}, expected {_shown(truth)}"
    return None


def _shown(word: bytes) -> str:
    return repr(word[:40].decode(errors="replace")) + ("..." if len(word) > 40 else "")


def _reals(tolerance: float) -> Checker:
    return partial(_compare, convert=_real, equal=partial(_close, absolute=tolerance, relative=tolerance))


CHECKERS: dict[str, Checker] = {
    "wcmp": partial(_compare, convert=_as_is, equal=_same),
    "lcmp": _lines,
    "ncmp": partial(_compare, convert=_int64, equal=_same),
    "icmp": partial(_compare, convert=_int64, equal=_same, count=1),
    "hcmp": partial(_compare, convert=_huge, equal=_same, count=1),
    "rcmp4": _reals(1.5e-4),
    "rcmp6": _reals(1.5e-6),
    "rcmp9": _reals(1.5e-9),
    "uncmp": partial(_compare, convert=_int64, equal=_same, is_ordered=False),
    "yesno": partial(_compare, convert=_yes_or_no, equal=_same, count=1),
    "nyesno": partial(_compare, convert=_yes_or_no, equal=_same),
    "caseless": partial(_compare, convert=_caseless, equal=_same),
}
"""wcmp words, lcmp lines, ncmp integers of 64 bits, icmp one of them, hcmp one integer of any size, rcmp numbers within
an absolute or relative error (NaN and infinity refused), uncmp integers in any order, yesno, nyesno (several), caseless
words."""


def unfit(name: str, output: str) -> str | None:
    """Why an expected output would not be accepted by its own checker, or None."""
    data = output.encode(errors="surrogatepass")
    return compare(checker_named(name), data, data)
