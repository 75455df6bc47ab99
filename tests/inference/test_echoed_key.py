"""An endpoint that sends back the key it was sent: no message, answer file or output of ours holds it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted_server import QUICK, Script, ScriptedServer, in_thread
from served import ASK, serving
from typer.testing import CliRunner

from pacore_rl.api_keys import without_key
from pacore_rl.cli.app import app
from pacore_rl.inference.client import Client, request_body, with_seed
from pacore_rl.inference.connect import EndpointError, find_model
from pacore_rl.inference.settings import Endpoint

KEY = "sk-planted-4f0a1b2c3d4e5f60"
BODY = with_seed(request_body("tiny", ASK, {}), 5)

ECHOES: dict[str, Callable[[str], Script]] = {
    "401": lambda sent: Script(status=401, error=f"who is {sent}?"),
    "400": lambda sent: Script(status=400, error={"detail": {"authorization": sent}}),
    "400, cut within the key": lambda sent: Script(status=400, error="x" * 480 + sent),
    "500": lambda sent: Script(status=500, error=sent),
    "an error event": lambda sent: Script(raw_events=(json.dumps({"error": {"message": sent}}),)),
    "no JSON": lambda sent: Script(raw_events=(sent,)),
    "no chunk, cut within the key": lambda sent: Script(raw_events=(json.dumps(["x" * 55, sent]),)),
    "a finish": lambda sent: Script(finish=sent),
}


def echo(server: ScriptedServer, name: str) -> Callable[[dict[str, Any], int], Script]:
    def answer(request: dict[str, Any], number: int) -> Script:
        sent = server.headers[number]["authorization"]
        assert sent == f"Bearer {KEY}"
        return ECHOES[name](sent)

    return answer


@pytest.mark.parametrize("name", ECHOES)
async def test_a_failures_message_masks_the_key(server: ScriptedServer, name: str) -> None:
    server.answer = echo(server, name)
    async with Client([Endpoint.of(server.url, api_key=KEY)], replace(QUICK, max_retries=1)) as client:
        failure = (await client.complete(BODY, replica=client.route())).failure
    assert failure is not None and KEY[:8] not in failure.message and "Bearer ***" in failure.message


async def test_a_key_that_no_header_can_hold_is_masked(server: ScriptedServer) -> None:
    async with Client([Endpoint.of(server.url, api_key=f"{KEY}\n")], replace(QUICK, max_retries=0)) as client:
        failure = (await client.complete(BODY, replica=client.route())).failure
        with pytest.raises(EndpointError, match=r"Bearer \*\*\*") as refused:
            await find_model(client, None, options={})
    assert failure is not None and "Bearer ***" in failure.message
    assert KEY not in f"{failure} {refused.value}"


async def test_a_list_of_models_that_is_none_is_told_without_the_key(server: ScriptedServer) -> None:
    async with Client([Endpoint.of(server.url, api_key=KEY)], QUICK) as client:
        server.models = f"Bearer {KEY}"  # type: ignore[assignment]
        with pytest.raises(EndpointError, match=r"Bearer \*\*\*") as refused:
            await find_model(client, None, options={})
        server.models = [{"id": f"Bearer {KEY}"}]
        with pytest.raises(EndpointError, match=r"serves \['Bearer \*\*\*'\]") as other:
            await find_model(client, "tiny", options={})
    assert KEY[:8] not in f"{refused.value} {other.value} {client.replicas[0].endpoint}"


@pytest.mark.parametrize("name", ["401", "400"])
def test_infer_writes_and_says_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    source = tmp_path / "q.jsonl"
    source.write_text('{"id": "p0", "prompt": "2 + 2?"}\n')
    with in_thread() as server:
        server.answer = echo(server, name)
        command = ["infer", str(source), "--endpoint", server.url, "--level", "2", "-o", str(tmp_path / "a.jsonl")]
        result = CliRunner().invoke(app, command)
    assert len(server.requests) == 3
    written = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    told = {**written, "output": result.output, "stderr": result.stderr, "log": caplog.text}
    assert [place for place, text in told.items() if KEY in text] == []
    place = "stderr" if name == "401" else "a.jsonl"
    assert "Bearer ***" in " ".join(told[place].split()), "the message is told where this test looks"


@pytest.mark.parametrize("name", ["401", "400"])
async def test_serve_hands_no_key_on(server: ScriptedServer, caplog: pytest.LogCaptureFixture, name: str) -> None:
    server.answer = echo(server, name)
    async with serving(server, endpoint_key=KEY) as api, httpx.AsyncClient() as http:
        for stream in (False, True):
            body = {"model": "pacore:1", "messages": ASK, "stream": stream}
            response = await http.post(f"{api.url}/v1/chat/completions", json=body)
            assert KEY not in response.text and "Bearer ***" in response.text
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("Bearer 0123456789, 0123456789", "0123456789", "Bearer ***, ***"),
        ("cut: 01234567", "0123456789", "cut: ***"),
        ("b'0123456789\\n' is illegal", "0123456789\n", "b'***\\n' is illegal"),
        ("0123456", "0123456789", "0123456"),
        ("s3 is short", "s3", "*** is short"),
        ("no key", "", "no key"),
        ("no key", None, "no key"),
    ],
)
def test_masking(text: str, key: str | None, told: str) -> None:
    assert without_key(text, key) == told
