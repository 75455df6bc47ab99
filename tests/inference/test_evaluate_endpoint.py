"""Benchmarks asked of a served model: a scripted endpoint of known accuracy, through the whole of ``evaluate``."""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Script, ScriptedServer

from pacore_rl.benchmark_runs import evaluate_endpoint
from pacore_rl.config import Config
from pacore_rl.evaluation.benchmark_results import BenchmarkResult
from pacore_rl.evaluation.benchmarks import load_benchmark
from pacore_rl.evaluation.paper_report import write_paper_report
from pacore_rl.failures import RunStopped
from pacore_rl.inference.connect import EndpointError
from pacore_rl.problems import save_problems
from pacore_rl.types import Problem, Turn

DATA = Path(os.environ.get("PACORE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "math_eval"
SOLO_TOKENS, SYNTHESIS_TOKENS = 50, 30

Serve = Callable[[Callable[[dict[str, Any], int], Script]], ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts scripted servers in a loop of their own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    started: list[ScriptedServer] = []

    def start(answer: Callable[[dict[str, Any], int], Script]) -> ScriptedServer:
        server = ScriptedServer(answer)
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        started.append(server)
        return server

    yield start
    for server in started:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def config_of(sets: dict[str, str | None], **benchmarks: Any) -> Config:
    defaults = {"pool_size": 16, "configurations": [[4]], "samples_per_problem": 4, "baselines": [], "vote_sizes": [4]}
    return Config.model_validate(
        {
            "model": {"path": "none", "context_window_tokens": 4096},
            "data": {"problems": "none.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 1000, "answer_reserve_tokens": 1000},
            "evaluation": {"benchmarks": {**defaults, **benchmarks, "sets": sets}},
        }
    )


def question_of(request: dict[str, Any]) -> tuple[str, bool]:
    """The plain problem of a request, and whether it is shown references."""
    prompt = str(request["messages"][-1]["content"])
    found = re.search(r"Original Problem:\n(.*?)\n\nReference Responses:", prompt, re.DOTALL)
    return (found[1], True) if found else (prompt, False)


def knower(problems: tuple[Problem, ...], known: Callable[[int], float], *, synthesis: float) -> Any:
    """Alone right with probability ``known(index)``, with references ``synthesis`` of the way from there to 1."""
    index_of = {problem.conversation[-1].content: index for index, problem in enumerate(problems)}

    def answer(request: dict[str, Any], number: int) -> Script:
        question, is_synthesis = question_of(request)
        index = index_of[question]
        alone = known(index)
        chance = alone + synthesis * (1 - alone) if is_synthesis else alone
        drawn = random.Random(f"{request['seed']} {index}")
        said = problems[index].ground_truth if drawn.random() < chance else str(10_000 + drawn.randrange(3))
        tokens = SYNTHESIS_TOKENS if is_synthesis else SOLO_TOKENS
        return Script(content=f"Hm.</think>\\boxed{{{said}}}", usage={"prompt_tokens": 9, "completion_tokens": tokens})

    return answer


@pytest.mark.skipif(not DATA.is_dir(), reason="set PACORE_DATA to a folder with math_eval/aime_2025.jsonl")
@pytest.mark.parametrize("name", ["aime_2025", "hmmt_feb_2025"])
def test_a_benchmark_gives_back_the_accuracy_of_a_model_that_is_known(name: str, serve: Serve, tmp_path: Path) -> None:
    path = DATA / f"{name}.jsonl"
    problems = load_benchmark(name, str(path))
    assert len(problems) == 30

    def known(index: int) -> float:
        return (index % 5) / 4  # 0, 1/4, 1/2, 3/4, 1: a half on average

    server = serve(knower(problems, known, synthesis=0.5))
    two = [[4, 2]] if name == "aime_2025" else []
    config = config_of({name: str(path)}, configurations=[[4], *two])
    (result,) = evaluate_endpoint(config, out=tmp_path, endpoints=[server.url])
    assert (len(result.problem_ids), result.pool_size, result.num_failed_solo) == (30, 16, 0)
    assert result.solo.low < 0.5 < result.solo.high
    assert result.solo.mean == pytest.approx(0.5, abs=0.06)  # 480 answers: three standard errors are 0.05
    four, *two_rounds = result.conditions
    assert four.num_samples == 4 and four.num_failed == 0
    assert four.accuracy.low < 0.75 < four.accuracy.high
    assert four.accuracy.mean == pytest.approx(0.75, abs=0.1)
    assert four.ttc_tokens.mean == 4 * SOLO_TOKENS + SYNTHESIS_TOKENS
    assert [run.ttc_tokens.mean for run in two_rounds] == [4 * SOLO_TOKENS + 3 * SYNTHESIS_TOKENS] * len(two)
    if two:
        before = len(server.requests)
        assert evaluate_endpoint(config, out=tmp_path, endpoints=[server.url]) == (result,)
        assert len(server.requests) == before, "everything was on disk"


def sums() -> tuple[Problem, ...]:
    return tuple(
        Problem(
            id=f"sum{n}",
            conversation=(Turn(role="user", content=f"{n} + {n}, in \\boxed{{}}"),),
            ground_truth=f"{2 * n}",
        )
        for n in range(1, 7)
    )


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    save_problems(tmp_path / "sums.jsonl", sums())
    return tmp_path / "sums.jsonl"


def run_sums(server: ScriptedServer, own_set: Path, out: Path, **benchmarks: Any) -> BenchmarkResult:
    (result,) = evaluate_endpoint(
        config_of({"sums": str(own_set)}, **benchmarks), out=out, endpoints=[server.url], model="scripted"
    )
    return result


def test_every_baseline_runs_over_an_endpoint_and_the_report_is_made_of_it(
    serve: Serve, own_set: Path, tmp_path: Path
) -> None:
    server = serve(knower(sums(), lambda index: 0.5, synthesis=0.5))
    baselines = ["self_consistency", "best_single", "sequential", "aggregation"]
    result = run_sums(server, own_set, tmp_path / "out", baselines=baselines, uncompacted=[[2]])
    beside = result.conditions[0].equal_ttc
    assert beside is not None
    assert set(beside.minus) == set(baselines)
    for other in beside.others:  # as much as the K vector's 230 tokens, to the nearest whole trajectory
        assert other.ttc_tokens.mean == pytest.approx(4 * SOLO_TOKENS + SYNTHESIS_TOKENS, abs=SOLO_TOKENS)
    report = write_paper_report(tmp_path / "out", tmp_path / "report")
    assert {table.name for table in report.tables} == {"table1", "table2", "equal_ttc", "details"}
    assert report.figures == ("figure1", "figure4")


def test_failed_calls_are_repeated_by_the_same_command(serve: Serve, own_set: Path, tmp_path: Path) -> None:
    right = knower(sums(), lambda index: 1.0, synthesis=1.0)
    is_down = True

    def answer(request: dict[str, Any], number: int) -> Script:
        if is_down and question_of(request)[1] and question_of(request)[0].startswith("3"):
            return Script(status=400, error="refused")
        return right(request, number)

    server = serve(answer)
    result = run_sums(server, own_set, tmp_path / "out")
    assert result.conditions[0].num_failed == 4
    assert result.conditions[0].accuracy.num_problems == 5
    is_down = False
    before = len(server.requests)
    result = run_sums(server, own_set, tmp_path / "out")
    assert (result.conditions[0].num_failed, result.conditions[0].accuracy.mean) == (0, 1.0)
    assert len(server.requests) - before == 4


def test_an_endpoint_that_goes_away_stops_the_run_and_keeps_what_there_is(
    serve: Serve, own_set: Path, tmp_path: Path
) -> None:
    right = knower(sums(), lambda index: 1.0, synthesis=1.0)

    def answer(request: dict[str, Any], number: int) -> Script:
        return Script(status=401, error="no longer") if number >= 110 else right(request, number)

    server = serve(answer)
    with pytest.raises(RunStopped, match="What had been answered is kept"):
        run_sums(server, own_set, tmp_path / "out")
    server.answer = right
    assert run_sums(server, own_set, tmp_path / "out").conditions[0].accuracy.mean == 1.0
    assert len(server.requests) <= 6 * 16 + 2 * 6 * 4, "the pool was not asked again"


def test_a_wrong_endpoint_is_told_before_anything_is_asked(serve: Serve, own_set: Path, tmp_path: Path) -> None:
    config = config_of({"sums": str(own_set)})
    with pytest.raises(EndpointError, match="cannot be reached"):
        evaluate_endpoint(config, out=tmp_path / "out", endpoints=["http://127.0.0.1:9/v1"])
    server = serve(knower(sums(), lambda index: 1.0, synthesis=1.0))
    with pytest.raises(EndpointError, match=r"does not serve the model 'other'.*--served-model"):
        evaluate_endpoint(config, out=tmp_path / "out", endpoints=[server.url], served_model="other")
    server.models[0]["max_model_len"], server.tokens_per_byte = 1_004, 1.0
    with pytest.raises(EndpointError, match=r"'sum1' has .* does not fit the window of 1,004.*answer_reserve_tokens"):
        evaluate_endpoint(config, out=tmp_path / "out", endpoints=[server.url])
    assert not (tmp_path / "out").exists() and not server.requests
