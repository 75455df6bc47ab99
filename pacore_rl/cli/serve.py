"""``pacore-rl serve``: PaCoRe as a model behind an OpenAI-compatible API."""

from __future__ import annotations

import errno
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pacore_rl.cli.endpoint_options import (
    Compaction,
    DeadlineSeconds,
    EndOfReasoning,
    Endpoints,
    FirstTokenSeconds,
    IdleSeconds,
    KeyVariable,
    MaxOpenCalls,
    ModelName,
    Quorum,
    ReserveTokens,
    Retries,
    WindowTokens,
    connection,
    stragglers,
)
from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug

if TYPE_CHECKING:
    from pacore_rl.inference.answering import Model


def serve(
    endpoint: Endpoints,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond loopback it needs an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen at.")] = 8100,
    model: ModelName = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="Keys that callers must send, one a line; also PACORE_RL_API_KEYS=KEY,KEY.")
    ] = None,
    api_key_variable: KeyVariable = "OPENAI_API_KEY",
    temperature: Annotated[float, typer.Option(min=0, help="Where a request names none.")] = 1.0,
    quorum: Quorum = None,
    deadline_seconds: DeadlineSeconds = 0.0,
    compaction: Compaction = "after_reasoning",
    end_of_reasoning: EndOfReasoning = "</think>",
    reserve_tokens: ReserveTokens = None,
    window_tokens: WindowTokens = None,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests at a time; more are answered 429.")] = 256,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="Of each key.", show_default="no limit")
    ] = None,
    max_trajectories: Annotated[int, typer.Option(min=1, help="Of one request, all rounds.")] = 256,
    max_body_bytes: Annotated[int, typer.Option(min=1_024, help="Of one request.")] = 8 * 1024**2,
    max_total_tokens: Annotated[
        int | None, typer.Option(min=1, help="Generated tokens of one request.", show_default="no limit")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.1, help="Of one request.", show_default="no limit")] = None,
    max_open_calls: MaxOpenCalls = 512,
    first_token_seconds: FirstTokenSeconds = 1_800.0,
    idle_seconds: IdleSeconds = 300.0,
    retries: Retries = 5,
    grace_seconds: Annotated[int, typer.Option(min=0, help="For requests under way when it is stopped.")] = 30,
    debug: Debug = False,
) -> None:
    """Offer a served model as pacore-low, pacore-medium, pacore-high and pacore:K, over the OpenAI API.

    Any OpenAI client works, with base_url=http://127.0.0.1:8100/v1.

    Example: [cyan]pacore-rl serve --endpoint http://127.0.0.1:8000/v1[/]

    Next: [cyan]curl http://127.0.0.1:8100/v1/models[/]  More: docs/inference.md
    """
    with guard(debug=debug):
        _check_installed()
        from pacore_rl.inference.server import run
        from pacore_rl.inference.server.app import ServerOptions
        from pacore_rl.inference.server.chat import ServedModel
        from pacore_rl.inference.server.limits import Limits
        from pacore_rl.synthesis.compaction import check_compaction

        check_compaction(compaction)
        policy = stragglers(quorum, deadline_seconds)
        host = host.strip("[]")  # an IPv6 address as URLs write it
        keys = run.read_keys(api_keys_file)
        run.check_address(host, keys)
        _check_port(host, port)
        endpoints, client = connection(
            endpoint,
            api_key_variable,
            first_token_seconds=first_token_seconds,
            idle_seconds=idle_seconds,
            max_retries=retries,
            max_open_calls=max_open_calls,
        )
        sampling: dict[str, Any] = {"temperature": temperature}
        found = run.find(
            endpoints, client, model, options=sampling, reserve_tokens=reserve_tokens, window_tokens=window_tokens
        )
        options = ServerOptions(
            endpoints=endpoints,
            client=client,
            served=ServedModel(
                model=found,
                compaction=compaction,
                end_of_reasoning=end_of_reasoning,
                stragglers=policy,
            ),
            keys=keys,
            limits=Limits(
                max_requests=max_requests,
                requests_per_minute=requests_per_minute,
                max_trajectories=max_trajectories,
                max_body_bytes=max_body_bytes,
                max_total_tokens=max_total_tokens,
                max_seconds=max_seconds,
            ),
        )
        _say_address(found, host, port)
        run.serve(options, host=host, port=port, grace_seconds=grace_seconds)


def _say_address(found: Model, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    window = "of unknown size" if found.window_tokens is None else f"of {found.window_tokens:,} tokens"
    Console(stderr=True).print(
        f"Serving {found.name} (window {window}) at http://{shown}:{port}/v1 as pacore-low, pacore-medium, "
        f"pacore-high and pacore:K. Ctrl-C stops.",
        highlight=False,
        soft_wrap=True,
    )


def _check_installed() -> None:
    missing = [name for name in ("fastapi", "prometheus_client", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ValueError(f"serving needs {', '.join(missing)}; install them with `pip install 'pacore-rl[serve]'`.")


def _check_port(host: str, port: int) -> None:
    """Raise the OSError of binding before anything else is started, and ValueError where no such host is here."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ValueError(
                    f"--host {host} is no address of this machine ({error.strerror}); give one that is, such as "
                    "127.0.0.1, which this machine alone can reach."
                ) from error
            raise
