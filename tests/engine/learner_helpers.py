"""What the tests of learners share: batches of random rows, and the engine's log-probs beside the trainer's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from batches import make_batch
from numpy.typing import NDArray

from pacore_rl.config import Config
from pacore_rl.engine.learner import ActorGroup
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.types import ExperienceBatch, GenerationRequest, Sampling

GREEDY = Sampling(temperature=0.0, max_response_tokens=12)


def config_of(model: Path, **learner: Any) -> Config:
    """A CPU configuration whose actor and critic have the given settings, with one small engine."""
    learner = {"learning_rate": 1e-3, "warmup_steps": 0, "micro_batch_tokens": 90, "logprob_chunk_tokens": 32} | learner
    return Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 120.0},
            "model": {"path": str(model), "context_window_tokens": 128},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 8},
            "ppo": {"problems_per_step": 4, "responses_per_problem": 4, "critic_minibatches": 1},
            "actor": learner,
            "critic": learner,
            "rollout": {"kv_cache_gib": 0.25, "max_concurrent_sequences": 64},
        }
    )


def experience(rows: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> ExperienceBatch:
    """(prompt, response) pairs as a batch with random rewards."""
    return make_batch(rows, np.random.default_rng(3).random(len(rows)))


def greedy_log_probs(engine: RolloutGroup, actor: ActorGroup) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Greedy responses to six prompts: tokens, the engine's log-probs and the trainer's, all [A]."""
    requests = [
        GenerationRequest(
            prompt_ids=np.random.default_rng(seed).integers(10, 250, size=20, dtype=np.int32), num_samples=1, seed=seed
        )
        for seed in range(6)
    ]
    finished = dict(engine.generate(requests, GREEDY))
    trajectories = [finished[index][0] for index in range(6)]
    batch = experience([(trajectory.prompt_ids, trajectory.response_ids) for trajectory in trajectories])
    return (
        np.concatenate([trajectory.response_ids for trajectory in trajectories]),
        np.concatenate([trajectory.logprobs for trajectory in trajectories]),
        actor.log_probs(batch).result()[0],
    )


def check_sync(engine: RolloutGroup, actor: ActorGroup, stale: float) -> None:
    """After a sync the engine's log-probs are the trainer's; before it, they differed by more than ``stale``."""
    from pacore_rl.engine import weight_sync
    from pacore_rl.engine.placement import Device

    _, engine_A, trainer_A = greedy_log_probs(engine, actor)
    assert np.abs(engine_A - trainer_A).max() > stale
    weight_sync.connect(engine, actor.handles, device=Device(kind="cpu", cpu_threads=1))
    weight_sync.sync(engine, actor.handles, engine.weight_version + 1)
    _, engine_A, trainer_A = greedy_log_probs(engine, actor)
    np.testing.assert_allclose(engine_A, trainer_A, atol=1e-4)
