"""Python values as JSON that keeps tuples, sets, dicts and bytes apart, for calls across the wall of a sandbox.

Runs on both sides of it. What comes out is decoded without evaluating anything.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 200
_HUGE_BITS = 4096
"""Longer integers travel as hexadecimal: decimal conversion of them takes quadratic time."""


class Opaque:
    """A value that cannot travel. It equals nothing, itself included."""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return self.shown


def dumps(value: object) -> str:
    """``value`` as JSON text; what has no form of its own becomes an ``Opaque`` with its ``repr``."""
    return json.dumps(_encode(value, 0))


def loads(text: str | bytes) -> Any:
    """The value of :func:`dumps`. Raises ``ValueError`` or ``RecursionError`` for what it cannot have written."""
    try:
        return _decode(json.loads(text))
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # a known tag around something else
        raise ValueError(f"not an encoded value: {error}") from error


def _encode(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        return {"?": "nested too deeply"}
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= _HUGE_BITS else {"i": hex(number)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"f": str(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return {"b": value.hex()}
    if isinstance(value, complex):
        return {"c": [_encode(value.real, depth + 1), _encode(value.imag, depth + 1)]}
    if isinstance(value, dict):
        return {"d": [[_encode(key, depth + 1), _encode(item, depth + 1)] for key, item in value.items()]}
    for tag, kinds in (("", list), ("t", tuple), ("s", (set, frozenset))):
        if isinstance(value, kinds):
            items = [_encode(item, depth + 1) for item in value]  # pyright: ignore[reportGeneralTypeIssues]
            return {tag: items} if tag else items
    return {"?": repr(value)[:200]}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"not an encoded value: {str(value)[:80]}")
    tag, content = next(iter(value.items()))
    match tag:
        case "t":
            return tuple(_decode(item) for item in content)
        case "s":
            return frozenset(_hashable(_decode(item)) for item in content)
        case "d":
            return {_hashable(_decode(key)): _decode(item) for key, item in content}
        case "i":
            return int(content, 16)
        case "f":
            return float(content)
        case "b":
            return bytes.fromhex(content)
        case "c":
            return complex(_decode(content[0]), _decode(content[1]))
        case _:
            return Opaque(str(content))


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, dict, Opaque)):
        raise ValueError("an element that cannot be hashed")
    return value
