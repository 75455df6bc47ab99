"""An off-policy run that is stopped takes up what was in flight: nothing is lost, nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from test_collection import LongTailed
from test_trainer import World, metrics_of, trainer_of

from pacore_rl.checkpoints.manifest import open_checkpoint
from pacore_rl.config import Config
from pacore_rl.interfaces import ResponseStream
from pacore_rl.types import GenerationRequest


class Stopped(Exception):
    pass


class LongTailedWorld(World):
    """Its generator is interrupted once enough responses have ended; a few more end then."""

    continued = 0
    """Requests that went on with what an older policy had begun."""

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Any, *, enough: int | None = None
    ) -> ResponseStream:
        self.on("generate")
        self.continued += sum(request.continues is not None for request in requests)
        generator = LongTailed(weight_version=self.weight_version, burst=3)
        yield from generator.stream(requests, sampling, enough=enough)


def test_what_was_in_flight_is_gone_on_with(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(
        trainer={"steps": 5, "checkpoint_every_steps": 2},
        synthesis={"min_messages": 0, "max_messages": 0},
        ppo={"oversample": 0.5, "importance_cap": 8.0, "max_logprob_gap": None},
    )
    world = LongTailedWorld()

    def on(what: str) -> None:
        if what == "generate" and len(world.updates) == 2 * 2:  # actor and critic, in the third step
            raise Stopped

    world.on = on
    trainer = trainer_of(config, world)
    with pytest.raises(Stopped):
        trainer.train()
    assert trainer.checkpoints is not None
    trainer.checkpoints.finish()
    checkpoint = open_checkpoint(config.run_dir / "checkpoints" / "step_000002")
    after = LongTailedWorld(num_scored=world.num_scored)
    trainer_of(config, after).train(resume=checkpoint)

    whole = config.model_copy(update={"run": config.run.model_copy(update={"name": "whole"})})
    undisturbed = LongTailedWorld()
    trainer_of(whole, undisturbed).train()
    rows = metrics_of(whole)
    assert metrics_of(config) == rows
    assert world.continued + after.continued == undisturbed.continued > 0
    assert max(row["policy/stale_token_share"] for row in rows) > 0
    assert world.num_scored < after.num_scored == undisturbed.num_scored
