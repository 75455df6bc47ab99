"""Answers in the API's form."""

from __future__ import annotations

import time
import uuid
from typing import Any

from pacore_rl.inference.answering import Answered
from pacore_rl.inference.completion import Completion, Failure
from pacore_rl.inference.server.errors import ApiError
from pacore_rl.synthesis.plan import Answer

_STATUS = {"busy": 503, "timeout": 504}
RETRY_SECONDS = 5


class Envelope:
    """What every object of one response has in common."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model

    def wrap(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, **fields}


def completion_object(envelope: Envelope, answered: Answered, *, include_messages: bool) -> dict[str, Any]:
    """The whole ``chat.completion``. Raises ApiError where no choice could be had."""
    raise_if_failed(answered)
    closing = answered.completions[-1]
    marker = answered.rounds.plan.end_of_reasoning
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", **_message(answer, completion, marker)},
            "finish_reason": finish_reason(answer, completion),
            "logprobs": None,
            "pacore": {"outcome": outcome(answer, completion)},
        }
        for index, (answer, completion) in enumerate(zip(answered.answers, closing, strict=True))
    ]
    usage = usage_object(answered, include_messages=include_messages)
    return envelope.wrap("chat.completion", choices=choices, usage=usage)


def usage_object(answered: Answered, *, include_messages: bool) -> dict[str, Any]:
    """The closing round's usage in the API's fields, and every round's in ``pacore``."""
    closing = answered.completions[-1]
    prompt = max(completion.usage.prompt_tokens for completion in closing)
    generated = sum(completion.usage.generated_tokens for completion in closing)
    cached = [c.usage.cached_tokens for c in closing if c.usage.cached_tokens is not None]
    by_round, rounds = answered.rounds.ledger.by_round(), []
    for call, completions in zip(answered.rounds.calls, answered.completions, strict=True):
        cost = by_round[call.round_index]
        entry: dict[str, Any] = {
            "round": call.round_index,
            "num_samples": call.num_samples,
            "num_messages": len(call.messages),
            "prompt_tokens": cost.prompt_tokens,
            "cached_tokens": cost.cached_tokens,
            "generated_tokens": cost.generated_tokens,
            "num_estimated": cost.num_estimated,
            "finishes": [completion.finish for completion in completions],
        }
        rounds.append(entry | ({"messages": list(call.messages)} if include_messages else {}))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": max(cached)} if cached else None,
        "pacore": {
            "ttc_tokens": answered.rounds.ledger.ttc_tokens,
            "num_dropped_messages": answered.rounds.num_dropped,
            "rounds": rounds,
        },
    }


def outcome(answer: Answer, completion: Completion) -> str:
    """A tool call is an answer too."""
    return "answered" if completion.tool_calls and completion.finish == "stopped" else answer.outcome


def finish_reason(answer: Answer, completion: Completion) -> str:
    """The API's word; ``error`` for a choice that failed beside others that did not."""
    if answer.outcome in ("failed", "overflow"):
        return "error"
    if answer.outcome in ("truncated", "unfinished"):
        return "content_filter" if completion.finish_reason == "content_filter" else "length"
    return "tool_calls" if completion.tool_calls else "stop"


def raise_if_failed(answered: Answered) -> None:
    """Raise ApiError where every choice failed."""
    failures = [completion.failure for completion in answered.completions[-1]]
    first = failures[0]
    if first is not None and all(failures):
        raise api_error(first)


def api_error(failure: Failure) -> ApiError:
    """What a caller is told of a failure at the endpoint."""
    if failure.kind == "overflow":
        return ApiError(400, failure.message, code="context_length_exceeded", param="messages")
    if failure.kind == "refused" and failure.status in (400, 413, 422):
        return ApiError(400, failure.message, code="refused_by_endpoint")
    status = _STATUS.get(failure.kind, 502)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    return ApiError(status, f"the endpoint failed: {failure.message}", code=f"endpoint_{failure.kind}", headers=headers)


def _message(answer: Answer, completion: Completion, marker: str) -> dict[str, Any]:
    reasoning = completion.reasoning
    if not reasoning:
        before, found, _ = completion.content.rpartition(marker)
        reasoning = before if found else completion.content if answer.text is None else ""
    message: dict[str, Any] = {"content": answer.text, "reasoning_content": reasoning or None}
    if completion.tool_calls:
        message["tool_calls"] = [dict(call) for call in completion.tool_calls]
    return message
