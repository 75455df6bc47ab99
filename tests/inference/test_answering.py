"""Rounds over endpoints."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from scripted_server import QUICK, Script, ScriptedServer, until

from pacore_rl.inference.answering import Answered, Answerer, Budget, Model, Observer
from pacore_rl.inference.client import Client
from pacore_rl.inference.completion import Completion, Delta
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.synthesis.plan import RoundsPlan, Stragglers
from pacore_rl.synthesis.prompt import render_synthesis_prompt

QUESTION = ({"role": "user", "content": "2 + 2?"},)
MODEL = Model(name="tiny", window_tokens=4096, reserve_tokens=1024, options={"temperature": 1.0})


def plan(*configuration: int, **more: Any) -> RoundsPlan:
    return RoundsPlan.of(configuration, **more)


def is_final(request: Mapping[str, Any]) -> bool:
    return "Reference 1:" in str(request["messages"][-1]["content"])


async def answer(client: Client, plan: RoundsPlan, model: Model = MODEL, **more: Any) -> Answered:
    return await Answerer(client, model).answer("p", more.pop("messages", QUESTION), plan, **more)


async def test_the_rounds_read_the_conclusions_of_the_one_before(server: ScriptedServer, client: Client) -> None:
    server.answer = lambda request, number: Script(
        content=f"<think></think>{number}", usage={"prompt_tokens": 100, "completion_tokens": 10 + number}
    )
    answered = await answer(client, plan(3, 2))
    asked = [request["messages"][-1]["content"] for request in server.requests]
    shown = answered.rounds.shown
    assert asked[:3] == ["2 + 2?"] * 3
    assert asked[3:5] == [render_synthesis_prompt("2 + 2?", shown[0])] * 2 and set(shown[0]) == {"0", "1", "2"}
    assert asked[5] == render_synthesis_prompt("2 + 2?", shown[1]) and set(shown[1]) == {"3", "4"}
    assert answered.answers[0].text == "5" and answered.answers[0].outcome == "answered"
    assert answered.rounds.ledger.ttc_tokens == sum(range(10, 16))
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds)) == 6
    again = await answer(client, plan(3, 2))
    assert sorted(seeds) == sorted(request["seed"] for request in server.requests[6:]) and again.answers


async def test_failures_are_dropped_counted_and_never_shown(server: ScriptedServer, client: Client) -> None:
    scripts = [Script(content="</think>good"), Script(content=""), Script(content="open", finish="length")]
    server.answer = lambda request, number: scripts[number] if number < 3 else Script(status=400, error="bad")
    answered = await answer(client, plan(3))
    assert answered.rounds.shown == (("good",),) and answered.rounds.num_dropped == 2
    (final,) = answered.answers
    assert (final.outcome, final.text) == ("failed", None) and "bad" in final.reply.error


async def test_other_turns_and_parts_pass_through(server: ScriptedServer, client: Client) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    history = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what is this?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]
    tools = {"tools": [{"type": "function", "function": {"name": "look"}}], "stop": ["END"]}
    answered = await answer(client, plan(1), messages=history, closing_options=tools)
    first, final = server.requests
    assert first["messages"] == history and "tools" not in first and "stop" not in first
    assert final["messages"][:3] == history[:3] and final["messages"][3]["tool_call_id"] == "c1"
    assert final["messages"][3]["content"] == render_synthesis_prompt("a cat", answered.rounds.shown[0])
    assert final["tools"] == tools["tools"] and final["stop"] == ["END"]
    await answer(client, plan(1), messages=history[:2])
    asked = server.requests[-1]["messages"][-1]["content"]
    assert asked == [{"type": "text", "text": render_synthesis_prompt("what is this?", ["42"])}, picture]


async def test_a_conversation_without_a_user_turn_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="no user turn or tool observation"):
        await answer(client, plan(1), messages=[{"role": "assistant", "content": "hello"}])


@pytest.mark.parametrize("can_count", [True, False])
async def test_messages_are_dropped_where_the_window_is_too_small(
    server: ScriptedServer, client: Client, can_count: bool
) -> None:
    server.tokens_per_byte = 0.5 if can_count else None
    server.answer = lambda request, number: Script(
        content="</think>" + "word " * 100,
        usage={"prompt_tokens": len(str(request["messages"])) // 2, "completion_tokens": 400},
    )
    answered = await answer(client, plan(8), replace(MODEL, window_tokens=1300, reserve_tokens=300))
    shown = answered.rounds.shown[0]
    assert 0 < len(shown) < 8 and answered.rounds.num_dropped == 8 - len(shown)
    assert len(str(server.requests[-1]["messages"])) // 2 <= 1000


async def test_a_long_prompts_leader_goes_ahead_and_the_round_stays_on_one_endpoint(server: ScriptedServer) -> None:
    question = [{"role": "user", "content": "long " * 1000}]
    is_read = asyncio.Event()

    def read(request: Mapping[str, Any], number: int) -> Script:
        return Script(delay_seconds=0.0 if is_read.is_set() else 0.5)

    async with ScriptedServer(read) as other:
        server.answer = other.answer
        async with Client([Endpoint.of(server.url), Endpoint.of(other.url)], QUICK) as client:
            answering = asyncio.create_task(answer(client, plan(4), messages=question))
            await until(lambda: bool(server.requests or other.requests))
            await asyncio.sleep(0.1)
            assert len(server.requests) + len(other.requests) == 1  # its prompt is being read
            is_read.set()
            await answering
    first_round = [sum(not is_final(r) for r in s.requests) for s in (server, other)]
    assert sorted(first_round) == [0, 4]


async def test_a_leader_that_hangs_does_not_hold_its_round_back(server: ScriptedServer) -> None:
    """Its request takes a quarter of the deadline; the quorum of the others is there at the deadline."""
    question = [{"role": "user", "content": "long " * 1000}]
    server.answer = lambda request, number: Script(delay_seconds=math.inf if number == 0 else 0.0)
    policy = Stragglers(quorum=0.75, deadline_seconds=2.0)
    async with Client([Endpoint.of(server.url)]) as client:
        started = time.monotonic()
        answered = await answer(client, plan(4, stragglers=policy), messages=question)
    assert 2.0 <= time.monotonic() - started < 20
    assert answered.rounds.shown == (("42",) * 3,) and answered.rounds.num_dropped == 1
    assert answered.answers[0].text == "42"


async def test_a_leaders_time_begins_when_it_is_sent(server: ScriptedServer) -> None:
    """Before that it waits for a slot of ours: the others would get theirs beside it, and read the prompt again."""
    question = [{"role": "user", "content": "long " * 1000}]
    server.answer = lambda request, number: Script(delay_seconds=4.0 if number == 0 else 0.0)
    settings = ClientSettings(max_open_calls=1, leader_seconds=0.3)
    async with Client([Endpoint.of(server.url)], settings) as client:
        first = asyncio.create_task(answer(client, plan(1)))
        await until(lambda: len(server.requests) == 1)
        second = asyncio.create_task(answer(client, plan(2), messages=question, priority=1))
        await asyncio.sleep(0.6)  # twice the leader's time, all of it in the queue
        assert client.replicas[0].slots.num_waiting == 1, "the leader alone waits"
        await asyncio.gather(first, second)


async def test_two_problems_are_spread_over_the_endpoints(server: ScriptedServer) -> None:
    async with ScriptedServer(lambda request, number: Script(delay_seconds=0.05)) as other:
        server.answer = other.answer
        async with Client([Endpoint.of(server.url), Endpoint.of(other.url)], QUICK) as client:
            answerer = Answerer(client, MODEL)
            await asyncio.gather(*(answerer.answer(name, QUESTION, plan(4)) for name in "ab"))
    assert [sum(not is_final(r) for r in s.requests) for s in (server, other)] == [4, 4]


async def test_stragglers_are_left_at_the_deadline_and_what_they_wrote_is_charged(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(stall_after=3 if number == 1 else None)
    policy = Stragglers(quorum=0.5, deadline_seconds=0.5)
    async with Client([Endpoint.of(server.url)]) as client:
        started = time.monotonic()
        answered = await answer(client, plan(4, stragglers=policy))
    assert 0.5 <= time.monotonic() - started < 5
    assert answered.rounds.shown == (("42",) * 3,) and answered.rounds.num_dropped == 1
    (left,) = [charge for charge in answered.rounds.ledger.charges if charge.finish == "unfinished"]
    assert left.is_estimated and left.generated_tokens == 2
    await until(lambda: server.num_left == 1)


async def test_the_token_budget_is_shared_and_never_exceeded(server: ScriptedServer, client: Client) -> None:
    def spend(request: Mapping[str, Any], number: int) -> Script:
        usage = {"prompt_tokens": 10, "completion_tokens": request["max_tokens"]}
        return Script(content="</think>4", usage=usage, finish="length")

    server.answer = spend
    answered = await answer(client, plan(4, 2), budget=Budget(total_tokens=70))
    assert [request["max_tokens"] for request in server.requests] == [10] * 4 + [10] * 2 + [10]
    assert answered.rounds.ledger.ttc_tokens == 70
    server.requests.clear()
    answered = await answer(client, plan(64), budget=Budget(total_tokens=40))
    assert [request["max_tokens"] for request in server.requests] == [40]  # no round fits: the closing one alone
    assert answered.rounds.ledger.ttc_tokens == 40


async def test_a_count_that_cannot_be_eats_no_budget_and_is_no_test_time_compute(
    server: ScriptedServer, client: Client
) -> None:
    def wrong(count: int) -> Script:
        return Script(usage={"prompt_tokens": 10, "completion_tokens": count})

    server.answer = lambda request, number: wrong(1_001)
    answered = await answer(client, plan(2, 2), budget=Budget(total_tokens=1_000))
    assert [call.num_samples for call in answered.rounds.calls] == [2, 2, 1]
    assert answered.rounds.ledger.ttc_tokens == 5 * 6  # the pieces
    assert all(charge.is_estimated for charge in answered.rounds.ledger.charges)
    server.answer = lambda request, number: wrong(4_097)  # the window has 4,096
    answered = await answer(client, plan(2))
    assert answered.rounds.ledger.ttc_tokens == 3 * 6


async def test_the_time_is_shared_and_the_closing_round_reads_what_there_is(
    server: ScriptedServer, client: Client
) -> None:
    server.answer = lambda request, number: Script(delay_seconds=9 if number in (1, 2) else 0)
    started = time.monotonic()
    answered = await answer(client, plan(3, 8), budget=Budget(total_seconds=2.1))
    assert 0.7 <= time.monotonic() - started < 2.1  # a third of it for the round that two hold up
    assert answered.rounds.shown == (("42",), ("42",) * 8) and answered.rounds.num_dropped == 2
    assert [completion.finish for completion in answered.completions[0]] == ["stopped", "unfinished", "unfinished"]
    assert (answered.answers[0].outcome, answered.answers[0].text) == ("answered", "42")


async def test_a_round_that_is_over_early_leaves_its_time_to_the_others(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=0 if number < 2 else 1.3)
    async with Client([Endpoint.of(server.url)]) as client:
        answered = await answer(client, plan(2, 2), budget=Budget(total_seconds=3.6))  # shares of 0, 1.8 and 2.3 s
    assert [call.is_final for call in answered.rounds.calls] == [False, False, True]
    assert all(completion.finish == "stopped" for completions in answered.completions for completion in completions)


async def test_where_no_message_ends_within_its_share_the_closing_round_gets_the_rest(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=60 if number < 2 else 1.5)
    async with Client([Endpoint.of(server.url)]) as client:
        started = time.monotonic()
        answered = await answer(client, plan(2, 8), budget=Budget(total_seconds=3.0))
    assert time.monotonic() - started < 3.0
    assert [call.is_final for call in answered.rounds.calls] == [False, True] and len(server.requests) == 3
    assert (answered.answers[0].outcome, answered.answers[0].text) == ("answered", "42")


async def test_where_a_later_round_is_cut_the_closing_one_reads_the_round_before(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=60 if 2 <= number < 5 else 0)
    async with Client([Endpoint.of(server.url)]) as client:
        answered = await answer(client, plan(2, 3), budget=Budget(total_seconds=1.5))
    assert answered.rounds.shown == (("42",) * 2, ("42",) * 2)
    assert [completion.finish for completion in answered.completions[1]] == ["unfinished"] * 3
    assert (answered.answers[0].outcome, answered.answers[0].text) == ("answered", "42")


async def test_the_budget_of_time_holds_for_the_closing_round_too(server: ScriptedServer) -> None:
    server.answer = lambda request, number: Script(delay_seconds=60 if is_final(request) else 0)
    async with Client([Endpoint.of(server.url)]) as client:
        started = time.monotonic()
        answered = await answer(client, plan(2), budget=Budget(total_seconds=0.5))
    assert 0.5 <= time.monotonic() - started < 2
    assert (answered.answers[0].outcome, answered.answers[0].text) == ("unfinished", None)


async def test_the_closing_rounds_pieces_are_handed_on_and_progress_is_told(
    server: ScriptedServer, client: Client
) -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.pieces: dict[int, str] = {}
            self.rounds: list[int] = []
            self.ended: list[tuple[int, int]] = []

        def on_round(self, call: Any) -> None:
            self.rounds.append(call.round_index)

        def on_completion(self, call: Any, sample: int, completion: Completion) -> None:
            self.ended.append((call.round_index, sample))

        async def on_delta(self, sample: int, delta: Delta) -> None:
            self.pieces[sample] = self.pieces.get(sample, "") + delta.content

    seen = Recorder()
    answered = await answer(client, plan(2, num_answers=2), observer=seen, streams=True)
    assert seen.pieces == {0: "thinking</think>42", 1: "thinking</think>42"}
    assert seen.rounds == [0, 1] and sorted(seen.ended) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(answered.answers) == 2


async def test_cancelling_a_problem_stops_all_its_calls(server: ScriptedServer, client: Client) -> None:
    server.answer = lambda request, number: Script(piece_seconds=0.2)
    task = asyncio.create_task(answer(client, plan(8)))
    await until(lambda: server.num_open == 8)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: server.num_open == 0)
    assert (server.num_left, len(server.requests)) == (8, 8)
    assert client.replicas[0].num_calls == 0 and client.replicas[0].slots.num_open == 0
