"""Judges and proposers behind a real socket: an endpoint that refuses, is slow, is busy or answers rubbish."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_fakes import Answer, serving
from pool_run import CONFIG, PROBLEMS, ByHash

from data_curation.chat import EndpointDown
from data_curation.endpoints import EndpointProposer
from data_curation.judge_filter import JudgeFilter
from data_curation.judge_quality import load_sample
from data_curation.pools import fill_pool
from data_curation.proposals import Ask
from pacore_rl.append_log import KeyedLog
from pacore_rl.config_endpoints import EndpointConfig, JudgeFilterConfig
from pacore_rl.synthesis.pool_shards import ShardedPool

ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[str, Any] = {"model": "m", "backoff_seconds": 0.001, "max_retries": 1, "max_failures_in_a_row": 3}
YES = "Fine.\nVERDICT: YES"


def ballots(tmp_path: Path, url: str, num: int = 5, **settings: Any) -> list[str]:
    config = JudgeFilterConfig(**{**QUICK, "base_urls": (url,), **settings})
    judge = JudgeFilter(config, KeyedLog.open(tmp_path / "votes.jsonl"))
    return [ballot.outcome for ballot in judge.ballots([(f"statement {i}", "1") for i in range(num)])]


def test_votes_over_a_socket(tmp_path: Path) -> None:
    with serving(lambda number, body: YES) as (url, bodies):
        assert ballots(tmp_path, url, votes=2) == ["yes"] * 5
    assert sorted(body["seed"] for body in bodies) == [0] * 5 + [1] * 5
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in bodies} == {("m", 0.6, 4096)}


def test_a_busy_or_stumbling_endpoint_is_asked_again(tmp_path: Path) -> None:
    with serving(lambda number, body: (429, 500, YES)[number] if number < 3 else YES) as (url, bodies):
        assert ballots(tmp_path, url, 1, max_retries=2, votes=2) == ["yes"]
    assert len(bodies) == 4


def test_null_and_rubbish_replies_are_neither_yes_nor_no(tmp_path: Path) -> None:
    with serving(lambda number, body: None if number % 2 else "⁂ 42") as (url, bodies):
        assert ballots(tmp_path, url, 1) == ["neither"]
    assert len(bodies) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"<html>a proxy's page</html>", "unreadable"),
        (b'{"choices": "none"}', "unreadable"),
        (503, "busy"),
        (401, "unauthorized"),
        (60.0, "timeout"),
    ],
)
def test_an_endpoint_that_does_not_work_is_a_clear_error(tmp_path: Path, answer: Answer, reason: str) -> None:
    with (
        serving(lambda number, body: answer) as (url, _),
        pytest.raises(EndpointDown, match=rf"[3-9] calls in a row failed at {url}, the last with: {reason}: "),
    ):
        ballots(tmp_path, url, connect_seconds=0.2, first_token_seconds=0.1, idle_seconds=0.1)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(EndpointDown, match="cannot be reached"):
        ballots(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="is no address of a server"):
        ballots(tmp_path, "not an address")


def test_a_pool_over_a_socket_goes_on_after_the_endpoint_was_down(tmp_path: Path) -> None:
    endpoint = EndpointConfig(**QUICK, max_concurrent=4)

    def fill(url: str, num: int) -> ShardedPool:
        pool = ShardedPool.open(tmp_path / "pool")
        proposer = EndpointProposer(
            endpoint=endpoint.model_copy(update={"base_urls": (url,)}), config=CONFIG, done="the pool"
        )
        written: list[int] = []
        try:
            fill_pool(
                pool,
                PROBLEMS[:num],
                size=3,
                model="m",
                proposer=proposer,
                scorer=ByHash(),
                config=CONFIG,
                problems_per_wave=4,
                on_written=written.append,
            )
        finally:
            assert sum(written) <= pool.num_messages
        return pool

    def reply(number: int, body: dict[str, Any]) -> Answer:
        return f"<think>…</think>{body['messages'][-1]['content']} {body['seed']}"

    with (
        serving(lambda number, body: reply(number, body) if number < 12 else 500) as (url, _),
        pytest.raises(EndpointDown, match=r"server_error.*kept in the pool"),
    ):
        fill(url, 8)
    assert ShardedPool.open(tmp_path / "pool").num_messages == 12
    with serving(reply) as (url, bodies):
        pool = fill(url, 8)
    assert len(bodies) == 12 and len({body["seed"] for body in bodies}) == 12
    messages = pool.messages([problem.id for problem in PROBLEMS[:8]])
    assert all(len(of_one) == len({message.text for message in of_one}) == 3 for of_one in messages.values())
    assert messages["p5"][0].text.startswith("question 5 ") and messages["p5"][0].num_tokens == 11


def test_a_count_above_the_window_is_no_messages_length() -> None:
    config = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"context_window_tokens": 4096})})
    choice = {"message": {"role": "assistant", "content": "<think>…</think>4"}, "finish_reason": "stop"}
    counts = (4097, 12)
    answers = [
        json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": count}}).encode()
        for count in counts
    ]
    with serving(lambda number, body: answers[number]) as (url, _):
        endpoint = EndpointConfig(**{**QUICK, "base_urls": (url,), "max_concurrent": 1})
        proposer = EndpointProposer(endpoint=endpoint, config=config, done="the pool")
        ((_, proposals),) = proposer.propose([Ask(problem=PROBLEMS[0], first_sample=0, num_samples=2, seed=1)])
    assert sorted(proposal.num_tokens for proposal in proposals) == [1, 12]  # an answer in one piece


def test_the_measurement_of_a_judge_is_that_of_its_decisions(tmp_path: Path) -> None:
    """A judge that misses the proofs and drops every problem about pennies, stamps or paper."""
    by_problem = {one.problem: one for one in load_sample()}

    def judge(number: int, body: dict[str, Any]) -> Answer:
        prompt = body["messages"][0]["content"]
        one = next(one for problem, one in by_problem.items() if f"\n{problem}\n=====" in prompt)
        is_kept = one.kind == "proof" or (one.is_well_posed and not one.id.startswith("gsm8k-train-46"))
        return f"VERDICT: {'YES' if is_kept else 'NO'}"

    missed = sum(one.kind == "proof" for one in by_problem.values())
    with serving(judge) as (url, _):
        command = [sys.executable, "scripts/measure_judge.py", "--url", url, "--model", "m", "--votes", "2"]
        ended = subprocess.run(
            [*command, "--cache", str(tmp_path / "votes.jsonl")],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    said = json.loads(ended.stdout.splitlines()[-1])
    num_dropped_wrongly = sum(one.id == "gsm8k-train-46" for one in by_problem.values())
    precision, recall = (50 - missed) / (50 - missed + num_dropped_wrongly), (50 - missed) / 50
    assert said["precision"] == round(precision, 4) and said["recall"] == round(recall, 4)
    assert said["f1"] == round(2 * precision * recall / (precision + recall), 4)
    assert said["missed_by_kind"] == {"proof": missed} and said["num_undecided"] == 0
