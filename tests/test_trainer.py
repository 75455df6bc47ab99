"""The loop on machinery that fits on a page: SIGTERM at any moment, and the policies of a recipe."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pacore_rl.checkpoints.files import WrittenFile, sync_and_hash
from pacore_rl.checkpoints.manifest import open_checkpoint
from pacore_rl.checkpoints.store import CheckpointStore
from pacore_rl.config import Config
from pacore_rl.failures import RunStopped
from pacore_rl.interfaces import ResponseStream
from pacore_rl.reporting.jsonl import JsonlSink, read_metrics
from pacore_rl.reporting.sample_file import SAMPLES, SampleFile, read_samples
from pacore_rl.termination import Terminated, TerminatedSaved, termination_raised
from pacore_rl.trainer import Trainer
from pacore_rl.types import (
    ExperienceBatch,
    Finish,
    Float32,
    GenerationRequest,
    Int32,
    Problem,
    Trajectory,
    Turn,
    Verdict,
)


@dataclass(frozen=True)
class Done:
    value: Any
    on: Callable[[str], None] = lambda what: None

    def result(self) -> Any:
        self.on("result")
        return self.value


@dataclass
class World:
    """Actor, critic, generator, scorer and engine at once; the weights are one number, the count of actor updates."""

    weights: int = 0
    weight_version: int = 0
    context_window_tokens: int = 512
    held: int | None = None
    """The snapshot."""
    gap: float = 0.0
    """Between engine and trainer, in nats."""
    rewards: Callable[[int], float] = lambda number: float(number % 2)
    on: Callable[[str], None] = lambda what: None
    """Told of everything that happens."""
    num_unscored: int = 0
    """Of the first responses: those that the scorer fails on."""
    num_scored: int = 0
    num_workers: int = 2
    learners_share_gpus: bool = False
    updates: list[int] = field(default_factory=list[int])

    @property
    def generator(self) -> World:
        return self

    actor = critic = generator

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Any, *, enough: int | None = None
    ) -> ResponseStream:
        self.on("generate")
        for index, request in enumerate(requests):
            for sample in range(request.num_samples):
                yield (
                    index,
                    sample,
                    Trajectory(
                        prompt_ids=request.prompt_ids,
                        response_ids=np.array([self.weights % 7, sample], np.int32),
                        logprobs=np.zeros(2, np.float32),
                        text="text",
                        finish="stopped",
                        weight_versions=np.full(2, self.weight_version, np.int32),
                    ),
                )

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Done:
        verdicts: list[Verdict] = []
        for _ in items:
            reward = self.rewards(self.num_scored)
            verdict = Verdict(reward=reward, correct=reward == 1, outcome="scored", reason="")
            if self.num_scored < self.num_unscored:
                verdict = Verdict(reward=0.0, correct=False, outcome="sandbox_error", reason="no sandbox today")
            verdicts.append(verdict)
            self.num_scored += 1
        return Done(verdicts)

    def log_probs(self, batch: ExperienceBatch) -> Done:
        self.on("log-probs")
        return Done((batch.engine_logprobs_A + np.float32(self.gap), np.zeros(batch.num_actions, np.float32)))

    def values(self, batch: ExperienceBatch) -> Done:
        self.on("values")
        return Done(np.zeros(batch.num_actions, np.float32), self.on)

    def update(self, batch: ExperienceBatch, old_A: Float32, targets_A: Float32, *, step: int) -> Done:
        self.on("update")
        self.weights += 1
        self.updates.append(step)
        return Done({"loss": 0.0}, self.on)

    def save(self, folder: Path) -> None:
        raise AssertionError("checkpoints are written from snapshots")

    def turn_to(self, work: str) -> None: ...

    def sync_weights(self, version: int) -> None:
        self.on("sync")
        self.weight_version = version

    def snapshot(self) -> None:
        self.held = self.weights

    def write_snapshot(self, folder: Path) -> Done:
        path = folder / "weights.txt"
        path.write_text(str(self.held))
        files: list[WrittenFile] = [sync_and_hash(path, folder)]
        return Done(files)

    def load_state(self, folder: Path, version: int) -> None:
        self.weights, self.weight_version = int((folder / "weights.txt").read_text()), version

    def close(self) -> None: ...


class Letters:
    def encode_chat(self, conversation: Sequence[Turn]) -> Int32:
        return np.arange(4, dtype=np.int32)

    def decode(self, token_ids: Int32) -> str:
        return "text"

    def count(self, text: str) -> int:
        return len(text)


@pytest.fixture
def config(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(
        trainer={"steps": 4, "checkpoint_every_steps": 2},
        synthesis={"min_messages": 0, "max_messages": 0},
    )


def trainer_of(config: Config, world: World) -> Trainer:
    problems = [
        Problem(id=f"p{i}", conversation=(Turn(role="user", content=f"{i}"),), ground_truth="1") for i in range(12)
    ]
    engine: Any = world
    return Trainer(
        config=config,
        engine=engine,
        scorer=engine,
        tokenizer=Letters(),
        problems=problems,
        pool={},
        sinks=[JsonlSink(config.run_dir / "metrics.jsonl")],
        checkpoints=CheckpointStore(config, data={}),
    )


def metrics_of(config: Config) -> list[Mapping[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(("time/", "throughput/", "memory/"))}
        for row in read_metrics(config.run_dir / "metrics.jsonl")
    ]


@pytest.fixture
def terminates() -> Iterator[None]:
    """SIGTERM raises, as the command line has it."""
    with termination_raised():
        yield


@pytest.mark.parametrize(
    ("moment", "saved_step", "in_ray"),
    [("generate", 2, False), ("generate", 2, True), ("update", 3, False), ("sync", 3, False)],
)
def test_sigterm_saves_the_last_whole_step_and_the_run_goes_on_as_if_nothing_had_been(
    config: Config, terminates: None, moment: str, saved_step: int, in_ray: bool
) -> None:
    """In the third step: before the update it is undone, from the update on it is finished first."""
    world = World()

    def on(what: str) -> None:
        if what == moment and len(world.updates) == 4 + 2 * (moment == "sync"):
            world.on = lambda _: None
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Terminated:
                if in_ray:
                    raise KeyboardInterrupt from None  # as Ray's calls do, see tests/engine/test_time_limits.py
                raise

    world.on = on
    with pytest.raises(TerminatedSaved):
        trainer_of(config, world).train()
    folder = config.run_dir / "checkpoints" / f"step_{saved_step:06d}"
    checkpoint = open_checkpoint(folder)
    assert (folder / "weights.txt").read_text() == str(2 * saved_step)
    assert checkpoint.manifest.weight_version == saved_step

    after = World()
    trainer_of(config, after).train(resume=checkpoint)
    whole = config.model_copy(update={"run": config.run.model_copy(update={"name": "whole"})})
    trainer_of(whole, World()).train()
    assert metrics_of(config) == metrics_of(whole) and after.weights == 8


def test_sigterm_before_the_first_step_has_nothing_to_save(config: Config, terminates: None) -> None:
    world = World()
    world.on = lambda what: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated) as ended:
        trainer_of(config, world).train()
    assert not isinstance(ended.value, TerminatedSaved) and not (config.run_dir / "checkpoints").exists()


@pytest.mark.parametrize("policy", ["stop", "skip", "warn"])
def test_a_log_prob_gap_above_the_limit(
    tiny_config: Callable[..., Config], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(
        trainer={"steps": 2, "checkpoint_every_steps": 0},
        synthesis={"min_messages": 0, "max_messages": 0},
        ppo={"max_logprob_gap": 0.1},
        surviving={"on_logprob_gap": policy},
    )
    world = World(gap=0.2)
    if policy == "stop":
        with pytest.raises(RunStopped, match=r"disagree by 0.2 nats"):
            trainer_of(config, world).train()
        assert not world.updates
        return
    trainer_of(config, world).train()
    assert "disagree by 0.2 nats" in caplog.text and f"on_logprob_gap={policy}" in caplog.text
    skipped = [row.get("policy/skipped_step", 0.0) for row in metrics_of(config)]
    if policy == "skip":
        # Nothing was learned, so nothing is sent: both steps sample from version 0.
        assert skipped == [1.0, 1.0] and not world.updates and world.weight_version == 0
    else:
        assert skipped == [0.0, 0.0] and world.updates == [1, 1, 2, 2]


@pytest.mark.parametrize(("num_failed", "stops"), [(0, False), (4, False), (5, True)])
def test_scoring_that_fails_too_often_stops_the_run(
    tiny_config: Callable[..., Config], num_failed: int, stops: bool
) -> None:
    """A quarter of 16 responses may fail: the others are learned from; one more, and nothing is."""
    config = tiny_config(
        trainer={"steps": 1, "checkpoint_every_steps": 0},
        synthesis={"min_messages": 0, "max_messages": 0},
        reward={"max_failed_share": 0.25},
    )
    world = World(num_unscored=num_failed)
    if stops:
        with pytest.raises(RunStopped, match=r"5 of 16 scorings failed .*max_failed_share=0.25.*no sandbox today"):
            trainer_of(config, world).train()
        assert not world.updates
        return
    trainer_of(config, world).train()
    assert world.updates


@pytest.mark.parametrize("policy", ["warn", "stop"])
def test_equal_rewards_for_long(
    tiny_config: Callable[..., Config], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(
        trainer={"steps": 5, "checkpoint_every_steps": 0},
        synthesis={"min_messages": 0, "max_messages": 0},
        surviving={"on_equal_rewards": policy, "equal_rewards_steps": 2},
    )
    # Steps 1 and 3 to 5 are all wrong; step 2 is not.
    world = World(rewards=lambda number: float(16 <= number < 32 and number % 2))
    if policy == "stop":
        with pytest.raises(RunStopped, match="all rewards were 0 for 2 steps in a row"):
            trainer_of(config, world).train()
        assert [row["step"] for row in metrics_of(config)] == [1, 2, 3]
    else:
        trainer_of(config, world).train()
        assert caplog.text.count("all rewards were 0 for 2 steps") == 1  # said once, not at every step


@pytest.mark.parametrize("share", [False, True])
def test_the_actor_follows_the_critic_where_they_share_gpus(config: Config, share: bool) -> None:
    happened: list[str] = []
    trainer_of(config, World(learners_share_gpus=share, on=happened.append)).train()
    step = happened[happened.index("values") : happened.index("sync")]
    waits, update = ["result"] * share, step.index("update")
    assert step[: 2 + share] == ["values", *waits, "log-probs"]
    assert step[update : update + 2 + share] == ["update", *waits, "update"]


def test_a_step_knows_its_responses(config: Config) -> None:
    trainer_of(config, World()).train()
    assert [(row["response/count"], row["response/distinct_count"]) for row in metrics_of(config)] == [(16, 16)] * 4


def test_every_step_shows_readers_an_excerpt_of_its_responses(config: Config) -> None:
    trainer = trainer_of(config, World())
    file = SampleFile(config.run_dir / SAMPLES)
    replace(trainer, sample_sinks=[file]).train()
    file.close()
    samples = read_samples(config.run_dir / SAMPLES)
    settings = config.logging
    assert [one.step for one in samples] == [step for step in (1, 2, 3, 4) for _ in range(2)]
    assert settings.sample_problems_per_step == 2 and all(len(one.responses) == 4 for one in samples)
    # The weights before a step's update are what its responses were sampled from.
    assert [one.responses[0].weight_version for one in samples] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(one.num_responses == config.ppo.responses_per_problem for one in samples)
