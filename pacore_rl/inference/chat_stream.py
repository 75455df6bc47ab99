"""One streamed chat completion: bytes of server-sent events in, pieces and at the end a finish and a usage out."""

from __future__ import annotations

import io
import json
from typing import Any

from pacore_rl.inference.completion import Completion, Delta, FailureKind, TokenLimits, Usage
from pacore_rl.types import Finish

MAX_LINE_BYTES = 16 * 1024**2
"""A longer line is no chunk of a chat completion."""

NO_LIMITS = TokenLimits()

_FINISHES: dict[str, Finish] = {
    "stop": "stopped",
    "tool_calls": "stopped",
    "function_call": "stopped",
    "length": "truncated",
    "content_filter": "truncated",
}


class StreamError(Exception):
    """A stream that cannot be what was asked for."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message


class ChatStream:
    """Reads the stream of one choice. Holds text in buffers: a long answer costs its own length."""

    __slots__ = ("_buffer", "_content", "_limits", "_reasoning", "_tools", "_usage", "finish_reason", "num_pieces")

    def __init__(self, limits: TokenLimits = NO_LIMITS) -> None:
        self._limits = limits
        self._buffer = b""
        self._content = io.StringIO()
        self._reasoning = io.StringIO()
        self._tools: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.num_pieces = 0
        """Pieces with text or a tool call; each is at least one token."""

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces that these bytes complete. Raises StreamError for an error event and for what is no chunk."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise StreamError("unreadable", f"a line of the stream is longer than {MAX_LINE_BYTES:,} bytes")
        deltas: list[Delta] = []
        for line in lines:
            if not line.startswith(b"data:"):  # comments, event names, blank lines
                continue
            payload = line[5:].strip()
            if payload and payload != b"[DONE]":
                delta = self._take(payload)
                if delta is not None:
                    deltas.append(delta)
        return deltas

    def feed_whole(self, data: bytes) -> list[Delta]:
        """The only piece of an answer that was not streamed. Raises StreamError where it is no chat completion."""
        delta = self._take(data)
        return [] if delta is None else [delta]

    def end(self) -> Completion:
        """The completion, once the bytes are over. Raises StreamError where they were cut before its finish."""
        if self.finish_reason is None:
            raise StreamError("cut", f"the stream ended after {self.num_pieces} pieces, without a finish")
        finish = _FINISHES.get(self.finish_reason)
        if finish is None:
            raise StreamError("server_error", f"the server ended the answer with {self.finish_reason!r}")
        content, reasoning = self.content, self.reasoning
        if finish == "stopped" and not content and not reasoning and not self._tools:
            finish = "empty"
        return self._completion(finish)

    def partial(self) -> Completion:
        """What has arrived of an answer that is not waited for any longer."""
        return self._completion("unfinished")

    @property
    def content(self) -> str:
        return self._content.getvalue()

    @property
    def reasoning(self) -> str:
        return self._reasoning.getvalue()

    def _completion(self, finish: Finish) -> Completion:
        content, reasoning = self.content, self.reasoning
        tools = tuple(self._tools[index] for index in sorted(self._tools))
        num_chars = len(content) + len(reasoning) + sum(len(str(tool)) for tool in tools)
        return Completion(
            content=content,
            reasoning=reasoning,
            tool_calls=tools,
            finish=finish,
            finish_reason=self.finish_reason,
            usage=_read_usage(self._usage, self.num_pieces, num_chars, self._limits),
        )

    def _take(self, payload: bytes) -> Delta | None:
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise StreamError("unreadable", f"a chunk is no JSON: {payload[:80]!r}") from error
        if not isinstance(chunk, dict):
            raise StreamError("unreadable", f"a chunk is no object: {payload[:80]!r}")
        if chunk.get("error"):
            error = chunk["error"]
            message = error.get("message") if isinstance(error, dict) else error
            raise StreamError("server_error", f"the server broke off: {str(message)[:500]}")
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise StreamError("unreadable", f"a chunk has no choices: {payload[:80]!r}")
        if not choices:
            return None
        choice = choices[0]
        if not isinstance(choice, dict):
            raise StreamError("unreadable", f"a choice is no object: {payload[:80]!r}")
        if isinstance(choice.get("finish_reason"), str):
            self.finish_reason = choice["finish_reason"]
        return self._take_delta(choice.get("delta") or choice.get("message"))

    def _take_delta(self, fields: Any) -> Delta | None:
        if not isinstance(fields, dict):
            return None
        content = _text(fields.get("content"))
        reasoning = _text(fields.get("reasoning")) or _text(fields.get("reasoning_content"))
        given = fields.get("tool_calls")
        tools = tuple(call for call in given if isinstance(call, dict)) if isinstance(given, list) else ()
        if not (content or reasoning or tools):
            return None
        self.num_pieces += 1
        self._content.write(content)
        self._reasoning.write(reasoning)
        for position, call in enumerate(tools):
            self._take_tool_call(call, position)
        return Delta(content=content, reasoning=reasoning, tool_calls=tools)

    def _take_tool_call(self, call: dict[str, Any], position: int) -> None:
        """Put a fragment to what is known of its call."""
        index = call.get("index")
        known = self._tools.setdefault(
            index if isinstance(index, int) else position,
            {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
        )
        known["id"] = _text(call.get("id")) or known["id"]
        function = call.get("function")
        if isinstance(function, dict):
            known["function"]["name"] += _text(function.get("name"))
            known["function"]["arguments"] += _text(function.get("arguments"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _read_usage(given: dict[str, Any] | None, num_pieces: int, num_chars: int, limits: TokenLimits) -> Usage:
    """The server's counts, where they are possible: a piece has at least one token, and limits hold."""
    given = given or {}
    prompt, generated = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
    if prompt is not None and not limits.may_prompt(prompt):
        prompt = None
    if generated is not None and not limits.may_generate(generated, num_chars=num_chars):
        generated = None
    if prompt is None or generated is None or generated < num_pieces:
        return Usage(prompt_tokens=prompt or 0, generated_tokens=num_pieces, is_estimated=True)
    details = given.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is not None and cached > prompt:
        cached = None
    return Usage(prompt_tokens=prompt, cached_tokens=cached, generated_tokens=generated)
