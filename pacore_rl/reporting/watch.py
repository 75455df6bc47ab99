"""The report of a run that is under way, served to this machine only.

    GET /            the page, which asks for the rest
    GET /data.json   the run's data; 304 while its files are as they were

It listens on loopback and answers requests to a loopback name only, so that neither another machine nor a web page
under another name (DNS rebinding) can read a run. From elsewhere: ``ssh -L PORT:127.0.0.1:PORT HOST``.
"""

from __future__ import annotations

import hashlib
import html
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from pacore_rl.events import EVENTS
from pacore_rl.reporting.run_data import gather, is_run
from pacore_rl.reporting.run_report import live_security_policy, render
from pacore_rl.reporting.sample_file import SAMPLES

LOOPBACK = "127.0.0.1"
_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_STILL = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_WAITING = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{name}</title><body style="font: 1rem system-ui; margin: 3rem auto; max-width: 40rem; padding: 0 1rem">
<h1>{name}</h1><p>{reason}</p><p>This page looks again every 5 seconds.</p>"""


def watching(folder: Path) -> Starlette:
    """The application that serves the run in ``folder``."""

    def page(_: Request) -> Response:
        try:
            text = render(gather(folder), live=True)
        except ValueError as error:  # no step yet, or a damaged file: the page says so and looks again
            text = _WAITING.format(name=html.escape(folder.resolve().name), reason=html.escape(str(error)))
            return HTMLResponse(text, headers=_HEADERS | _STILL)
        return HTMLResponse(text, headers=_HEADERS | {"Content-Security-Policy": live_security_policy()})

    def data(request: Request) -> Response:
        headers = _HEADERS | {"ETag": version(folder)}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        try:
            return Response(gather(folder).to_json(), media_type="application/json", headers=headers)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=503, headers=_HEADERS)

    return Starlette(
        routes=[Route("/", page), Route("/data.json", data)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", LOOPBACK])],
    )


def version(folder: Path) -> str:
    """An entity tag that changes with the run's files."""
    marks = [
        (name, (folder / name).stat().st_mtime_ns, (folder / name).stat().st_size)
        for name in ("metrics.jsonl", SAMPLES, EVENTS, "recipe.yaml")
        if (folder / name).is_file()
    ]
    return f'"{hashlib.blake2b(repr(marks).encode(), digest_size=12).hexdigest()}"'


def open_port(port: int) -> socket.socket:
    """A listening socket on loopback; 0 takes a free port.

    Raises:
        ValueError: the port is taken.
    """
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise ValueError(
            f"--port {port} cannot be opened on {LOOPBACK} ({error.strerror}); another program has it. Give another "
            "one, or --port 0 for any that is free."
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a folder that no run writes into.

    Raises:
        ValueError: the folder holds no run.
    """
    if not folder.is_dir() or not (is_run(folder) or (folder / "recipe.yaml").is_file()):
        raise ValueError(
            f"{folder} is not the folder of a run (it holds neither metrics.jsonl nor recipe.yaml); give the folder "
            "that `pacore-rl train` writes into, run.output_dir/run.name."
        )


def serve(folder: Path, listener: socket.socket) -> None:
    """Serve the run until interrupted."""
    settings = uvicorn.Config(watching(folder), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(settings).run(sockets=[listener])
