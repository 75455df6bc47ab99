"""``infer`` and ``serve`` against vLLM itself, with the quickstart's model: no stand-in. One server for all tests.

Those that are always run show a batch from its questions to its answers, and a stream. The others are slow.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from openai import AsyncOpenAI
from scripted_server import until
from typer.testing import CliRunner
from vllm_server import MODEL, vllm_server

from data_curation.chain_sums import ChainSum, chain_problem, sample_chain
from pacore_rl.cli.app import app
from pacore_rl.inference.answering import Model
from pacore_rl.inference.server.app import ServerOptions, make_app
from pacore_rl.inference.server.chat import ServedModel
from pacore_rl.inference.server.limits import Limits
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.problems import save_problems

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with vllm_server("--enable-auto-tool-choice", "--tool-call-parser", "hermes", log=log) as url:
        yield url


@pytest.fixture(scope="module")
def chains() -> list[ChainSum]:
    rng = random.Random(0)
    return [sample_chain(rng, range(5, 8)) for _ in range(4)]


@pytest.fixture
async def api(vllm: str) -> AsyncIterator[AsyncOpenAI]:
    model = Model(name=MODEL, window_tokens=1024, reserve_tokens=64, options={"temperature": 1.0})
    options = ServerOptions(
        endpoints=(Endpoint.of(vllm),),
        client=ClientSettings(),
        served=ServedModel(model=model, compaction="after_reasoning", end_of_reasoning="</think>"),
        limits=Limits(),
    )
    running = uvicorn.Server(uvicorn.Config(make_app(options), host="127.0.0.1", port=0, log_level="warning"))
    task = asyncio.create_task(running.serve())
    await until(lambda: running.started, seconds=30)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        running.should_exit = True
        await task


def ask(chain: ChainSum) -> list[Any]:
    return [{"role": "user", "content": chain.question}]


def test_infer_answers_and_repeats(vllm: str, chains: list[ChainSum], tmp_path: Path) -> None:
    source = tmp_path / "questions.jsonl"
    source.write_text("".join(json.dumps({"id": f"c{i}", "prompt": c.question}) + "\n" for i, c in enumerate(chains)))
    records: list[list[dict[str, Any]]] = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.jsonl"
        arguments = ["infer", source, "--endpoint", vllm, "--level", "6,2", "--max-tokens", "60", "-o", out]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        assert "4 problems with tiny" in result.output
        found = [json.loads(line) for line in out.read_text().splitlines()]
        records.append(sorted(found, key=lambda record: record["id"]))
    for record in records[0]:
        assert record["outcome"] in ("answered", "truncated", "unclosed")
        assert (record["answer"] is None) == (record["outcome"] != "answered") or record["outcome"] == "truncated"
        rounds = record["rounds"]
        assert [r["num_samples"] for r in rounds] == [6, 2, 1]
        assert record["ttc_tokens"] == sum(r["generated_tokens"] for r in rounds) <= 9 * 60
        assert rounds[1]["prompt_tokens"] > rounds[0]["prompt_tokens"] / 6 * 2  # references are read
        assert not any(r["num_estimated"] for r in rounds)
    assert any(record["outcome"] == "answered" and "boxed" in record["answer"] for record in records[0])
    # The seed fixes samples and orders. Batches may be cut otherwise, and floating point with them: most, not all.
    same = [a["rounds"][1]["messages"] == b["rounds"][1]["messages"] for a, b in zip(*records, strict=True)]
    assert sum(same) >= 2


async def test_a_stream_and_its_usage(api: AsyncOpenAI, chains: list[ChainSum]) -> None:
    stream = await api.chat.completions.create(
        model="pacore-low",
        messages=ask(chains[0]),
        max_tokens=60,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    content, reasoning, usage, num_chunks = "", "", None, 0
    async for chunk in stream:
        num_chunks += 1
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        usage = chunk.usage or usage
    assert num_chunks > 5 and reasoning and "</think>" not in content + reasoning
    pacore: Any = getattr(usage, "pacore", None)
    assert [r["num_samples"] for r in pacore["rounds"]] == [4, 1]
    assert pacore["ttc_tokens"] == sum(r["generated_tokens"] for r in pacore["rounds"])


@pytest.mark.slow
async def test_two_choices(api: AsyncOpenAI, chains: list[ChainSum]) -> None:
    completion = await api.chat.completions.create(
        model="pacore:3", messages=ask(chains[1]), max_tokens=60, n=2, seed=2
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert {choice.finish_reason for choice in completion.choices} <= {"stop", "length"}
    extension: Any = completion.usage
    assert [r["num_samples"] for r in extension.pacore["rounds"]] == [3, 2]


@pytest.mark.slow
async def test_a_tools_schema_reaches_the_closing_round(api: AsyncOpenAI, chains: list[ChainSum]) -> None:
    completion = await api.chat.completions.create(
        model="pacore:2", messages=ask(chains[2]), max_tokens=60, tools=TOOLS, seed=3
    )
    assert completion.choices[0].finish_reason in ("stop", "length", "tool_calls")
    forced = await api.chat.completions.create(
        model="pacore:1",
        messages=ask(chains[2]),
        max_tokens=200,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "add"}},
    )
    message: Any = forced.choices[0].message
    assert message.tool_calls[0].function.name == "add"


@pytest.mark.slow
async def test_the_budget_holds(api: AsyncOpenAI, chains: list[ChainSum]) -> None:
    completion: Any = await api.chat.completions.create(
        model="pacore-medium", messages=ask(chains[3]), extra_body={"pacore": {"max_total_tokens": 170}}
    )
    pacore = completion.usage.pacore
    assert 17 <= pacore["ttc_tokens"] <= 170
    assert set(pacore["rounds"][0]["finishes"]) == {"truncated"}  # ten tokens each


@pytest.mark.slow
async def test_cancelling_stops_the_engine(api: AsyncOpenAI, vllm: str, chains: list[ChainSum]) -> None:
    async def running() -> float:
        async with httpx.AsyncClient() as http:
            text = (await http.get(vllm.removesuffix("/v1") + "/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    # Without a stop the model goes on to the end of its window.
    body = {"ignore_eos": True}
    asking = asyncio.create_task(
        api.chat.completions.create(model="pacore:32", messages=ask(chains[0]), extra_body=body, stream=False)
    )
    while await running() < 32:
        assert not asking.done(), "it was over before it could be cancelled"
        await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    started = time.monotonic()
    while await running() > 0:
        assert time.monotonic() - started < 10
        await asyncio.sleep(0.05)


@pytest.mark.slow
def test_evaluate_and_report_measure_the_served_model(vllm: str, chains: list[ChainSum], tmp_path: Path) -> None:
    save_problems(tmp_path / "chains.jsonl", [chain_problem(chain) for chain in chains])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {path: recipes/tiny_base, context_window_tokens: 512}\n"
        "data: {problems: none.jsonl}\n"
        "synthesis: {min_messages: 0, max_messages: 0}\n"
        "sampling: {max_response_tokens: 26, answer_reserve_tokens: 26}\n"
        "evaluation:\n  benchmarks:\n    samples_per_problem: 2\n    pool_size: 8\n"
        "    configurations: [[4], [4, 2]]\n    vote_sizes: [4]\n    uncompacted: [[2]]\n"
    )
    evaluate = ["evaluate", recipe, "--benchmark", f"chains={tmp_path / 'chains.jsonl'}", "--endpoint", vllm]
    arguments = [str(argument) for argument in [*evaluate, "--out", tmp_path / "eval"]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "self-consistency" in result.output and f"pacore-rl report {tmp_path / 'eval'}" in result.output
    records = [json.loads(line) for line in (tmp_path / "eval" / "answers" / "chains.jsonl").read_text().splitlines()]
    by_condition: dict[str, list[int]] = {}
    for record in records:
        assert all(answer["finish"] in ("stopped", "truncated") for answer in record["answers"])
        assert all(0 < cost["generated_tokens"] <= 26 * cost["num_trajectories"] for cost in record["rounds"])
        kind = record["condition"]["method"] + str(record["condition"]["configuration"])
        by_condition.setdefault(kind, []).append(sum(cost["num_trajectories"] for cost in record["rounds"]))
    assert by_condition["rounds[4]"] == [5] * 8 and by_condition["rounds[4, 2]"] == [7] * 8
    size = (tmp_path / "eval" / "answers" / "chains.jsonl").stat().st_size
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "eval" / "answers" / "chains.jsonl").stat().st_size == size, "nothing was generated again"
    result = CliRunner().invoke(app, ["report", str(tmp_path / "eval"), "--out", str(tmp_path / "paper")])
    assert result.exit_code == 0, result.output
    assert {"report.md", "table1.csv", "figure1.png", "figure4.svg"} <= {p.name for p in (tmp_path / "paper").iterdir()}
