"""The server, driven by the official client, over an endpoint that does as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import openai
import pytest
from scripted_server import Script, ScriptedServer, until
from served import ASK, Served, create, scripted, serving

from pacore_rl.synthesis.plan import Stragglers
from pacore_rl.synthesis.prompt import render_synthesis_prompt

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
]


async def test_a_completion_has_the_answer_and_every_rounds_tokens(server: ScriptedServer, api: Served) -> None:
    completion = await create(api)
    (choice,) = completion.choices
    assert (choice.message.content, choice.message.reasoning_content, choice.finish_reason) == (
        "4",
        "<think>so",
        "stop",
    )
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 20, 50)
    assert usage.pacore["ttc_tokens"] == 5 * 20
    assert [(r["num_samples"], r["generated_tokens"]) for r in usage.pacore["rounds"]] == [(4, 80), (1, 20)]
    assert completion.model == "pacore-low" and len(server.requests) == 5
    assert set(server.requests[0]["messages"][0]["content"]) == set("2 + 2?")


async def test_any_configuration_is_a_model(server: ScriptedServer, api: Served) -> None:
    completion = await create(api, model="pacore:3,2", extra_body={"pacore": {"include_messages": True}})
    rounds = completion.usage.pacore["rounds"]
    assert [entry["num_samples"] for entry in rounds] == [3, 2, 1]
    assert sorted(rounds[1]["messages"]) == ["0", "1", "2"]
    assert server.requests[5]["messages"][0]["content"] == render_synthesis_prompt("2 + 2?", rounds[2]["messages"])


async def test_a_stream_is_the_closing_round_as_it_is_written(server: ScriptedServer, api: Served) -> None:
    server.answer = lambda request, number: Script(
        content="so</think>\n\nThe answer is 4", piece_seconds=0.02 if number == 4 else 0
    )
    stream = await create(api, stream=True, stream_options={"include_usage": True})
    content, reasoning, times, finish, usage = "", "", [], None, None
    async for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
            if choice.delta.content:
                times.append(time.monotonic())
        usage = chunk.usage or usage
    assert usage is not None
    assert (content, reasoning, finish) == ("The answer is 4", "so", "stop")
    assert len(times) >= 4 and times[-1] - times[0] > 0.04  # it came in pieces, not at once
    assert usage.pacore["rounds"][0]["num_samples"] == 4


async def test_reasoning_that_the_endpoint_sets_apart_is_streamed_as_reasoning(
    server: ScriptedServer, api: Served
) -> None:
    server.answer = lambda request, number: Script(reasoning="because", content="four")
    content, reasoning = "", ""
    async for chunk in await create(api, stream=True):
        content += chunk.choices[0].delta.content or ""
        reasoning += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert (content, reasoning) == ("four", "because")


async def test_before_the_closing_round_progress_keeps_the_connection_alive(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=0.4)
    async with serving(server, keep_alive_seconds=0.1) as api, httpx.AsyncClient() as http:
        body = {"model": "pacore-low", "messages": ASK, "stream": True}
        async with http.stream("POST", f"{api.url}/v1/chat/completions", json=body) as response:
            lines = [line async for line in response.aiter_lines() if line]
    progress = [json.loads(line.removeprefix(": pacore ")) for line in lines if line.startswith(": pacore ")]
    assert len(progress) >= 6
    assert progress[0] == {"round": 0, "num_samples": 4, "num_ended": 0, "generated_tokens": 0, "is_final": False}
    assert {"round": 1, "is_final": True}.items() <= progress[-1].items()
    assert lines[-1] == "data: [DONE]"


async def test_n_choices_share_the_rounds_before(server: ScriptedServer, api: Served) -> None:
    completion = await create(api, n=2)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert sorted(choice.message.content for choice in completion.choices) == ["4", "5"]
    assert len(server.requests) == 6 and completion.usage.completion_tokens == 40
    texts: dict[int, str] = {}
    async for chunk in await create(api, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert sorted(texts) == [0, 1] and all(text.isdigit() for text in texts.values())


async def test_tools_are_offered_to_the_closing_round_alone(server: ScriptedServer, api: Served) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}

    def calls(request: Mapping[str, Any], number: int) -> Script:
        return Script(content=None, tool_call=call, finish="tool_calls") if "tools" in request else Script()

    server.answer = calls
    choice = (await create(api, tools=TOOLS, tool_choice="auto")).choices[0]
    assert [("tools" in request) for request in server.requests] == [False] * 4 + [True]
    assert server.requests[4]["tools"] == TOOLS and server.requests[4]["tool_choice"] == "auto"
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.tool_calls[0].function.arguments == '{"a": 1}'
    deltas = [chunk.choices[0].delta async for chunk in await create(api, tools=TOOLS, stream=True) if chunk.choices]
    assert [delta.tool_calls[0].function.name for delta in deltas if delta.tool_calls] == ["look"]


async def test_sampling_options_reach_the_endpoint(server: ScriptedServer, api: Served) -> None:
    form = {"choice": ["yes", "no"]}
    own = {"top_k": 5, "structured_outputs": form}
    more = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 77, "stop": ["END"], "extra_body": own}
    await create(api, seed=11, **more)
    first, final = server.requests[0], server.requests[-1]
    for request in (first, final):
        assert (request["temperature"], request["top_p"], request["max_tokens"], request["top_k"]) == (0.5, 0.9, 77, 5)
        assert "pacore" not in request and "n" not in request and request["model"] == "tiny"
    assert "stop" not in first and final["stop"] == ["END"]
    assert "structured_outputs" not in first and final["structured_outputs"] == form
    seeds = sorted(request["seed"] for request in server.requests)
    server.requests.clear()
    await create(api, seed=11, **more)
    assert sorted(request["seed"] for request in server.requests) == seeds
    server.requests.clear()
    await create(api, **more)
    assert sorted(request["seed"] for request in server.requests) != seeds


async def test_the_budget_of_tokens_holds(server: ScriptedServer, api: Served) -> None:
    def spend(request: Mapping[str, Any], number: int) -> Script:
        usage = {"prompt_tokens": 10, "completion_tokens": request["max_tokens"]}
        return Script(content="</think>4", usage=usage, finish="length")

    server.answer = spend
    completion = await create(api, extra_body={"pacore": {"max_total_tokens": 100}})
    assert completion.usage.pacore["ttc_tokens"] == 100
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].pacore == {"outcome": "truncated"}


async def test_the_slowest_messages_are_left_where_a_quorum_is_enough(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=30) if number == 0 else scripted(request, number)
    policy = Stragglers(quorum=0.75, deadline_seconds=0.2)
    async with serving(server, stragglers=policy) as api:
        completion = await create(api)
    assert completion.choices[0].message.content == "4"
    assert completion.usage.pacore["rounds"][0]["finishes"].count("unfinished") == 1


async def test_the_budget_of_time_holds(server: ScriptedServer, api: Served) -> None:
    server.answer = lambda request, number: Script(delay_seconds=30) if number == 0 else scripted(request, number)
    started = time.monotonic()
    completion = await create(api, extra_body={"pacore": {"max_seconds": 1.6}})
    assert 0.8 <= time.monotonic() - started < 1.6  # the first round's half; the closing one needs little of its own
    assert completion.usage.pacore["rounds"][0]["finishes"].count("unfinished") == 1
    assert completion.choices[0].message.content == "4"
    assert completion.choices[0].pacore["outcome"] == "answered"


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_a_request_stops_its_calls(server: ScriptedServer, api: Served, stream: bool) -> None:
    server.answer = lambda request, number: Script(delay_seconds=30)
    body = {"model": "pacore-medium", "messages": ASK, "stream": stream}
    async with httpx.AsyncClient() as http:
        asking = asyncio.create_task(http.post(f"{api.url}/v1/chat/completions", json=body))
        await until(lambda: server.num_open == 16)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: server.num_open == 0, seconds=1.0)
    await until(lambda: api.server.gate.num_in_flight == 0, seconds=1.0)
    assert server.num_left == 16
    assert 'pacore_requests_total{outcome="cancelled"} 1.0' in api.server.metrics.text().decode()


FAILURES = [
    (Script(status=500, error="oom"), 502, "endpoint_server_error"),
    (Script(status=429, error="busy"), 503, "endpoint_busy"),
    (Script(status=400, error="maximum context length is 512"), 400, "context_length_exceeded"),
    (Script(status=400, error="bad stop"), 400, "refused_by_endpoint"),
    (Script(status=401, error="key"), 502, "endpoint_unauthorized"),
    (Script(drop_after=2), 502, "endpoint_cut"),
]


@pytest.mark.parametrize(("script", "status", "code"), FAILURES)
async def test_a_failure_is_an_error_and_never_an_empty_answer(
    server: ScriptedServer, api: Served, script: Script, status: int, code: str
) -> None:
    server.answer = lambda request, number: script
    with pytest.raises(openai.APIStatusError) as raised:
        await create(api, model="pacore:1")
    assert (raised.value.status_code, raised.value.code) == (status, code)
    with pytest.raises(openai.APIError) as streamed:
        async for _ in await create(api, model="pacore:1", stream=True):
            pass
    assert streamed.value.code == code


@pytest.mark.parametrize(
    ("script", "finish", "outcome", "reasoning"),
    [
        (Script(content="never closes"), "stop", "unclosed", "never closes"),
        (Script(content="never closes", finish="length"), "length", "truncated", "never closes"),
        (Script(reasoning="on and on", content=None, finish="length"), "length", "truncated", "on and on"),
        (Script(content=""), "stop", "empty", None),
        (Script(content=None), "stop", "empty", None),
    ],
)
async def test_without_a_conclusion_the_content_is_null_and_the_outcome_says_why(
    server: ScriptedServer, api: Served, script: Script, finish: str, outcome: str, reasoning: str | None
) -> None:
    server.answer = lambda request, number: script
    (choice,) = (await create(api)).choices
    assert choice.message.content is None and choice.message.reasoning_content == reasoning
    assert (choice.finish_reason, choice.pacore["outcome"]) == (finish, outcome)


async def test_models_are_listed(api: Served) -> None:
    assert [model.id async for model in api.openai.models.list()] == ["pacore-low", "pacore-medium", "pacore-high"]
    assert (await api.openai.models.retrieve("pacore:8,2")).id == "pacore:8,2"
    with pytest.raises(openai.NotFoundError):
        await api.openai.models.retrieve("gpt")


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt-9"}, 404, "choose pacore-low"),
    ({"model": "pacore:0"}, 404, "every round takes 1 to 1,024"),
    ({"model": "pacore:-1"}, 404, "every round takes 1 to 1,024"),
    ({"model": "pacore:10000"}, 404, "every round takes 1 to 1,024"),
    ({"model": "pacore:500"}, 400, "at most 256"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, 400, "no user turn"),
    ({"n": 0}, 400, "n: "),
    ({"n": 1000}, 400, "n: "),
    ({"temperature": -1}, 400, "temperature"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 5000}, 400, "leaves no room"),
    ({"logprobs": True}, 400, "logprobs cannot be had"),
    ({"extra_body": {"pacore": {"max_seconds": -1}}}, 400, "max_seconds"),
    ({"extra_body": {"pacore": {"level": "high"}}}, 400, "level"),
    ({"extra_body": {"pacore": {"compaction": "best"}}}, 400, "after_reasoning"),
]


@pytest.mark.parametrize(("fields", "status", "message"), BAD)
async def test_a_bad_request_is_told_what_to_change(
    server: ScriptedServer, api: Served, fields: dict[str, Any], status: int, message: str
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        await create(api, **fields)
    assert raised.value.status_code == status and message in raised.value.message
    assert not server.requests


async def test_what_is_no_request_gives_no_5xx(api: Served) -> None:
    deep = b'{"model":"pacore-low","messages":[{"role":"user","content":"a","x":' + b"[" * 300 + b"]" * 300 + b"}]}"
    deeper = b"[" * 100_000
    bodies = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        deep,
        deeper,
        b'{"model":1e999}',
        b'{"seed":' + b"9" * 5000 + b"}",
    ]
    bodies.append(b'{"model":"pacore-low","messages":[{"role":"user","content":"\\ud800"}],"temperature":NaN}')
    bodies.append(b'{"model":"pacore-low","messages":[{"role":"user","content":"a","x":NaN}]}')
    async with httpx.AsyncClient() as http:
        for body in bodies:
            for kind in ("application/json", "text/plain"):
                headers = {"content-type": kind, "authorization": "Bearer \xff".encode("latin-1").decode("latin-1")}
                response = await http.post(
                    f"{api.url}/v1/chat/completions",
                    content=body,
                    headers={name: value.encode("latin-1") for name, value in headers.items()},  # type: ignore[arg-type]
                )
                assert response.status_code == 400, (body[:40], response.text)
                assert response.json()["error"]["message"]
        assert (await http.get(f"{api.url}/v1/chat/completions")).status_code == 405
        assert (await http.get(f"{api.url}/nothing")).json()["error"]["type"] == "not_found_error"


async def test_half_a_surrogate_pair_passes_through(server: ScriptedServer, api: Served) -> None:
    body = b'{"model":"pacore:1","messages":[{"role":"user","content":"\\ud800"}]}'
    async with httpx.AsyncClient() as http:
        response = await http.post(
            f"{api.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code == 200 and server.requests[0]["messages"][0]["content"] == "\ud800"
