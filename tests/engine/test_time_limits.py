"""Time limits that are reached: the message names the worker, its host and what it was doing. On real Ray workers that
only sleep, behind the real groups."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from learner_ranks import make_batch
from local_ray import local_ray
from ray import cloudpickle

from pacore_rl.config import Config
from pacore_rl.engine.calls import Calls, EngineLost
from pacore_rl.engine.learner import ActorGroup, LearnerGroup
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.routing import StaticRoute
from pacore_rl.engine.whereabouts import CONTROL, Whereabouts, locate
from pacore_rl.failures import WorkerDied
from pacore_rl.termination import is_termination, termination_raised
from pacore_rl.types import GenerationRequest, Sampling

Start = Callable[..., list[Any]]
FOREVER = 600.0


class Sleeper:
    """Every command takes ``seconds``; as an engine it makes a step whenever it is asked where it is, or none."""

    def __init__(self, seconds: float, steps: bool) -> None:
        self.seconds, self.steps, self.num_steps = seconds, steps, 0

    def whereabouts(self) -> Whereabouts:
        self.num_steps += self.steps
        return Whereabouts.of_this_process(self.num_steps)

    def start(self) -> None: ...

    def tell(self, news: Any) -> None: ...

    def save(self, folder: Path) -> None:
        time.sleep(self.seconds)

    def log_probs(self, micro_batches: Any) -> None:
        time.sleep(self.seconds)

    def sees(self, path: Path) -> bool:
        return self.steps and path.exists()

    def sleep(self) -> None:
        time.sleep(self.seconds)

    def generate(self, *call: Any, more: bool) -> Iterator[list[Any]]:
        time.sleep(self.seconds)
        yield []


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray("test-time-limits", num_cpus=4):
        yield


@pytest.fixture
def start(cluster: None) -> Iterator[Start]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this file
    started: list[Any] = []

    def begin(*seconds: float, stepping: Sequence[int] = ()) -> list[Any]:
        """A worker for each of ``seconds``; those at ``stepping`` make steps."""
        remote: Any = ray.remote(num_cpus=0, concurrency_groups={CONTROL: 1})  # pyright: ignore[reportCallIssue]
        handles = [remote(Sleeper).remote(one, number in stepping) for number, one in enumerate(seconds)]
        started.extend(handles)
        ray.get([handle.start.remote() for handle in handles], timeout=60)
        return handles

    yield begin
    for handle in started:
        ray.kill(handle)


def config_of(*, worker_timeout_seconds: float, num_ranks: int = 1, **surviving: float) -> Config:
    return Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": worker_timeout_seconds},
            "model": {"path": "none"},
            "data": {"path": "none"},
            "actor": {"num_ranks": num_ranks},
            "surviving": surviving,
        }
    )


def engines(handles: Sequence[Any], config: Config) -> RolloutGroup:
    places = ray.get([locate(handle) for handle in handles], timeout=60)
    return RolloutGroup(handles=list(handles), config=config, places=places)


SAMPLING = Sampling(max_response_tokens=4)


def requests_of(group: RolloutGroup) -> list[GenerationRequest]:
    """One for each engine."""
    prompts = [np.arange(10 + number, 20 + number, dtype=np.int32) for number in range(group.num_workers)]
    return [GenerationRequest(prompt_ids=prompt, num_samples=1, seed=seed) for seed, prompt in enumerate(prompts)]


def generating(group: RolloutGroup) -> None:
    for _ in group.stream(requests_of(group), SAMPLING):
        raise AssertionError("nothing was to come")


def named(name: str, handle: Any) -> str:
    """A pattern of a worker's name with its host and process."""
    where = ray.get(locate(handle), timeout=60)
    return re.escape(f"{name} on {where.host} (pid {where.pid})")


def test_a_learner_that_is_late(start: Start, tmp_path: Path) -> None:
    handles = start(0.0, FOREVER)
    learner = LearnerGroup(
        "critic", config_of(worker_timeout_seconds=2), handles, [handle.start.remote() for handle in handles]
    )
    learner.wait_ready()
    begin = time.monotonic()
    late = rf"^{named('critic rank 1', handles[1])}: save did not end within 2 s \(run\.worker_timeout_seconds\)"
    with pytest.raises(TimeoutError, match=late):
        learner.save(tmp_path)
    assert 2 <= time.monotonic() - begin < 20


def test_learners_of_which_none_makes_a_step(start: Start) -> None:
    """As where a collective is stuck: every rank answers where it is, and none gets on."""
    handles = start(0.0, FOREVER)
    config = config_of(worker_timeout_seconds=120, health_timeout_seconds=1, stall_timeout_seconds=2, num_ranks=2)
    learner = ActorGroup("actor", config, handles, [handle.start.remote() for handle in handles])
    learner.wait_ready()
    begin = time.monotonic()
    stalled = rf"^{named('actor rank 1', handles[1])} made no step for \d+ s .*stall_timeout_seconds\) during log_probs"
    with pytest.raises(WorkerDied, match=stalled):
        learner.log_probs(make_batch()).result()
    assert 2 <= time.monotonic() - begin < 60


def test_learners_that_make_steps_have_all_the_time_of_the_command(start: Start) -> None:
    handles = start(FOREVER, FOREVER, stepping=[0])
    config = config_of(worker_timeout_seconds=5, health_timeout_seconds=1, stall_timeout_seconds=2, num_ranks=2)
    learner = ActorGroup("actor", config, handles, [handle.start.remote() for handle in handles])
    learner.wait_ready()
    with pytest.raises(TimeoutError, match="log_probs did not end within 5 s"):
        learner.log_probs(make_batch()).result()


def test_a_rank_that_does_not_see_the_runs_folder_is_named(start: Start, tmp_path: Path) -> None:
    handles = start(0.0, 0.0, stepping=[0])  # which the other does not
    learner = ActorGroup("actor", config_of(worker_timeout_seconds=60), handles, [h.start.remote() for h in handles])
    learner.wait_ready()
    learner.require_folder(tmp_path / "run")  # all on this host: not asked
    elsewhere = [replace(place, node_id="another") for place in learner.places]
    learner.places = elsewhere
    blind = rf"^{named('actor rank 1', handles[1])} does not see .*run.*Set run\.output_dir"
    with pytest.raises(ValueError, match=blind):
        learner.require_folder(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_an_engine_that_is_late_with_a_command(start: Start) -> None:
    handles = start(0.0, FOREVER)
    group = engines(handles, config_of(worker_timeout_seconds=2))
    late = (
        rf"^{named('rollout worker 1', handles[1])} did not finish going to sleep within 2 s; .*worker_timeout_seconds"
    )
    with pytest.raises(TimeoutError, match=late):
        group.wait(group.call_all("sleep"), "going to sleep")


def test_engines_of_which_no_response_comes(start: Start) -> None:
    handles = start(FOREVER, FOREVER)
    group = engines(handles, config_of(worker_timeout_seconds=2))
    names = ", ".join(named(f"rollout worker {number}", handle) for number, handle in enumerate(handles))
    with pytest.raises(TimeoutError, match=rf"^{names} did not finish generating within 2 s"):
        generating(group)


def test_an_engine_that_makes_no_step_is_noticed_beside_one_that_does(start: Start) -> None:
    handles = start(FOREVER, FOREVER, stepping=[0])
    config = config_of(worker_timeout_seconds=120, health_timeout_seconds=2, stall_timeout_seconds=1, max_restarts=0)
    begin = time.monotonic()
    name = named("rollout worker 1", handles[1])
    stalled = rf"^{name} has made no step for \d+ s \(surviving\.stall_timeout_seconds\)\. surviving\.max_restarts=0"
    with pytest.raises(WorkerDied, match=stalled):
        generating(engines(handles, config))
    assert 3 <= time.monotonic() - begin < 60  # it is looked for every two seconds


def test_what_takes_the_place_of_a_stalled_engine_has_the_whole_time_for_its_first_step(start: Start) -> None:
    config = config_of(worker_timeout_seconds=120, health_timeout_seconds=1, stall_timeout_seconds=2)
    group = engines(start(FOREVER), config)
    requests = requests_of(group)
    calls = Calls(group, requests, SAMPLING, StaticRoute(requests, SAMPLING, 1))
    calls.begin()
    with pytest.raises(EngineLost, match="made no step"):
        calls.next_responses()
    begin = time.monotonic()
    calls.ask_again(0)
    with pytest.raises(EngineLost, match="made no step"):
        calls.next_responses()
    assert time.monotonic() - begin >= 2


def test_an_engine_may_take_long_over_a_step(start: Start) -> None:
    """Neither steps nor responses, but the limit on steps is far: the limit on responses is what ends it."""
    handles = start(FOREVER)
    config = config_of(worker_timeout_seconds=3, health_timeout_seconds=1, stall_timeout_seconds=60)
    with pytest.raises(TimeoutError, match="did not finish generating within 3 s"):
        generating(engines(handles, config))


@pytest.mark.parametrize("call", ["get", "wait"])
def test_sigterm_during_a_call_of_rays_is_known_as_one(cluster: None, call: str) -> None:
    remote: Any = ray.remote(num_cpus=0)
    reference = remote(lambda: time.sleep(30)).remote()
    sender = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    with termination_raised(), pytest.raises(KeyboardInterrupt) as raised:
        sender.start()
        ray.get(reference) if call == "get" else ray.wait([reference], timeout=20)
    assert is_termination(raised.value)
    ray.cancel(reference, force=True)
    with termination_raised():
        assert not is_termination(KeyboardInterrupt()), "the next command's Ctrl-C is one"
