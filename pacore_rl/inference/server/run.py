"""Listens, and stops in order: new requests are refused, those under way may end."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from pacore_rl.inference.answering import Model
from pacore_rl.inference.client import Client
from pacore_rl.inference.connect import find_model
from pacore_rl.inference.server.app import ServerOptions, make_app
from pacore_rl.inference.settings import ClientSettings, Endpoint

KEYS_VARIABLE = "PACORE_RL_API_KEYS"
GRACE_SECONDS = 30
TELLING_SECONDS = 5
"""For what outlasts the grace to hear that the server stops; whoever does not read is cut off after it."""


def check_address(host: str, keys: tuple[str, ...]) -> None:
    """Raise ValueError where others than this machine could ask without a key."""
    if not is_loopback(host) and not keys:
        raise ValueError(
            f"--host {host} can be reached from other machines, and no API key is set: anyone could use the model. Set "
            f"{KEYS_VARIABLE}=KEY[,KEY...] or give --api-keys-file, or bind to 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_keys(file: Path | None) -> tuple[str, ...]:
    """API keys of the environment, and of a file with one a line.

    Raises ValueError for a file without a key, and FileNotFoundError for none at all.
    """
    keys = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    if file is not None:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(f"{file} holds no API key; give one a line.")
        keys += found
    return tuple(dict.fromkeys(keys))


def find(endpoints: tuple[Endpoint, ...], settings: ClientSettings, name: str | None, **limits: Any) -> Model:
    """The endpoints' model. Raises EndpointError as ``connect.find_model`` does."""

    async def ask() -> Model:
        async with Client(endpoints, settings) as client:
            return await find_model(client, name, **limits)

    return asyncio.run(ask())


def serve(options: ServerOptions, *, host: str, port: int, grace_seconds: int = GRACE_SECONDS) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way then has ``grace_seconds``."""
    check_address(host, options.keys)
    server = HttpServer(make_app(options), host=host, port=port, grace_seconds=grace_seconds)
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn stops in order, and then raises what had stopped it
        if not server.started:
            raise


class HttpServer(uvicorn.Server):
    """Ends in order: what is under way may end within ``grace_seconds``, and is told so where it does not."""

    def __init__(self, app: FastAPI, *, host: str, port: int, grace_seconds: int) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=grace_seconds + TELLING_SECONDS,
        )
        super().__init__(config)
        self._app = app
        self._grace_seconds = grace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ends = asyncio.get_running_loop().call_later(self._grace_seconds, self._app.state.server.stopped.set)
        await super().shutdown(sockets)
        ends.cancel()
