"""Learners that die under way: the loop on machinery that fits on a page, started again from its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from test_trainer import World, metrics_of, trainer_of

from pacore_rl.checkpoints.manifest import Checkpoint, open_checkpoint
from pacore_rl.config import Config
from pacore_rl.failures import WorkerDied
from pacore_rl.resuming import open_store, prepare_resume, train_through


def train_on_learners_that_die(
    config: Config, dies: Callable[[World], bool], start: Checkpoint | None = None
) -> list[float]:
    """The run with restarts; ``dies``: at an update, whether the learner does. How long each engine waits for nodes."""
    waits: list[float] = []

    @contextmanager
    def open_world(config: Config, *, wait_seconds: float) -> Iterator[Any]:
        waits.append(wait_seconds)
        world = World()

        def on(what: str) -> None:
            if what == "update" and dies(world):
                raise WorkerDied("actor rank 0 on host-7 (pid 41) died during update")

        world.on = on
        yield world

    with open_store(config, {}) as store:

        def attempt(engine: Any, start: Checkpoint | None) -> None:
            replace(trainer_of(config, engine), checkpoints=store).train(resume=start)

        try:
            train_through(config, store, attempt, start, open_engine=open_world)
        finally:
            store.finish()
    return waits


def restarts_of(config: Config) -> list[tuple[str, int]]:
    lines = (config.run_dir / "events.jsonl").read_text().splitlines()
    return [(event["event"], event["step"]) for event in map(json.loads, lines)]


@pytest.mark.parametrize("limit", [0, 2])
def test_a_learner_that_dies_more_often_than_the_limit_ends_the_run_and_names_it(
    tiny_config: Callable[..., Config], limit: int
) -> None:
    config = tiny_config(
        trainer={"steps": 4, "checkpoint_every_steps": 2},
        synthesis={"min_messages": 0, "max_messages": 0},
        surviving={"max_restarts": limit},
    )
    num_deaths = 0

    def in_the_third_step(world: World) -> bool:
        nonlocal num_deaths
        num_deaths += world.weights == 4  # two updates a step
        return world.weights == 4

    told = rf"(?s)actor rank 0 on host-7 .*died during update.*surviving\.max_restarts={limit} allows.*--resume auto"
    with pytest.raises(WorkerDied, match=told):
        train_on_learners_that_die(config, in_the_third_step)
    assert num_deaths == limit + 1
    assert [row["step"] for row in metrics_of(config)] == [1, 2]
    if limit:
        assert restarts_of(config) == [("restart", 2)] * limit
    assert open_checkpoint(config.run_dir / "checkpoints" / "step_000002").manifest.step == 2


def test_a_checkpoint_in_between_begins_the_count_of_restarts_anew(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(
        trainer={"steps": 4, "checkpoint_every_steps": 1},
        synthesis={"min_messages": 0, "max_messages": 0},
        surviving={"max_restarts": 1, "node_wait_seconds": 7.0},
    )
    left = {2, 4, 6}

    def once_in_every_later_step(world: World) -> bool:
        if world.weights not in left:
            return False
        left.remove(world.weights)
        return True

    assert train_on_learners_that_die(config, once_in_every_later_step) == [0.0, 7.0, 7.0, 7.0]
    assert restarts_of(config) == [("restart", 1), ("restart", 2), ("restart", 3)]
    whole = config.model_copy(update={"run": config.run.model_copy(update={"name": "whole"})})
    trainer_of(whole, World()).train()
    assert metrics_of(config) == metrics_of(whole)


def test_a_run_that_began_from_the_checkpoint_of_another_goes_back_there(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(
        trainer={"steps": 4, "checkpoint_every_steps": 2},
        synthesis={"min_messages": 0, "max_messages": 0},
    )
    trainer = trainer_of(config, World())
    trainer.train()
    assert trainer.checkpoints is not None
    trainer.checkpoints.finish()
    origin = config.run_dir / "checkpoints" / "step_000002"
    other = config.model_copy(update={"run": config.run.model_copy(update={"name": "other"})})
    start = prepare_resume(other, str(origin), {})
    left = {4}

    def once_before_its_first_checkpoint(world: World) -> bool:
        if world.weights not in left:
            return False
        left.remove(world.weights)
        return True

    train_on_learners_that_die(other, once_before_its_first_checkpoint, start)
    assert restarts_of(other) == [("restart", 2)]
    assert metrics_of(other) == metrics_of(config)[2:]
