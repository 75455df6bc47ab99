"""A request on its way to an answer: its level, its plan, its budget."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pacore_rl.inference.answering import Answered, Answerer, Budget, Model, Observer
from pacore_rl.inference.server.errors import ApiError
from pacore_rl.inference.server.limits import Limits
from pacore_rl.inference.server.schemas import ChatRequest
from pacore_rl.synthesis.levels import LEVELS, parse_configuration
from pacore_rl.synthesis.plan import RoundsPlan, Stragglers

MODEL_IDS = tuple(f"pacore-{level}" for level in LEVELS)


def configuration_of(model: str) -> tuple[int, ...]:
    """Of ``pacore-high`` or ``pacore:32,4``. Raises ApiError 404."""
    try:
        if model in MODEL_IDS:
            return LEVELS[model.removeprefix("pacore-")]
        if model.startswith("pacore:"):
            return parse_configuration(model.removeprefix("pacore:"))
    except ValueError as error:
        raise ApiError(404, f"{error}", code="model_not_found", param="model") from None
    raise ApiError(
        404,
        f"there is no such model; choose {', '.join(MODEL_IDS)}, or pacore:K with the samples of each round, "
        "such as pacore:32,4.",
        code="model_not_found",
        param="model",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The model behind the server, and what its requests are answered with."""

    model: Model
    compaction: str
    end_of_reasoning: str
    stragglers: Stragglers | None = None
    """When a round before the closing one goes on without its slowest calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One request, checked. Build with :func:`prepare`."""

    answerer: Answerer
    plan: RoundsPlan
    budget: Budget
    messages: tuple[Mapping[str, Any], ...]
    closing_options: Mapping[str, Any]
    streams: bool

    async def answer(self, observer: Observer) -> Answered:
        return await self.answerer.answer(
            "request",
            self.messages,
            self.plan,
            observer=observer,
            budget=self.budget,
            closing_options=self.closing_options,
            streams=self.streams,
        )

    @property
    def is_split(self) -> bool:
        """Whether the closing text has reasoning in it that must be parted from the answer."""
        return self.plan.compactions[-1] == "after_reasoning"


def prepare(request: ChatRequest, served: ServedModel, limits: Limits, answerer: Answerer) -> Chat:
    """Raises ApiError for an unknown model, too many trajectories, and a ``max_tokens`` that leaves no room."""
    num_answers = request.n or 1
    plan = RoundsPlan.of(
        configuration_of(request.model),
        compaction=request.pacore.compaction or served.compaction,
        end_of_reasoning=served.end_of_reasoning,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        num_answers=num_answers,
        stragglers=served.stragglers,
    )
    num_trajectories = sum(plan.configuration) + num_answers
    if num_trajectories > limits.max_trajectories:
        raise ApiError(
            400,
            f"{num_trajectories} trajectories were asked for, and this server makes at most {limits.max_trajectories} "
            "for a request; choose a lower level or a lower n.",
            code="too_many_trajectories",
            param="model",
        )
    options = {**served.model.options, **request.sampling()}
    model = replace(served.model, options=options, reserve_tokens=_reserve(served.model, options.get("max_tokens")))
    return Chat(
        answerer=replace_model(answerer, model),
        plan=plan,
        budget=Budget(
            total_tokens=_least(request.pacore.max_total_tokens, limits.max_total_tokens),
            total_seconds=_least(request.pacore.max_seconds, limits.max_seconds),
        ),
        messages=tuple(request.wire_messages()),
        closing_options=request.closing(),
        streams=bool(request.stream),
    )


def replace_model(answerer: Answerer, model: Model) -> Answerer:
    """The answerer with other sampling options, over the same client and with the same counts."""
    other = Answerer(answerer.client, model)
    other.counter = answerer.counter
    return other


def _reserve(model: Model, max_tokens: int | None) -> int:
    """As much as the answer may take."""
    if max_tokens is None:
        return model.reserve_tokens
    if model.window_tokens is not None and max_tokens >= model.window_tokens:
        raise ApiError(
            400,
            f"max_tokens={max_tokens} leaves no room for a prompt in the window of {model.window_tokens} tokens; "
            "lower it.",
            code="context_length_exceeded",
            param="max_tokens",
        )
    return max_tokens


def _least(first: Any, second: Any) -> Any:
    given = [value for value in (first, second) if value is not None]
    return min(given, default=None)
