"""The client against a server that does as it is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from scripted_server import QUICK, Script, ScriptedServer, until

from pacore_rl.inference.client import CallState, Client, request_body, with_seed
from pacore_rl.inference.completion import Completion, Delta, TokenLimits
from pacore_rl.inference.settings import Endpoint

BODY = with_seed(request_body("tiny", [{"role": "user", "content": "2 + 2?"}], {"temperature": 1.0}), 5)


async def complete(client: Client, **more: Any) -> Completion:
    return await client.complete(BODY, replica=client.route(), **more)


async def test_a_completion_has_its_text_its_finish_and_its_usage(server: ScriptedServer, client: Client) -> None:
    completion = await complete(client)
    assert (completion.content, completion.reasoning, completion.finish) == ("thinking</think>42", "", "stopped")
    usage = completion.usage
    assert usage.is_estimated  # five tokens cannot be six pieces
    server.answer = lambda request, number: Script(usage={**Script().usage, "completion_tokens": 9})
    usage = (await complete(client)).usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens, usage.is_estimated) == (7, 4, 9, False)
    request = server.requests[0]
    assert request["seed"] == 5 and request["stream"] and request["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_that_is_set_apart_is_read_under_both_names(
    server: ScriptedServer, client: Client, name: str
) -> None:
    server.answer = lambda request, number: Script(reasoning="because", reasoning_field=name, content="42")
    completion = await complete(client)
    assert (completion.reasoning, completion.content) == ("because", "42")
    assert completion.as_reply("</think>").text == "because</think>42"


async def test_reasoning_that_never_closes_has_no_conclusion(server: ScriptedServer, client: Client) -> None:
    server.answer = lambda request, number: Script(reasoning="on and on", content=None, finish="length")
    reply = (await complete(client)).as_reply("</think>")
    assert (reply.text, reply.finish) == ("on and on", "truncated")


@pytest.mark.parametrize("content", ["", None])
async def test_blank_and_null_content_are_empty_and_not_asked_again(
    server: ScriptedServer, client: Client, content: str | None
) -> None:
    server.answer = lambda request, number: Script(content=content)
    completion = await complete(client)
    assert (completion.finish, completion.failure, len(server.requests)) == ("empty", None, 1)


FAULTS = {
    "429": (Script(status=429), "busy"),
    "500": (Script(status=500), "server_error"),
    "503": (Script(status=503), "busy"),
    "dropped mid-stream": (Script(drop_after=3), "cut"),
    "ended mid-stream": (Script(end_after=3), "cut"),
    "no finish": (Script(finish=None), "cut"),
    "never answers": (Script(delay_seconds=float("inf")), "timeout"),
    "stops answering": (Script(piece_seconds=0.7), "timeout"),
    "an error event": (Script(raw_events=('{"error": {"message": "out of memory"}}',)), "server_error"),
    "no JSON": (Script(raw_events=("<html>",)), "unreadable"),
    "no chunk": (Script(raw_events=("[1]",)), "unreadable"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_may_pass_is_tried_again(server: ScriptedServer, client: Client, fault: str) -> None:
    script, kind = FAULTS[fault]
    server.answer = lambda request, number: script if number == 0 else Script()
    completion = await complete(client)
    assert (completion.finish, completion.content, completion.num_attempts) == ("stopped", "thinking</think>42", 2)
    assert client.counters.failures == {kind: 1}
    assert server.requests[0] == server.requests[1]  # seed and all
    assert completion.usage.wasted_tokens == (2 if "mid-stream" in fault else 6 if fault == "no finish" else 0)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_stays_is_a_typed_failure(server: ScriptedServer, client: Client, fault: str) -> None:
    script, kind = FAULTS[fault]
    server.answer = lambda request, number: script
    async with Client([Endpoint.of(server.url)], replace(QUICK, max_retries=1, first_token_seconds=0.3)) as hasty:
        completion = await complete(hasty)
    assert completion.finish == "failed" and completion.failure is not None
    assert (completion.failure.kind, len(server.requests)) == (kind, 2)


@pytest.mark.parametrize(
    ("script", "finish", "kind"),
    [
        (Script(status=400, error="This model's maximum context length is 512 tokens."), "overflow", "overflow"),
        (Script(status=400, error="temperature must be positive"), "failed", "refused"),
        (Script(status=401, error="no key"), "failed", "unauthorized"),
        (Script(status=404, error="no such model"), "failed", "refused"),
    ],
)
async def test_what_asking_again_cannot_help_is_asked_once(
    server: ScriptedServer, client: Client, script: Script, finish: str, kind: str
) -> None:
    server.answer = lambda request, number: script
    completion = await complete(client)
    assert completion.failure is not None
    assert (completion.finish, completion.failure.kind, len(server.requests)) == (finish, kind, 1)
    assert str(script.error) in completion.failure.message


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "12",
        {"prompt_tokens": -1, "completion_tokens": 9},
        {"prompt_tokens": 7, "completion_tokens": "9"},
        {"prompt_tokens": 7, "completion_tokens": 0},
        {"prompt_tokens": 7, "completion_tokens": True},
    ],
)
async def test_a_usage_that_cannot_be_is_estimated_from_the_pieces(
    server: ScriptedServer, client: Client, usage: Any
) -> None:
    server.answer = lambda request, number: Script(usage=usage)
    counted = (await complete(client)).usage
    assert (counted.generated_tokens, counted.is_estimated) == (6, True)


@pytest.mark.parametrize(
    ("limits", "prompt", "generated", "is_believed"),
    [
        (TokenLimits(max_tokens=50), 7, 50, True),
        (TokenLimits(max_tokens=50), 7, 51, False),
        (TokenLimits(max_tokens=50, window_tokens=4096), 7, 51, False),
        (TokenLimits(max_tokens=10**12, window_tokens=4096), 7, 10**9, False),
        (TokenLimits(window_tokens=4096), 7, 4096, True),
        (TokenLimits(window_tokens=4096), 7, 4097, False),
        (TokenLimits(window_tokens=4096), 4097, 9, False),
        (TokenLimits(window_tokens=20), 7, 4 * 18, True),  # a window told too small: 18 characters may be so many
        (TokenLimits(window_tokens=20), 7, 4 * 18 + 1, False),
        (TokenLimits(), 7, 5_000, True),  # reasoning that is not shown
        (TokenLimits(), 7, 131_073, False),
        (TokenLimits(), 7, 10**9, False),
    ],
)
async def test_a_count_above_what_a_call_can_generate_is_not_believed(
    server: ScriptedServer, client: Client, limits: TokenLimits, prompt: int, generated: int, is_believed: bool
) -> None:
    server.answer = lambda request, number: Script(usage={"prompt_tokens": prompt, "completion_tokens": generated})
    usage = (await complete(client, state=CallState(limits=limits))).usage
    assert usage.generated_tokens == (generated if is_believed else 6)
    assert usage.is_estimated is not is_believed and usage.prompt_tokens == (7 if prompt == 7 else 0)


async def test_limits_hold_for_a_call_that_is_made_again(server: ScriptedServer, client: Client) -> None:
    wrong = {"prompt_tokens": 7, "completion_tokens": 51}
    server.answer = lambda request, number: Script(status=500) if number == 0 else Script(usage=wrong)
    completion = await complete(client, state=CallState(limits=TokenLimits(max_tokens=50)))
    assert completion.num_attempts == 2 and completion.usage.generated_tokens == 6


async def test_a_long_answer_is_not_cut_as_long_as_pieces_come(server: ScriptedServer, client: Client) -> None:
    server.answer = lambda request, number: Script(piece_seconds=0.15)  # 10 events, five times the idle limit
    started = time.monotonic()
    completion = await complete(client)
    assert completion.finish == "stopped" and completion.num_attempts == 1
    assert time.monotonic() - started > QUICK.first_token_seconds


async def test_a_retry_keeps_no_slot_while_it_waits(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(status=500) if number == 0 else Script()
    settings = replace(QUICK, max_open_calls=1, backoff_seconds=0.4, max_backoff_seconds=0.4)
    async with Client([Endpoint.of(server.url)], settings) as client:
        first = asyncio.create_task(complete(client))
        await until(lambda: len(server.requests) == 1 and not server.num_open)
        started = time.monotonic()
        await complete(client)
        assert time.monotonic() - started < 0.15
        assert (await first).num_attempts == 2


async def test_open_calls_are_bounded_and_connections_are_reused(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=0.02)
    async with Client([Endpoint.of(server.url)], replace(QUICK, max_open_calls=8)) as client:
        await asyncio.gather(*(complete(client) for _ in range(40)))
    assert (server.most_open, len(server.requests)) == (8, 40)
    assert server.num_connections <= 16


async def test_a_busy_endpoint_is_given_fewer_calls(server: ScriptedServer, client: Client) -> None:
    server.answer = lambda request, number: Script(status=429) if number < 20 else Script(delay_seconds=0.01)
    await asyncio.gather(*(complete(client) for _ in range(20)))
    assert client.replicas[0].slots.limit < QUICK.max_open_calls


async def test_the_servers_wait_is_honoured(server: ScriptedServer) -> None:
    server.answer = lambda request, number: (
        Script(status=429, headers={"retry-after": "0.4"}) if number == 0 else Script()
    )
    async with Client([Endpoint.of(server.url)], replace(QUICK, max_backoff_seconds=10.0)) as client:
        started = time.monotonic()
        await complete(client)
        assert time.monotonic() - started > 0.19


async def test_cancelling_a_call_reaches_the_server(server: ScriptedServer, client: Client) -> None:
    server.answer = lambda request, number: Script(piece_seconds=0.1)
    state = CallState()
    call = asyncio.create_task(complete(client, state=state))
    await until(lambda: state.stream.num_pieces >= 2)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: server.num_left == 1)
    partial = state.partial()
    assert partial.finish == "unfinished" and "thinking</think>42".startswith(partial.content)
    assert partial.usage.generated_tokens == state.stream.num_pieces
    assert client.replicas[0].slots.num_open == 0


async def test_pieces_that_were_handed_on_are_not_made_again(server: ScriptedServer, client: Client) -> None:
    seen: list[str] = []

    async def on_delta(delta: Delta) -> None:
        seen.append(delta.content)

    server.answer = lambda request, number: Script(drop_after=3)
    completion = await complete(client, on_delta=on_delta)
    assert seen == ["thi", "nki"] and len(server.requests) == 1
    assert completion.failure is not None and completion.failure.kind == "cut"


async def test_who_takes_the_pieces_may_take_longer_than_the_idle_limit(server: ScriptedServer, client: Client) -> None:
    async def slow(delta: Delta) -> None:
        await asyncio.sleep(0.2)

    assert (await complete(client, on_delta=slow)).finish == "stopped"  # 6 pieces of 0.2 s, a limit of 0.3 s


async def test_an_endpoint_that_is_down_is_told_and_the_other_one_answers(server: ScriptedServer) -> None:
    async with ScriptedServer() as other:
        pass  # closed again: nothing listens on its port
    async with Client([Endpoint.of(other.url)], replace(QUICK, max_retries=1)) as client:
        failure = (await complete(client)).failure
        assert failure is not None and failure.kind == "unreachable"
    async with Client([Endpoint.of(other.url), Endpoint.of(server.url)], QUICK) as client:
        completion = await client.complete(BODY, replica=client.replicas[0])
        assert completion.finish == "stopped"
        assert client.route() is client.replicas[1]


async def test_an_endpoint_that_fails_fast_does_not_draw_the_work_of_the_others(server: ScriptedServer) -> None:
    """Its calls are over at once, so it always has the fewest."""
    server.answer = lambda request, number: Script(delay_seconds=0.05)
    async with (
        ScriptedServer(lambda request, number: Script(status=500, error="broken")) as other,
        Client([Endpoint.of(other.url), Endpoint.of(server.url)], QUICK) as client,
    ):

        async def one() -> Completion:
            with client.routed(1) as route:
                return await client.complete(BODY, replica=route.replica)

        for _ in range(3):
            await one()
        assert client.route() is client.replicas[1]
        first = len(other.requests)
        completions = await asyncio.gather(*(one() for _ in range(20)))
        assert all(completion.finish == "stopped" for completion in completions)
        assert len(other.requests) == first
        client.replicas[0].down_until = float("-inf")  # it has rested, and is back
        other.answer = server.answer
        assert (await one()).finish == "stopped" and len(other.requests) == first + 1
        assert client.replicas[0].num_faults == 0


async def test_calls_that_are_made_once_tell_of_an_endpoint_too(server: ScriptedServer) -> None:
    async with (
        ScriptedServer(lambda request, number: Script(status=500, error="broken")) as other,
        Client([Endpoint.of(other.url), Endpoint.of(server.url)], replace(QUICK, max_retries=0)) as client,
    ):
        for _ in range(3):
            assert (await client.complete(BODY, replica=client.replicas[0])).failure is not None
        assert client.route() is client.replicas[1] and client.counters.num_retries == 0


async def test_the_key_is_sent(server: ScriptedServer) -> None:
    async with Client([Endpoint.of(server.url, api_key="secret")], QUICK) as client:
        await complete(client)
    assert server.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://host/v1/chat/completions", "https://host/v1"),
    ],
)
def test_an_endpoint_is_read_as_users_write_it(given: str, url: str) -> None:
    assert Endpoint.of(given).base_url == url


@pytest.mark.parametrize("given", ["", "localhost:8000", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        Endpoint.of(given)
