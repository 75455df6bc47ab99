"""How long a client waits before it asks again: against a server that does as it is told, and drawn many times."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from scripted_server import QUICK, Script, ScriptedServer

from pacore_rl.inference.client import Client, request_body
from pacore_rl.inference.settings import ClientSettings, Endpoint

BODY = request_body("tiny", [{"role": "user", "content": "2 + 2?"}], {})
NUM_DRAWS = 400


@pytest.fixture(autouse=True)
def draws_repeat() -> None:
    random.seed(0)


def waits(num_attempts: int, after_seconds: float = 0.0, settings: ClientSettings | None = None) -> list[float]:
    client = Client([Endpoint.of("http://127.0.0.1:1/v1")], settings)
    return [client._wait_seconds(num_attempts, after_seconds) for _ in range(NUM_DRAWS)]


@pytest.mark.parametrize(
    ("num_attempts", "middle"),
    [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (6, 32.0), (7, 60.0), (8, 60.0), (1_000, 60.0)],
)
def test_a_wait_doubles_up_to_its_limit_and_is_drawn_between_half_and_one_and_a_half_of_that(
    num_attempts: int, middle: float
) -> None:
    drawn = waits(num_attempts)
    assert 0.5 * middle <= min(drawn) < 0.55 * middle and 1.45 * middle < max(drawn) <= 1.5 * middle
    assert len(set(drawn)) == NUM_DRAWS
    # Uniform: the mean of 400 draws has a standard deviation of 1 / sqrt(12 * 400) = 0.0144 times the middle.
    assert sum(drawn) / NUM_DRAWS == pytest.approx(middle, rel=4 * 0.0144)


@pytest.mark.parametrize(
    ("num_attempts", "after_seconds", "least", "most"),
    [
        (1, 20.0, 20.0, 30.0),  # the server's word, where it is longer than our own wait: never before it
        (5, 3.0, 8.0, 24.0),  # our own, where that is longer
        (1, 86_400.0, 60.0, 90.0),  # and never beyond the limit
        (1, float("inf"), 60.0, 90.0),
    ],
)
def test_the_servers_word_makes_a_wait_longer_within_its_limit(
    num_attempts: int, after_seconds: float, least: float, most: float
) -> None:
    drawn = waits(num_attempts, after_seconds)
    assert least <= min(drawn) and max(drawn) <= most
    assert max(drawn) > least + 0.9 * (most - least)


async def arrivals(script: Script, settings: ClientSettings) -> tuple[list[float], Any]:
    """When each attempt of a call that never succeeds reached the server, and how it ended."""
    times: list[float] = []

    def refuse(request: dict[str, Any], number: int) -> Script:
        times.append(time.monotonic())
        return script

    async with ScriptedServer(refuse) as server, Client([Endpoint.of(server.url)], settings) as client:
        async with asyncio.timeout(20):
            completion = await client.complete(BODY, replica=client.route())
        assert client.counters.num_retries == len(times) - 1
    return times, completion


async def test_the_attempts_of_a_call_lie_ever_further_apart() -> None:
    settings = replace(QUICK, max_retries=4, backoff_seconds=0.1, max_backoff_seconds=0.4)
    times, completion = await arrivals(Script(status=500), settings)
    assert completion.failure.kind == "server_error" and completion.num_attempts == 5
    gaps = [after - before for before, after in pairwise(times)]
    assert [gap >= 0.5 * middle for gap, middle in zip(gaps, (0.1, 0.2, 0.4, 0.4), strict=True)] == [True] * 4
    assert sum(gaps) < 1.5 * (0.1 + 0.2 + 0.4 + 0.4) + 2.0  # two seconds for a machine that has other work


async def test_calls_that_broke_at_one_moment_do_not_come_back_at_one() -> None:
    settings = replace(QUICK, max_retries=1, backoff_seconds=0.6, max_backoff_seconds=0.6, first_token_seconds=10.0)
    num_calls, returned = 10, list[float]()

    def answer(request: dict[str, Any], number: int) -> Script:
        if number < 2 * num_calls:
            return Script(status=500, delay_seconds=max(0.0, opens_at - time.monotonic()))
        returned.append(time.monotonic())
        return Script()

    async with ScriptedServer(answer) as server:
        endpoint = Endpoint.of(server.url)
        async with Client([endpoint], settings) as one, Client([endpoint], settings) as other:
            opens_at = time.monotonic() + 0.5
            calls = [client.complete(BODY, replica=client.route()) for client in (one, other) for _ in range(num_calls)]
            completions = await asyncio.gather(*calls)
    assert [completion.num_attempts for completion in completions] == [2] * 2 * num_calls
    # Between 0.3 and 0.9 s after: twenty uniform draws span less than half of that once in fifty thousand times.
    assert max(returned) - min(returned) > 0.3


@pytest.mark.parametrize("word", ["3600", "9" * 400, "Wed, 21 Oct 2099 07:28:00 GMT", "-5", "soon", "."])
async def test_no_word_of_a_server_holds_a_call_up_for_long(word: str) -> None:
    started = time.monotonic()
    times, completion = await arrivals(Script(status=429, headers={"retry-after": word}), replace(QUICK, max_retries=1))
    assert completion.failure.kind == "busy" and len(times) == 2
    assert time.monotonic() - started < 2.0  # the limit is 0.05 s
