"""An endpoint's API key, kept out of what is told: a server may send back in an error what it was sent."""

from __future__ import annotations

MASK = "***"
MIN_PART_CHARS = 8
"""A beginning of the key this long is taken for the key: messages are cut to a length, perhaps within it."""


def without_key(text: str, key: str | None) -> str:
    """The text with a mask in the place of the key, and of a beginning of it that the text breaks off in.

    ``without_key("got Bearer sk-abcdefgh", "sk-abcdefghij")`` is ``"got Bearer ***"``.
    """
    key = (key or "").strip()
    if not key:
        return text
    for length in range(len(key), min(MIN_PART_CHARS, len(key)) - 1, -1):
        text = text.replace(key[:length], MASK)
    return text
