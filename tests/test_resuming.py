"""What a run goes on from, and what becomes of the lines that it had written after it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_trainer import World, trainer_of

from pacore_rl.config import Config
from pacore_rl.reporting.jsonl import JOURNALS, read_metrics
from pacore_rl.resuming import go_back_to, prepare_resume
from pacore_rl.runs import prepare_run_dir


@pytest.fixture
def config(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(
        trainer={"steps": 4, "checkpoint_every_steps": 2},
        synthesis={"min_messages": 0, "max_messages": 0},
    )


@pytest.fixture
def trained(config: Config) -> Config:
    """A run of four steps with two checkpoints."""
    trainer = trainer_of(config, World())
    trainer.train()
    assert trainer.checkpoints is not None
    trainer.checkpoints.finish()
    return config


def named(config: Config, name: str) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def checkpoint_of(config: Config, step: int) -> Path:
    return config.run_dir / "checkpoints" / f"step_{step:06d}"


def steps_of(config: Config) -> list[float]:
    return [row["step"] for row in read_metrics(config.run_dir / "metrics.jsonl")]


def resumed(config: Config, resume: str | Path) -> tuple[int, Path] | None:
    """The step and the run that it goes on from."""
    found = prepare_resume(config, str(resume), {})
    return None if found is None else (found.manifest.step, found.folder.parents[1])


def test_auto_takes_the_latest_and_begins_where_there_is_none(trained: Config) -> None:
    assert resumed(trained, "auto") == (4, trained.run_dir)
    assert resumed(named(trained, "new"), "auto") is None


def test_an_earlier_checkpoint_takes_back_what_came_after(trained: Config) -> None:
    assert resumed(trained, checkpoint_of(trained, 2)) == (2, trained.run_dir)
    assert steps_of(trained) == [1, 2]
    assert not checkpoint_of(trained, 4).exists()
    assert [path.name for path in (trained.run_dir / "checkpoints").glob("*left_behind*")]


def test_every_journal_is_cut_back(trained: Config) -> None:
    for name in JOURNALS:
        with (trained.run_dir / name).open("a") as file:
            file.write("written after the checkpoint\n")
    assert resumed(trained, "auto") == (4, trained.run_dir)
    assert steps_of(trained) == [1, 2, 3, 4]
    assert (trained.run_dir / "online_pool.jsonl").read_text() == "", "messages of a policy that is no more"


def test_the_checkpoint_of_another_run_is_gone_back_to_until_there_is_an_own_one(trained: Config) -> None:
    other, origin = named(trained, "other"), checkpoint_of(trained, 2)
    for resume in (origin, "auto", origin):  # a launcher that starts again what was killed
        assert resumed(other, resume) == (2, trained.run_dir)
        (other.run_dir / "metrics.jsonl").write_text('{"schema": 1, "step": 3}\n')
    shutil.copytree(checkpoint_of(trained, 4), checkpoint_of(other, 4))
    shutil.copy(trained.run_dir / "metrics.jsonl", other.run_dir)
    for resume in (origin, "auto"):
        assert resumed(other, resume) == (4, other.run_dir)
    with pytest.raises(ValueError, match="holds a run of its own"):
        resumed(other, checkpoint_of(trained, 4))


def test_where_no_checkpoint_is_whole_nothing_is_undone(trained: Config) -> None:
    for step in (2, 4):
        (checkpoint_of(trained, step) / "weights.txt").write_text("torn")
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* is whole.*run\.name"):
        resumed(trained, "auto")
    assert steps_of(trained) == [1, 2, 3, 4]


def test_a_run_that_begins_takes_nothing_from_a_try_that_ended_before_its_first_step(trained: Config) -> None:
    other = named(trained, "other")
    prepare_resume(other, str(checkpoint_of(trained, 2)), {})
    (other.run_dir / "online_pool.jsonl").write_text("a message of another model\n")
    prepare_run_dir(other)
    assert (other.run_dir / "online_pool.jsonl").read_text() == ""
    assert resumed(other, "auto") is None
    go_back_to(other, None)
    with pytest.raises(ValueError, match="already holds a run"):
        prepare_run_dir(trained)
