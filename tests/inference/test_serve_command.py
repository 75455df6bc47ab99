"""``pacore-rl serve`` as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted_server import in_thread, numbered
from typer.testing import CliRunner

from pacore_rl.cli.app import app
from pacore_rl.inference.server.run import is_loopback

REPOSITORY = Path(__file__).parents[2]


def serve(*arguments: Any, **environment: str) -> Any:
    return CliRunner().invoke(app, ["serve", *map(str, arguments)], env=environment)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_a_public_address_without_a_key_is_refused(host: str) -> None:
    result = serve("--endpoint", "http://127.0.0.1:1/v1", "--host", host)
    assert result.exit_code == 2 and "no API key is set" in result.stderr and "PACORE_RL_API_KEYS" in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


def test_what_cannot_be_served_is_told_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none yet\n")
    (keys := tmp_path / "some").write_text("secret\n")
    with socket.socket() as taken, in_thread() as upstream:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = [
            (["--endpoint", "http://127.0.0.1:1/v1"], "cannot be reached"),
            (["--endpoint", upstream.url, "--model", "big"], "does not serve the model 'big'"),
            (["--endpoint", upstream.url, "--reserve-tokens", "9999"], "no prompt has room"),
            (["--endpoint", upstream.url, "--compaction", "best"], "is not known"),
            (["--endpoint", upstream.url, "--api-keys-file", empty], "holds no API key"),
            (["--endpoint", upstream.url, "--port", taken.getsockname()[1]], "Address already in use"),
            (
                ["--endpoint", upstream.url, "--host", "203.0.113.7", "--api-keys-file", keys],
                "--host 203.0.113.7 is no address of this machine",
            ),
        ]
        for arguments, message in cases:
            result = serve("--port", _free_port(), *arguments)
            assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr


def test_it_serves_on_loopback_and_ends_in_order() -> None:
    with in_thread(numbered) as upstream:
        port = _free_port()
        command = [sys.executable, "-m", "pacore_rl", "serve", "--endpoint", upstream.url, "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PACORE_RL_API_KEYS": "secret"}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _await(url)
            body = {"model": "pacore:2", "messages": [{"role": "user", "content": "2 + 2?"}]}
            assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
            answered = httpx.post(
                f"{url}/v1/chat/completions", json=body, headers={"authorization": "Bearer secret"}, timeout=30
            )
            assert answered.json()["choices"][0]["message"]["content"] == "2"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None and "Serving tiny (window of 4,096 tokens)" in process.stderr.read()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not start")
