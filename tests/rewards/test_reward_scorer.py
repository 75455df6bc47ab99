from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from reward_helpers import boxed, children_of, is_alive, problem, wait_until_dead

from pacore_rl.config import RewardConfig
from pacore_rl.interfaces import Scorer
from pacore_rl.rewards.checker_pool import CheckerPool
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.registry import reward_of
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Finish, Problem, Verdict

# Passes the guard, and keeps sympy busy for longer than any limit of these tests.
SLOW = r"f(x)=C \log x"
SLOW_TRUTH = r"f(x)=A \log x + B"


@pytest.fixture
def own() -> Iterator[LocalScorer]:
    scorer = LocalScorer(RewardConfig(num_workers=2, timeout_seconds=5), "</think>")
    yield scorer
    scorer.close()


def item(answer: str, ground_truth: str, reward: str = "math") -> tuple[Problem, str, Finish]:
    return problem(ground_truth, reward), boxed(answer), "stopped"


def pids_of(scorer: LocalScorer) -> tuple[int, ...]:
    return scorer._answers.tools.checkers.pids


def _as_protocol(scorer: LocalScorer) -> Scorer:
    """For the type checker: a LocalScorer is a Scorer."""
    return scorer


def test_nothing_starts_before_it_is_needed_and_nothing_stays(own: LocalScorer) -> None:
    before = children_of(os.getpid())
    assert own.score([item("3", "3"), item("0.5", "1/2")]).result()[0].correct
    assert pids_of(own) == () and children_of(os.getpid()) == before
    assert own.score([item(r"\sqrt{50}", r"5\sqrt2"), item("b+a", "a+b")]).result()[1].correct
    pids = pids_of(own)
    assert len(pids) >= 2
    own.close()
    assert wait_until_dead(pids, 5) and children_of(os.getpid()) == before
    own.close()
    with pytest.raises(RuntimeError):
        own.score([item(r"\sqrt{51}", r"5\sqrt2")])


def test_score_does_not_wait(scorer: LocalScorer) -> None:
    started = time.monotonic()
    pending = scorer.score([item(f"{index}+a", f"a+{index}") for index in range(20)])
    assert time.monotonic() - started < 0.2
    assert all(verdict.correct for verdict in pending.result())
    assert pending.result() == pending.result()


def test_order_duplicates_and_memory(scorer: LocalScorer) -> None:
    before = len(scorer._asked)
    items = [item(answer, "p+q") for answer in ["q+p", "p-q", "q+p", "q + p", "3"] * 10]
    verdicts = scorer.score(items).result()
    assert [verdict.correct for verdict in verdicts] == [True, False, True, True, False] * 10
    assert len(scorer._asked) == before + 3
    started = time.monotonic()
    assert scorer.score(items).result() == verdicts
    assert time.monotonic() - started < 0.05


def test_killed_while_working_is_asked_again(own: LocalScorer) -> None:
    own.score([item("b+a", "a+b")]).result()
    template, checker = pids_of(own)
    os.kill(checker, signal.SIGSTOP)  # so that the kill falls into the work, however fast the machine
    pending = own.score([item("c+a", "a+c")])
    time.sleep(0.2)
    os.kill(checker, signal.SIGKILL)
    assert pending.result()[0].correct
    assert pids_of(own)[0] == template and checker not in pids_of(own)


def test_the_template_killed_while_working(own: LocalScorer) -> None:
    own.score([item("b+a", "a+b")]).result()
    old = pids_of(own)
    os.kill(old[1], signal.SIGSTOP)
    pending = own.score([item("c+a", "a+c"), item("d+a", "a+d")])
    time.sleep(0.2)
    os.kill(old[0], signal.SIGKILL)
    assert [verdict.correct for verdict in pending.result()] == [True, True]
    assert wait_until_dead(old, 5)


def test_a_failure_of_ours_is_no_zero() -> None:
    """Whatever computes is killed, again and again: the verdict says that it was us, and is not remembered."""
    scorer = LocalScorer(RewardConfig(num_workers=1, timeout_seconds=20), "</think>")
    done = threading.Event()

    def kill_checkers() -> None:
        while not done.wait(0.02):
            for pid in pids_of(scorer)[1:]:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_checkers)
    killer.start()
    try:
        verdict = scorer.score([item(SLOW, SLOW_TRUTH)]).result()[0]
        assert verdict.outcome == "sandbox_error" and not verdict.correct
        assert "died" in verdict.reason
    finally:
        done.set()
        killer.join()
    assert scorer.score([item("b+a", "a+b")]).result()[0].correct
    assert len(scorer._asked) == 1
    scorer.close()


def test_standing_still_is_a_failure_of_ours() -> None:
    pool = CheckerPool(timeout_seconds=3)
    assert pool.ask("a+b", "b+a").outcome == "equal"
    os.kill(pool.pids[1], signal.SIGSTOP)
    reply = pool.ask("a+c", "c+a")
    assert reply.outcome == "equal" and reply.seconds >= 3  # the second try, on a fresh checker
    pool.close()
    assert pool.ask("a", "b").outcome == "failed"


def test_a_timeout_is_the_answers_fault() -> None:
    scorer = LocalScorer(RewardConfig(num_workers=1, timeout_seconds=1), "</think>")
    assert scorer.score([item("a+b", "b+a")]).result()[0].correct  # its processes have started
    verdict = scorer.score([item(SLOW, SLOW_TRUTH)]).result()[0]
    assert (verdict.outcome, verdict.reward) == ("timeout", 0.0)
    assert 0.3 < verdict.seconds < 5
    assert scorer.score([item("b+a", "a+b")]).result()[0].correct
    scorer.close()


def test_the_parent_kills_what_holds_the_interpreter() -> None:
    """One C call that no alarm interrupts; the guard is passed by, to reach the checker with it."""
    pool = CheckerPool(timeout_seconds=1.5)
    assert pool.ask("a+b", "b+a").outcome == "equal"  # its processes have started
    started = time.monotonic()
    reply = pool.ask("(3^{99999999})^{2}", "(3^{99999999})^{3}")
    assert reply.outcome == "timeout" and time.monotonic() - started < 8
    assert pool.ask("a+b", "b+a").outcome == "equal"
    pool.close()


def test_closing_in_the_middle_of_work() -> None:
    scorer = LocalScorer(RewardConfig(num_workers=2, timeout_seconds=30), "</think>")
    scorer.score([item("b+a", "a+b")]).result()
    pending = scorer.score([item(SLOW, f"{SLOW_TRUTH}+{index}") for index in range(6)])
    time.sleep(0.1)
    pids = pids_of(scorer)
    started = time.monotonic()
    scorer.close()
    assert time.monotonic() - started < 5
    assert wait_until_dead(pids, 5)
    with pytest.raises(RuntimeError, match="closed"):
        pending.result()


def test_in_threads_and_under_asyncio(scorer: LocalScorer) -> None:
    found: list[Verdict] = []

    def from_thread(index: int) -> None:
        found.extend(scorer.score([item(f"{index}+x", f"x+{index}")]).result())

    threads = [threading.Thread(target=from_thread, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8 and all(verdict.correct for verdict in found)

    async def under_asyncio() -> list[Verdict]:
        return await asyncio.to_thread(scorer.score([item("y+x", "x+y")]).result)

    assert asyncio.run(under_asyncio())[0].correct

    async def blocking_in_the_loop() -> list[Verdict]:
        return scorer.score([item("z+x", "x+z")]).result()

    assert asyncio.run(blocking_in_the_loop())[0].correct


def test_processes_die_with_a_killed_parent() -> None:
    program = """
import os, signal
from pacore_rl.config import RewardConfig
from pacore_rl.rewards.checker_pool import CheckerPool
pool = CheckerPool(5)
assert pool.ask("a+b", "b+a").outcome == "equal"
print(*pool.pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    pids = tuple(int(pid) for pid in run.stdout.split())
    assert run.returncode == -signal.SIGKILL and len(pids) == 2, run.stderr
    assert wait_until_dead(pids, 5)


def test_the_scorer_loads_no_engine_and_no_algebra() -> None:
    program = """
import sys
import pacore_rl.rewards.scorer, pacore_rl.rewards.ground_truths
heavy = {"ray", "vllm", "deepspeed", "wandb", "torch", "sympy", "math_verify"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_unknown_rewards_are_refused_with_the_nearest_name(scorer: LocalScorer) -> None:
    with pytest.raises(ValueError, match="did you mean 'math'"):
        reward_of("maths")
    with pytest.raises(ValueError, match="'exact', 'judge', 'math', 'code'"):
        reward_of("zzz")
    with pytest.raises(ValueError, match="unknown reward"):
        scorer.score([item("3", "3", "exakt")])


def test_ground_truths_are_checked_against_themselves() -> None:
    good = [problem("A-E=22", "exact"), problem("12", "math"), problem("Yes", "math")]
    bad = [
        problem("", "exact"),
        problem("{3", "exact"),
        problem("7" * 1001, "math"),
        problem(r"\sum_{k=1}^{n} k", "math"),
        problem(r"\frac{", "math"),
        problem("because it is so, as the figure shows?!", "math"),
        problem("3", "maths"),
    ]
    found = check_ground_truths([*good, problem("x+1", "math"), *bad])
    assert [entry for entry, _ in found] == bad
    assert all(reason for _, reason in found)
    assert check_ground_truths(good) == []


def test_checking_exact_ground_truths_is_cheap() -> None:
    problems = [problem(f"A-E={index}", "exact") for index in range(2000)]
    started = time.perf_counter()
    assert check_ground_truths(problems) == []
    assert time.perf_counter() - started < 0.5
