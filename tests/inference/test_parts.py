"""Small parts: slots, the journal, reasoning in a stream, prompt lengths."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacore_rl.inference.chat_stream import ChatStream, StreamError
from pacore_rl.inference.client import Client
from pacore_rl.inference.completion import Completion, Delta, Usage
from pacore_rl.inference.counting import PromptCounter
from pacore_rl.inference.journal import CallJournal
from pacore_rl.inference.server.reasoning import ReasoningSplitter
from pacore_rl.inference.slots import Slots

ANSWER = Completion(
    content="4\u2028",
    reasoning="r",
    tool_calls=({"id": "c"},),
    finish="stopped",
    finish_reason="stop",
    usage=Usage(prompt_tokens=3, generated_tokens=2, cached_tokens=1),
)


@given(
    st.sampled_from(["so</think>\n\n4", "</think>4", "so", "a < b </th </think> x", "a</think>b</think>c", ""]),
    st.integers(1, 9),
)
def test_a_stream_is_parted_wherever_its_pieces_end(text: str, size: int) -> None:
    splitter = ReasoningSplitter("</think>", is_split=True)
    deltas = [splitter.feed(Delta(content=text[i : i + size])) for i in range(0, len(text), size)]
    deltas.append(splitter.end())
    before, marker, after = text.partition("</think>")
    assert "".join(delta.reasoning for delta in deltas) == before
    assert "".join(delta.content for delta in deltas) == after.lstrip() and (marker or not after)


def test_what_the_endpoint_parted_passes_through() -> None:
    splitter = ReasoningSplitter("</think>", is_split=True)
    assert splitter.feed(Delta(reasoning="so")) == Delta(reasoning="so")
    assert splitter.feed(Delta(content="\n4 </think>")) == Delta(content="4 </think>")


async def test_of_those_that_wait_the_lowest_priority_comes_first() -> None:
    slots, order = Slots(1), list[int]()

    async def hold(priority: int) -> None:
        async with slots.slot(priority):
            order.append(priority)
            await asyncio.sleep(0)

    async with slots.slot():
        tasks = [asyncio.create_task(hold(priority)) for priority in (3, 1, 2, 0)]
        await asyncio.sleep(0)
        assert (slots.num_open, slots.num_waiting) == (1, 4)
        tasks[3].cancel()
        await asyncio.sleep(0)
        assert slots.num_waiting == 3
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [1, 2, 3] and (slots.num_open, slots.num_waiting) == (0, 0)


async def test_the_limit_halves_once_a_burst_and_grows_with_successes() -> None:
    slots = Slots(16)
    for _ in range(5):
        slots.ease()
    assert slots.limit == 8
    for _ in range(9):
        slots.grow()
    assert slots.limit == 9
    for _ in range(1_000):
        slots.grow()
    assert slots.limit == 16


def test_a_journal_gives_back_what_it_was_given_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with CallJournal(path) as journal:
        journal.put(b"one", ANSWER)
        journal.put(b"two", ANSWER)
    with path.open("ab") as file:
        file.write(b'{"schema_version":1,"key":"torn')
    with CallJournal(path) as journal:
        assert len(journal) == 2 and journal.get(b"two") == ANSWER and journal.get(b"three") is None
        journal.put(b"three", ANSWER)
    with CallJournal(path) as journal:
        assert journal.get(b"three") == ANSWER and journal.num_replayed == 1


def test_a_journal_without_calls_leaves_no_file(tmp_path: Path) -> None:
    with CallJournal(tmp_path / "calls.jsonl"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_journal_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"answer": 4}\n')
    with pytest.raises(ValueError, match="line 1 is no call"):
        CallJournal(path)


@given(st.integers(1, 40))
def test_a_stream_may_be_cut_anywhere_between_packets(size: int) -> None:
    data = (
        b": ping\n\n"
        b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}]}\r\n\r\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    )
    stream = ChatStream()
    for i in range(0, len(data), size):
        stream.feed(data[i : i + size])
    completion = stream.end()
    assert (completion.content, completion.finish, completion.usage.generated_tokens) == ("é", "truncated", 1)


def test_an_unknown_end_is_a_failure() -> None:
    stream = ChatStream()
    stream.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"abort"}]}\n')
    with pytest.raises(StreamError, match="ended the answer with 'abort'"):
        stream.end()


async def test_a_prompt_that_surely_fits_is_not_counted_and_others_are_estimated_from_what_was_seen(
    client: Client,
) -> None:
    counter = PromptCounter(client, "tiny")
    short, long = [{"role": "user", "content": "a" * 100}], [{"role": "user", "content": "a" * 4_000}]
    assert 100 < await counter.count(short, room_tokens=1_000) <= 1_000 and counter.num_estimated == 0
    blind = await counter.count(long, room_tokens=1_000)
    counter.learn(long, 1_010)
    assert 1_010 < await counter.count(long, room_tokens=1_000) < blind
    assert counter.num_estimated == 2
