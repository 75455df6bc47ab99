r"""From a response to its final answer: the message after the reasoning, then the last ``\boxed{...}`` in it."""

from __future__ import annotations

import re

MAX_ANSWER_CHARACTERS = 1000
"""A longer box is not an answer; the limit also bounds the work that hostile text can cause."""

_BOX = re.compile(r"\\boxed\s{0,8}\{")
_BOX_OR_BRACE = re.compile(r"\\boxed\s{0,8}\{|\\.|[{}]", re.DOTALL)


def message_of(response: str, end_of_reasoning: str) -> str | None:
    """What follows the last end-of-reasoning marker; None where the reasoning never closed.

    With an empty marker (a model that does not reason) the whole response is the message.
    """
    if not end_of_reasoning:
        return response
    _, marker, message = response.rpartition(end_of_reasoning)
    return message if marker else None


def last_boxed(message: str, max_characters: int = MAX_ANSWER_CHARACTERS) -> str | None:
    r"""Content of the last outermost ``\boxed{...}``, or None.

    None where there is no box, where the last one is empty, never closes or exceeds ``max_characters``.
    Escaped braces do not count as braces. Time is bounded whatever the message holds.
    """
    last = _last_opening(message)
    if last is None:
        return None
    # An outer box around the last one starts at most one answer's length before it.
    first = message.find("\\boxed", max(0, last - max_characters - 16), last + 6)
    end = last + max_characters + 64
    content: str | None = None
    open_braces: list[int] = []  # where a box's content starts, -1 for a plain brace
    for token in _BOX_OR_BRACE.finditer(message, first, end):
        text = token.group()
        if text.startswith("\\boxed"):
            open_braces.append(token.end())
        elif text == "{":
            open_braces.append(-1)
        elif text == "}" and open_braces:
            start = open_braces.pop()
            if start >= 0 and not any(outer >= 0 for outer in open_braces):
                content = message[start : token.start()].strip()
                if token.start() > last:  # the last box, or the one around it, is closed: what follows is prose
                    break
    if any(start >= 0 for start in open_braces):
        return None
    return content if content and len(content) <= max_characters else None


def _last_opening(message: str) -> int | None:
    """Position of the last ``\\boxed`` that is followed by a brace (prose may mention the command without one)."""
    position = len(message)
    while (position := message.rfind("\\boxed", 0, position)) >= 0:
        if _BOX.match(message, position):
            return position
    return None
