"""A gradient that is no number leaves the weights alone; the recipe says whether the run goes on."""

from __future__ import annotations

import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_helpers import config_of
from learner_ranks import CPU, fork_context, make_batch

from pacore_rl.config import Config
from pacore_rl.engine.learner_worker import LearnerWorker
from pacore_rl.ppo.batch import scatter_flat

BATCH = make_batch()


def account(results: Connection, config: Config) -> None:
    try:
        results.send(updates(config))
    except BaseException:
        results.send(traceback.format_exc())


def updates(config: Config) -> list[tuple[str, bool, float]]:
    """Outcome, whether the step was skipped, and the largest move of a weight: of a poisoned and of a sound step."""
    worker = LearnerWorker(role="actor", rank=0, config=config, device=CPU)
    worker.start(worker.rendezvous())
    old_A = scatter_flat([worker.log_probs(BATCH.rows)[:2]], BATCH.num_actions)
    sound_A = np.random.default_rng(0).normal(size=BATCH.num_actions).astype(np.float32)
    poisoned_A = sound_A.copy()
    poisoned_A[3] = np.nan
    found: list[tuple[str, bool, float]] = []
    for targets_A in (poisoned_A, sound_A):
        before = worker.full_weights()
        outcome, skipped = "updated", False
        try:
            (result,) = worker.update(BATCH.rows, old_A, targets_A, step=1)
            skipped = result.skipped
        except FloatingPointError as error:
            outcome = str(error)
        moved = max(float((weight - before[name]).abs().max()) for name, weight in worker.full_weights().items())
        found.append((outcome, skipped, moved))
        if outcome != "updated":
            break  # a run that stops makes no further step
    worker.close()
    return found


@pytest.mark.parametrize(("policy", "zero_stage"), [("stop", 1), ("skip", 1), ("skip", 3)])
def test_a_loss_that_is_no_number(tiny_model_dir: Path, policy: str, zero_stage: int) -> None:
    base: Any = config_of(tiny_model_dir, zero_stage=zero_stage).model_dump()
    config = Config.model_validate(base | {"surviving": {"on_nonfinite": policy}})
    context = fork_context()
    mine, results = context.Pipe(duplex=False)
    context.Process(target=account, args=(results, config), daemon=True).start()
    results.close()
    assert mine.poll(250), "no answer in time"
    found = mine.recv()
    assert not isinstance(found, str), found
    outcome, skipped, moved = found[0]
    assert moved == 0.0
    if policy == "stop":
        assert "the loss of step 1 is nan" in outcome and not skipped
    else:
        assert (outcome, skipped) == ("updated", True)
        assert found[1][:2] == ("updated", False) and found[1][2] > 1e-4
        assert torch.isfinite(torch.tensor(found[1][2]))
