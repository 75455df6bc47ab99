"""Scoring on a real Ray: verdicts of the rules and of workers, and what becomes of them when workers are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import ray
from local_ray import local_ray

from pacore_rl.config import CustomRewardConfig, RewardConfig
from pacore_rl.engine.ray_answers import SHARED_CHARS, THREADS_PER_WORKER, RayAnswers
from pacore_rl.engine.scoring import RayScorer, scores_on_cluster
from pacore_rl.interfaces import Scorer
from pacore_rl.types import Finish, Problem, Turn

NUM_WORKERS = 6
"""Threads: one worker of four, one of two."""


@pytest.fixture(scope="module")
def scorer() -> Iterator[RayScorer]:
    with local_ray("test-scoring", num_cpus=8):
        config = RewardConfig(
            num_workers=NUM_WORKERS, placement="ray", custom=CustomRewardConfig(timeout_seconds=20, memory_gib=2)
        )
        scorer = RayScorer(config, "", start_timeout_seconds=60)
        try:
            yield scorer
        finally:
            scorer.close()


def item(
    ground_truth: str, response: str, reward: str = "math", finish: Finish = "stopped"
) -> tuple[Problem, str, Finish]:
    turns = (Turn(role="user", content="?"),)
    return Problem(id="p", conversation=turns, ground_truth=ground_truth, reward=reward), response, finish


def worker_pids(scorer: RayScorer) -> list[int]:
    return ray.get([handle.pid.remote() for handle in scorer._answers.handles], timeout=60)


def descendants(pid: int) -> set[int]:
    found = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found.union(*map(descendants, found))


def is_alive(pid: int) -> bool:
    """A zombie that nobody reaps counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _as_protocol(scorer: RayScorer) -> Scorer:
    """For the type checker: a RayScorer is a Scorer."""
    return scorer


def test_verdicts_come_in_order_and_equal_questions_are_asked_once(scorer: RayScorer) -> None:
    add = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
    tests = '{"kind": "stdin", "tests": [["1 2", "3"], ["5 5", "10"]]}'
    wrong = add.replace("+", "*")
    items = [
        item("3", r"\boxed{3}"),
        item("p+q", r"\boxed{q+p}"),
        item("p+q", r"\boxed{q-p}"),
        item(tests, add, "code"),
        item(tests, wrong, "code"),
        item("p+q", r"\boxed{q+p}"),
        item("p+q", r"\boxed{q+p}", finish="truncated"),
    ]
    pending = [scorer.score([each]) for each in items]
    verdicts = [each.result()[0] for each in pending]
    assert [verdict.correct for verdict in verdicts] == [True, True, False, True, False, True, False]
    assert [verdict.outcome for verdict in verdicts] == ["scored"] * 6 + ["truncated"]
    assert verdicts[5] is verdicts[1], "asked once and remembered"
    assert len(scorer._asked) == 4


def test_a_large_suite_is_sent_once_for_all_programs(scorer: RayScorer) -> None:
    suite = [[f"{n} {'1' * 200}", str(n + int("1" * 200))] for n in range(200)]
    tests = json.dumps({"kind": "stdin", "tests": suite})
    assert len(tests) > SHARED_CHARS
    program = "```python\n# {}\na, b = map(int, input().split())\nprint(a {} b)\n```"
    items = [item(tests, program.format(n, "+" if n < 3 else "-"), "code") for n in range(4)]
    assert [scorer.score([each]).result()[0].correct for each in items] == [True] * 3 + [False]
    assert list(scorer._answers._shared) == [tests]


def test_a_worker_killed_at_work_loses_nothing_and_repeats_nothing(scorer: RayScorer, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    messages = [f"m{number}" for number in range(3 * NUM_WORKERS)]
    pending = {
        message: scorer.score([item(str(notes), message, "scoring_rewards:noted")]).slots[0] for message in messages
    }
    futures = {message: slot for message, slot in pending.items() if isinstance(slot, Future)}
    assert wait_for(lambda: sum(future.done() for future in futures.values()) >= NUM_WORKERS, 30)
    arrived = {message for message, future in futures.items() if future.done()}
    before = worker_pids(scorer)
    children = descendants(before[0])
    assert children, "it works through processes of its own"
    os.kill(before[0], signal.SIGKILL)
    assert all(future.result(timeout=60).correct for future in futures.values()) and len(futures) == len(messages)
    done = Counter(notes.read_text().split())
    assert done.keys() == set(messages), "nothing is lost"
    assert all(done[message] == 1 for message in arrived), "what had arrived is not scored again"
    # A verdict that was under way when its worker died is no verdict: it is made again.
    assert done.total() - len(messages) <= THREADS_PER_WORKER
    assert wait_for(lambda: not any(map(is_alive, children)), 10), "its children died with it"
    after = worker_pids(scorer)
    assert len(after) == 2 and before[0] not in after and before[1] in after


@pytest.mark.slow
def test_a_question_that_kills_its_workers_is_a_failure_of_ours(scorer: RayScorer, tmp_path: Path) -> None:
    deadly = scorer.score([item("x", "m", "scoring_rewards:deadly")])
    others = scorer.score([item(str(tmp_path / "notes"), f"m{number}", "scoring_rewards:noted") for number in range(2)])
    (verdict,) = deadly.result()
    assert (verdict.outcome, verdict.reward) == ("sandbox_error", 0.0)
    assert verdict.reason == "3 scoring workers were lost while they judged it"
    assert all(verdict.correct or verdict.outcome == "sandbox_error" for verdict in others.result())
    assert scorer.score([item("p+q", r"\boxed{p+q+0}")]).result()[0].correct, "the next answer is judged"


def test_too_few_cpus_are_told(scorer: RayScorer) -> None:
    with pytest.raises(ValueError, match=r"reward.num_workers=40 CPUs .* which has 8. Lower reward.num_workers"):
        RayAnswers(RewardConfig(num_workers=40), start_timeout_seconds=1)
    with pytest.raises(ValueError, match=r"reward.num_workers=8 CPUs .* 2 CPUs are free. Lower reward.num_workers"):
        RayAnswers(RewardConfig(num_workers=8), start_timeout_seconds=1)


def test_a_node_that_cannot_score_by_a_reward_is_told_at_the_start(scorer: RayScorer) -> None:
    with pytest.raises(ValueError, match=r"cannot be scored on the node [\d.]+: .*absent_package"):
        RayAnswers(RewardConfig(num_workers=1), start_timeout_seconds=60, rewards=["math", "absent_package:score"])
    RayAnswers(RewardConfig(num_workers=1), start_timeout_seconds=60, rewards=["math"]).close()


def test_as_many_workers_as_half_of_the_free_cpus(scorer: RayScorer) -> None:
    assert scorer.num_workers == NUM_WORKERS
    answers = RayAnswers(RewardConfig(), start_timeout_seconds=60)
    assert answers.num_workers == 1, "two CPUs are free"
    answers.close()


def test_where_scoring_runs(scorer: RayScorer) -> None:
    assert scores_on_cluster(RewardConfig(placement="ray"))
    assert not scores_on_cluster(RewardConfig(placement="local"))
    assert not scores_on_cluster(RewardConfig(placement="auto")), "this cluster is one machine"


@pytest.mark.slow
def test_a_worker_that_stands_still_is_replaced(scorer: RayScorer) -> None:
    impatient = RayScorer(
        RewardConfig(num_workers=1, timeout_seconds=1, custom=CustomRewardConfig(timeout_seconds=1)),
        "",
        start_timeout_seconds=20,
    )
    try:
        (stopped,) = worker_pids(impatient)
        os.kill(stopped, signal.SIGSTOP)
        assert impatient.score([item("r+s", r"\boxed{s+r}")]).result()[0].correct
        assert worker_pids(impatient) != [stopped]
    finally:
        impatient.close()


def test_after_close_nothing_is_left(scorer: RayScorer) -> None:
    """The last test, since it closes the scorer of all."""
    pids = set(worker_pids(scorer))
    pids = pids.union(*map(descendants, pids))
    scorer.close()
    scorer.close()
    assert wait_for(lambda: not any(map(is_alive, pids)), 10)
    with pytest.raises(RuntimeError):
        scorer.score([item("u+v", r"\boxed{v+u}")])
