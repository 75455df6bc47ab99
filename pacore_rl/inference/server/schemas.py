"""Requests and responses, as the OpenAI API has them.

Sampling parameters that this server does not know are passed on to the endpoint. Those that cannot be honoured across
rounds are refused.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pacore_rl.inference.conversation import slot_of
from pacore_rl.synthesis.compaction import COMPACTIONS

MAX_CHOICES = 16
MAX_MESSAGES = 4_096
MAX_STOPS = 16
MAX_SEED = 2**63 - 1
MAX_DEPTH = 64
_OWN = frozenset({"model", "messages", "n", "stream", "stream_options", "seed", "pacore", "max_completion_tokens"})
_TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
_FORM = frozenset({"stop", "stop_token_ids", "include_stop_str_in_output", "response_format", "structured_outputs"})
_OLDER_FORM = frozenset({"guided_json", "guided_regex", "guided_choice", "guided_grammar"})
"""vLLM's names for what ``structured_outputs`` holds now."""
_CLOSING = _TOOLS | _FORM | _OLDER_FORM
"""Meant for the answer: they reach the closing round alone."""
_REFUSED = frozenset({"logprobs", "top_logprobs", "prompt_logprobs", "echo", "best_of", "use_beam_search"})


class ChatMessage(BaseModel):
    """One message; whatever else it carries passes through."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class PacoreOptions(BaseModel):
    """The extension of this server, ``extra_body={"pacore": {...}}`` in the official client."""

    model_config = ConfigDict(extra="forbid")

    max_total_tokens: Annotated[int, Field(ge=1)] | None = None
    """Generated tokens of all rounds."""
    max_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    compaction: str | None = None
    include_messages: bool = False
    """Return what each round read of the one before."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compaction is not None and self.compaction not in COMPACTIONS:
            raise ValueError(f"pacore.compaction must be one of {', '.join(sorted(COMPACTIONS))}")
        return self


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Choices of the closing round; they share the rounds before it."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Limit of every trajectory of every round."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    pacore: PacoreOptions = Field(default_factory=PacoreOptions)

    @model_validator(mode="after")
    def _check(self) -> Self:
        slot_of(self.wire_messages())
        # What comes next is JSON again: no loop of ours may meet a nesting or a number that JSON cannot carry.
        if _depth(self.model_dump(exclude_unset=True)) > MAX_DEPTH:
            raise ValueError(f"the request nests deeper than {MAX_DEPTH} levels")
        try:
            json.dumps(self.model_dump(exclude_unset=True), allow_nan=False)
        except ValueError:
            raise ValueError("the request holds a number that is not finite") from None
        refused = sorted(name for name in _REFUSED if self._extra().get(name))
        if refused:
            raise ValueError(f"{', '.join(refused)} cannot be had of an answer in rounds; leave it out")
        return self

    def wire_messages(self) -> list[dict[str, Any]]:
        """The messages as they were sent."""
        return [message.model_dump(exclude_unset=True) for message in self.messages]

    def sampling(self) -> dict[str, Any]:
        """Options of every round's calls."""
        fields = self.model_dump(exclude_none=True, exclude_unset=True, exclude={*_OWN, *_CLOSING})
        if self.max_completion_tokens is not None:
            fields["max_tokens"] = self.max_completion_tokens
        return fields

    def closing(self) -> dict[str, Any]:
        """Options of the closing round alone."""
        return self.model_dump(exclude_none=True, exclude_unset=True, include=set(_CLOSING))

    def _extra(self) -> dict[str, Any]:
        return self.__pydantic_extra__ or {}


def _depth(value: Any) -> int:
    """How deep lists and objects nest, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(child, dict | list)
        ]
    return depth
