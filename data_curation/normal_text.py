"""Statements made comparable: one form for exact duplicates, words for near-duplicates and overlaps."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]

_LATEX_SPACING = re.compile(r"\\(?:[,;:!~ ]|quad|qquad|displaystyle|left|right|limits|dfrac|tfrac)(?![A-Za-z])")
_DELIMITERS = re.compile(r"\$+|\\[()\[\]]")
_WORD = re.compile(r"[a-z]+|\d+|[\u3040-\u30ff\u3400-\u9fff]")
_WORD_OR_SIGN = re.compile(rf"{_WORD.pattern}|[-+*/^=<>|!_%]")
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
MASK = "#"


def normal_words(text: str, *, signs: bool = False) -> list[str]:
    """The words and numbers of a text in lower case, a Chinese or Japanese character being a word.

    ``signs``: those of mathematics too. From copy to copy of one problem they vary (dots, dashes, ``$x$`` or
    ``\\(x\\)``), so they are left out where copies must be found, and kept where problems must be told apart.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    text = _DELIMITERS.sub(" ", _LATEX_SPACING.sub(_kept, text)).lower()
    return (_WORD_OR_SIGN if signs else _WORD).findall(text)


def masked_words(text: str) -> list[str]:
    """:func:`normal_words`, every number as one mask: problems that differ in their numbers only are equal."""
    return [MASK if word.isdigit() else word for word in normal_words(_NUMBERS.sub("0", text))]


def key(words: list[str]) -> int:
    """A 64-bit hash of the words in their order."""
    return xxhash.xxh3_64_intdigest(" ".join(words).encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


def window_hashes(words: list[str], size: int) -> UInt64:
    """[max(len - size + 1, 0)] hashes of every ``size`` words in a row: a polynomial in 2^64, all windows at once.

    With h the words' own hashes and b odd, the window that begins at i has sum_j h[i + j] b^j; prefix sums of
    h[i] b^i give all of them with one multiplication by a power of 1/b each.
    """
    if len(words) < size:
        return np.empty(0, dtype=np.uint64)
    h = np.array([_word_hash(word) for word in words], dtype=np.uint64)
    powers, inverses = _powers(len(words))
    prefix = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(h * powers[: len(h)], dtype=np.uint64)))
    windows = (prefix[size:] - prefix[:-size]) * inverses[: len(h) - size + 1]
    return windows


_BASE = 0x9E3779B97F4A7C15 | 1
_powers_cache: list[UInt64] = []


def _powers(num: int) -> tuple[UInt64, UInt64]:
    """[>= num] powers of the base and of its inverse modulo 2^64."""
    if not _powers_cache or len(_powers_cache[0]) < num:
        length = max(4096, 1 << (num - 1).bit_length())
        inverse = pow(_BASE, -1, 1 << 64)
        tables = []
        for base in (_BASE, inverse):
            factors = np.full(length, base, dtype=np.uint64)
            factors[0] = 1
            tables.append(np.cumprod(factors, dtype=np.uint64))
        _powers_cache[:] = tables
    return _powers_cache[0], _powers_cache[1]


def _kept(match: re.Match[str]) -> str:
    """Commands that only change the looks go, fractions stay one command."""
    return "\\frac" if match[0].endswith("frac") else " "
