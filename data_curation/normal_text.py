"""Statements made comparable: one form for exact duplicates, words for near-duplicates and overlaps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

VERSION = 2
"""Of :func:`normal_words`: where it has changed, the steps that compare words, and those alone, are done anew."""
_LATEX_SPACING = re.compile(r"\\(?:[,;:!~ ]|quad|qquad|displaystyle|left|right|limits|dfrac|tfrac)(?![A-Za-z])")
_DELIMITERS = re.compile(r"\$+|\\[()\[\]]")
_CHARACTER = r"\u3040-\u30ff\u3400-\u9fff"
"""Chinese and Japanese, without spaces between words."""
_LETTER = rf"[^\W\d_{_CHARACTER}]"
_MARK = "".join(chr(code) for code in range(0x300, 0xAC00) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
"""Parts of a word that are no letters by themselves: the vowels of Thai and Hindi."""
_WORD = re.compile(rf"{_LETTER}+(?:[{_MARK}]+{_LETTER}*)*|\d+|[{_CHARACTER}]")
_SIGNS = r"[-+*/^=<>|!_%()'\[\]\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff\u2308-\u230b]"
_WORD_OR_SIGN = re.compile(rf"{_WORD.pattern}|{_SIGNS}")
_ALIKE = str.maketrans({"\u2212": "-", "\u2032": "'", "\u2019": "'"})
MASK = "#"


def normal_words(text: str, *, signs: bool = False) -> list[str]:
    """The words and numbers of a text in lower case, in any script; a Chinese or Japanese character is a word.

    ``signs``: those of mathematics too, but for LaTeX's braces. From copy to copy of one problem they vary (dots,
    dashes, ``$x$`` or ``\\(x\\)``), so they are left out where copies must be found, and kept where problems must be
    told apart.
    """
    text = unicodedata.normalize("NFKC", text).translate(_ALIKE)
    text = _DELIMITERS.sub(" ", _LATEX_SPACING.sub(_kept, text)).lower()
    return (_WORD_OR_SIGN if signs else _WORD).findall(text)


def masked_words(words: Sequence[str]) -> list[str]:
    """:func:`normal_words` with every number, and every run of numbers, as one mask.

    Problems that differ in their numbers only are equal: 3 and 4.5, {1, 2} and {1, 2, 3}.
    """
    masked: list[str] = []
    for word in words:
        if not word.isdigit():
            masked.append(word)
        elif not masked or masked[-1] != MASK:
            masked.append(MASK)
    return masked


def key(words: Sequence[str]) -> int:
    """A 64-bit hash of the words in their order."""
    return xxhash.xxh3_64_intdigest(" ".join(words).encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


def window_hashes(words: Sequence[str], size: int) -> UInt64:
    """[max(len - size + 1, 0)] hashes of every ``size`` words in a row of one text."""
    return all_window_hashes([words], size)[0]


def all_window_hashes(texts: Sequence[Sequence[str]], size: int) -> tuple[UInt64, Int64]:
    """The window hashes of several texts one after another, and [texts] how many each has.

    A polynomial in 2^64, all windows at once: with h the words' own hashes and b odd, the window that begins at i has
    sum_j h[i + j] b^j. Prefix sums of h[i] b^i over all texts give each with one multiplication by a power of 1/b.
    """
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    h = np.fromiter((_word_hash(word) for words in texts for word in words), dtype=np.uint64, count=int(lengths.sum()))
    num_windows = np.maximum(lengths - size + 1, 0)
    if not num_windows.any():
        return np.empty(0, dtype=np.uint64), num_windows
    powers, inverses = _powers(len(h))
    prefix = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(h * powers[: len(h)], dtype=np.uint64)))
    # Where each window begins: the k-th of a text at the text's own start + k.
    before = np.cumsum(lengths) - lengths
    within = np.arange(num_windows.sum()) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    starts = np.repeat(before, num_windows) + within
    return (prefix[starts + size] - prefix[starts]) * inverses[starts], num_windows


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
