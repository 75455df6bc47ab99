"""Conversations as the API has them: lists of messages, each a mapping with a role and whatever else it may carry.

P(x, M) takes the place of the latest user turn or tool observation; every other message passes through untouched, its
tool calls, images and names with it (paper, Appendix B).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pacore_rl.synthesis.prompt import render_synthesis_prompt

Message = Mapping[str, Any]


def slot_of(messages: Sequence[Message]) -> int:
    """The index of the latest user turn or tool observation. Raises ValueError where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") in ("user", "tool"):
            return index
    raise ValueError(
        f"the conversation has no user turn or tool observation to answer (roles: "
        f"{[message.get('role') for message in messages][:20]}); end it with one."
    )


def with_references(messages: Sequence[Message], references: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation with P(x, M) in its slot; without references, as it is.

    Where the slot holds parts, its text parts become one, in the place of the first, and the others stay.
    """
    placed = [dict(message) for message in messages]
    if not references:
        return placed
    slot = placed[slot_of(messages)]
    content = slot.get("content")
    if not isinstance(content, list):
        slot["content"] = render_synthesis_prompt(str(content or ""), references)
        return placed
    texts = [part for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    question = "\n".join(str(part.get("text", "")) for part in texts)
    prompt = {"type": "text", "text": render_synthesis_prompt(question, references)}
    others = [part for part in content if part not in texts]
    first = content.index(texts[0]) if texts else len(content)
    slot["content"] = [*others[:first], prompt, *others[first:]]
    return placed
