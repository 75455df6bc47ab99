"""Curation's heavy steps as tasks on a real Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from data_curation.code.pipeline import CodeFilter
from data_curation.records import Candidate, Solution
from pacore_rl.append_log import KeyedLog
from pacore_rl.config import RewardConfig
from pacore_rl.config_endpoints import CodeCurationConfig
from pacore_rl.engine.ray_spread import RaySpread
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.suite import TestCase, TestSuite
from pacore_rl.synthesis.pool_shards import ShardedPool
from pacore_rl.types import PoolMessage, Problem, Turn, Verdict

STATEMENT = "Read one integer n from the input, and print n plus one. It is between 0 and 100."


@pytest.fixture(scope="module")
def spread() -> Iterator[RaySpread]:
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield RaySpread.on_all_cores()
    ray.shutdown()


def square(number: int) -> tuple[int, int]:
    if number == 13:
        raise ValueError("13 is refused")
    return number * number, os.getpid()


def test_results_come_in_order_from_other_processes(spread: RaySpread) -> None:
    assert spread.num_workers == 2
    results = list(spread.map(square, range(12)))
    assert [result for result, _ in results] == [number * number for number in range(12)]
    assert os.getpid() not in {process for _, process in results}


def test_what_a_task_raises_is_raised(spread: RaySpread) -> None:
    with pytest.raises(ValueError, match="13 is refused"):
        list(spread.map(square, range(100)))


def test_shards_are_counted_one_task_each(spread: RaySpread, tmp_path: Path) -> None:
    pool = ShardedPool.open(tmp_path, messages_per_shard=2)
    for number in range(9):
        verdict = Verdict(reward=0.0, correct=number % 2 == 0, outcome="scored", reason="")
        pool.append(
            [
                PoolMessage(
                    problem_id=f"p{number % 3}",
                    text=str(number),
                    finish="stopped",
                    verdict=verdict,
                    num_tokens=1,
                    model="m",
                )
            ]
        )
    opened = ShardedPool.open(tmp_path, spread=spread)
    assert opened.num_messages == 9 and opened.message_accuracy("p0") == pytest.approx(2 / 3)
    assert opened.missing(["p0", "p9"], 4, "m") == {"p0": 1, "p9": 4}


def test_coding_problems_are_checked_in_tasks_with_their_own_sandboxes(spread: RaySpread, tmp_path: Path) -> None:
    try:
        choose_backend()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))
    tests = TestSuite(tests=tuple(TestCase(input=f"{n}\n", output=f"{n + 1}\n") for n in range(3)))

    def candidate(id: str, code: str) -> Candidate:
        problem = Problem(
            id=id,
            conversation=(Turn(role="user", content=STATEMENT),),
            ground_truth=tests.to_json(),
            reward="code",
        )
        solution = Solution(language="python3", code=code, is_right=True, label="accepted")
        return Candidate(problem=problem, solutions=(solution,))

    sift = CodeFilter(CodeCurationConfig(), RewardConfig(), KeyedLog.open(tmp_path / "code.jsonl"), spread=spread)
    sifted = sift([candidate("right", "print(int(input()) + 1)"), candidate("wrong", "print(0)")])
    assert [one.id for one in sifted.kept] == ["right"]
    assert [(one.id, one.step) for one in sifted.drops] == [("wrong", "code_right_solution_fails")]
