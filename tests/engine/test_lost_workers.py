"""Engines and learners that are killed or stopped under way, on the real machinery."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.engine.cluster import RayEngine, open_engine
from pacore_rl.failures import WorkerDied
from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

pytestmark = pytest.mark.slow


def requests_of(num: int, samples: int) -> list[GenerationRequest]:
    prompts = np.random.default_rng(0).integers(10, 250, size=(num, 24), dtype=np.int32)
    return [GenerationRequest(prompt_ids=prompt, num_samples=samples, seed=seed) for seed, prompt in enumerate(prompts)]


def generate(
    engine: RayEngine, requests: Sequence[GenerationRequest], after_first: Callable[[], None] | None = None
) -> dict[tuple[int, int], Trajectory]:
    """Every response by request and sample; each must come exactly once."""
    sampling = Sampling(max_response_tokens=200, temperature=1.0)
    found: dict[tuple[int, int], Trajectory] = {}
    for index, sample, trajectory in engine.generator.stream(requests, sampling):
        assert (index, sample) not in found, "a response came twice"
        found[index, sample] = trajectory
        if after_first is not None and len(found) == 1:
            after_first()
    assert len(found) == sum(request.num_samples for request in requests), "a response was lost"
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_engine_is_replaced_and_nothing_is_lost_or_doubled(
    tiny_config: Callable[..., Config], how: signal.Signals
) -> None:
    config = tiny_config(rollout={"num_workers": 2}, surviving={"health_timeout_seconds": 15.0})
    requests = requests_of(4, 16)
    with open_engine(config) as engine:
        # Other weights than a fresh engine starts with: the successor must get them.
        rng = np.random.default_rng(1)
        from learner_ranks import make_batch

        batch = make_batch()
        advantages_A = rng.normal(size=batch.num_actions).astype(np.float32)
        old_A, _ = engine.actor.log_probs(batch).result()
        engine.actor.update(batch, old_A, advantages_A, step=1).result()
        engine.sync_weights(1)
        undisturbed = generate(engine, requests)
        victim = engine.rollout.places[1].pid
        disturbed = generate(engine, requests, lambda: os.kill(victim, how))
        assert engine.rollout.places[1].pid != victim
        # Seeded by request: the same tokens, but for a rare one whose probability another batch rounds differently.
        same = [np.array_equal(disturbed[key].response_ids, undisturbed[key].response_ids) for key in undisturbed]
        assert np.mean(same) > 0.9
        assert all((trajectory.weight_versions == 1).all() for trajectory in disturbed.values())
        engine.sync_weights(2)  # all engines are in one group again
        again = generate(engine, requests)
        assert all((trajectory.weight_versions == 2).all() for trajectory in again.values())
        (event,) = [json.loads(line) for line in (config.run_dir / "events.jsonl").read_text().splitlines()]
        assert event["event"] == "engine_replaced" and event["worker"] == 1
        # A learner that is gone is named with its host, and at once.
        os.kill(engine.actor.places[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"actor rank 0 on .* \(pid \d+\)"):
            engine.actor.log_probs(batch).result()


@contextmanager
def striking(config: Config, *, num_rows: int, times: int = 1) -> Iterator[None]:
    """Kill a learner when the run has ``num_rows`` rows of metrics; more often, each time one of the next engine."""

    def learners() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process().children(recursive=True)
            if any("LearnerWorker" in word for word in command_of(child))
        ]

    ended = threading.Event()

    def strike() -> None:
        metrics, known = config.run_dir / "metrics.jsonl", set[int]()
        for _ in range(times):
            there: list[psutil.Process] = []
            while not there or not metrics.exists() or len(metrics.read_bytes().splitlines()) < num_rows:
                if ended.wait(0.02):
                    return
                there = [one for one in learners() if one.pid not in known]
            known.update(one.pid for one in there)
            there[0].kill()

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def command_of(process: psutil.Process) -> list[str]:
    """[] where it has just ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def test_a_killed_learner_restarts_the_run_from_its_last_checkpoint(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None]
) -> None:
    config = tiny_config(trainer={"steps": 5, "checkpoint_every_steps": 2}, rollout={"num_workers": 1})
    undisturbed = config.model_copy(update={"run": config.run.model_copy(update={"name": "undisturbed"})})
    write_data(config)
    runs.train(undisturbed)

    with striking(config, num_rows=3):
        runs.train(config)

    def untimed(folder: Path) -> list[dict[str, Any]]:
        rows = read_metrics(folder / "metrics.jsonl")
        return [
            {key: row[key] for key in row if not key.startswith(("time/", "throughput/", "memory/"))} for row in rows
        ]

    assert untimed(config.run_dir) == untimed(undisturbed.run_dir)
    assert [row["step"] for row in untimed(config.run_dir)] == [1, 2, 3, 4, 5]
    events = [json.loads(line) for line in (config.run_dir / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [("restart", 2)]


def test_learners_that_are_killed_more_often_than_the_limit_end_the_run_and_it_is_named(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None]
) -> None:
    config = tiny_config(
        trainer={"steps": 300, "checkpoint_every_steps": 0},
        rollout={"num_workers": 1},
        surviving={"max_restarts": 1},
    )
    write_data(config)
    told = r"(?s)(actor|critic) rank 0 on .* \(pid \d+\).*surviving\.max_restarts=1 allows no further restart"
    with striking(config, num_rows=1, times=2), pytest.raises(WorkerDied, match=told):
        runs.train(config)
    events = [json.loads(line) for line in (config.run_dir / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [("restart", 0)]
