"""Options of the commands that call endpoints, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pacore_rl.inference.settings import ClientSettings, Endpoint
    from pacore_rl.synthesis.plan import Stragglers

Endpoints = Annotated[
    list[str],
    typer.Option("--endpoint", help="An OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; repeat for more."),
]
ModelName = Annotated[
    str | None, typer.Option(help="Name of the model at the endpoint.", show_default="the only one it serves")
]
Compaction = Annotated[
    str,
    typer.Option(help="What the next round reads: after_reasoning, or none (all of it, for models without reasoning)."),
]
KeyVariable = Annotated[str, typer.Option(help="Environment variable that holds the endpoint's API key.")]
ReserveTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Room a prompt leaves for the answer; whole messages are dropped for it.",
        show_default="--max-tokens, or a quarter of the window",
    ),
]
EndOfReasoning = Annotated[str, typer.Option(help="What closes the model's reasoning.")]
FirstTokenSeconds = Annotated[
    float, typer.Option(min=1, help="Wait for an answer to begin, the server's queue included.")
]
IdleSeconds = Annotated[float, typer.Option(min=1, help="Wait between two pieces of an answer.")]
MaxOpenCalls = Annotated[int, typer.Option(min=1, help="Calls open at a time, per endpoint.")]
Retries = Annotated[int, typer.Option(min=0, help="Times a call that broke is made again.")]
Quorum = Annotated[
    float | None, typer.Option(help="Go on with this share of a round once --deadline-seconds are over.")
]
DeadlineSeconds = Annotated[float, typer.Option(min=0, help="See --quorum.")]
WindowTokens = Annotated[int | None, typer.Option(min=2, help="Context window.", show_default="what the endpoint says")]


def connection(
    urls: Sequence[str],
    key_variable: str,
    *,
    first_token_seconds: float,
    idle_seconds: float,
    max_retries: int,
    max_open_calls: int,
) -> tuple[tuple[Endpoint, ...], ClientSettings]:
    """The endpoints, each with the key of the environment, and how they are called."""
    from pacore_rl.inference.settings import ClientSettings, Endpoint, key_from_environment

    key = key_from_environment(key_variable)
    client = ClientSettings(
        first_token_seconds=first_token_seconds,
        idle_seconds=idle_seconds,
        max_retries=max_retries,
        max_open_calls=max_open_calls,
    )
    return tuple(Endpoint.of(url, api_key=key) for url in urls), client


def stragglers(quorum: float | None, deadline_seconds: float) -> Stragglers | None:
    """What --quorum and --deadline-seconds ask for; None where every call is waited for."""
    from pacore_rl.synthesis.plan import Stragglers

    return None if quorum is None else Stragglers(quorum=quorum, deadline_seconds=deadline_seconds)
