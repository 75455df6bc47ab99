"""Chat models that follow a script, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from data_curation.chat import ChatModel, ChatReply, OpenModel
from pacore_rl.types import Turn

Script = Callable[[str, int], str | ChatReply]
"""From the latest turn and the seed to the reply; a text is one that stopped by itself."""


@dataclass(slots=True, kw_only=True)
class ScriptedModel:
    script: Script
    name: str = "scripted"
    asked: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    most_at_once: int = 0
    in_flight: int = 0

    async def reply(self, conversation: Sequence[Turn], *, seed: int) -> ChatReply:
        self.asked.append((conversation[-1].content, seed))
        self.in_flight += 1
        self.most_at_once = max(self.most_at_once, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        reply = self.script(conversation[-1].content, seed)
        return ChatReply(text=reply, num_tokens=len(reply.split())) if isinstance(reply, str) else reply

    @property
    def opened(self) -> OpenModel:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[ChatModel]:
            yield self

        return open_it


def down(reason: str = "unreachable: nobody listens") -> ChatReply:
    return ChatReply(text="", finish="failed", failure=reason)


def refused(reason: str = "overflow: the prompt is too long") -> ChatReply:
    return ChatReply(text="", finish="failed", failure=reason, is_refused=True)
