"""One PPO iteration comes to the same in every layout: ranks, shared sequences, ZeRO, packing, memory savings."""

from __future__ import annotations

from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_ranks import Iteration, RunningIteration, fork_context, make_batch, move_in_bfloat16
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pacore_rl.config import Config
from pacore_rl.engine.learner_passes import Role
from pacore_rl.ppo.advantages import normalize_advantages

TINY_BASE = Path(__file__).resolve().parents[2] / "recipes" / "tiny_base"
ALONE = "a row at a time"
LAYOUTS: dict[str, dict[str, Any]] = {
    ALONE: {"micro_batch_tokens": 1},
    "all rows at once": {"micro_batch_tokens": 10_000},
    "four rows at a time, layer inputs kept on the host": {
        "micro_batch_tokens": 140,
        "gradient_checkpointing": True,
        "offload_checkpoints": True,
    },
    "ZeRO-1, optimizer on the host": {"num_ranks": 2, "zero_stage": 1, "offload_optimizer": True},
    "ZeRO-1": {"num_ranks": 2, "zero_stage": 1},
    "ZeRO-2": {"num_ranks": 2, "zero_stage": 2},
    "ZeRO-3, all on the host": {
        "num_ranks": 2,
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_parameters": True,
    },
    "ZeRO-3, recomputed in tiles": {
        "num_ranks": 2,
        "zero_stage": 3,
        "gradient_checkpointing": True,
        "mlp_tile_tokens": 7,
    },
    "shared sequences, ZeRO-2": {"num_ranks": 2, "sequence_parallel": 2, "zero_stage": 2},
    "shared sequences, ZeRO-3, every saving": {
        "num_ranks": 2,
        "sequence_parallel": 2,
        "zero_stage": 3,
        "gradient_checkpointing": True,
        "offload_checkpoints": True,
        "mlp_tile_tokens": 7,
        "offload_optimizer": True,
        "offload_parameters": True,
    },
    "three ranks, ZeRO-2": {"num_ranks": 3, "zero_stage": 2},
    "three ranks, ZeRO-3": {"num_ranks": 3, "zero_stage": 3},
    "two groups that share, ZeRO-3": {"num_ranks": 4, "sequence_parallel": 2, "zero_stage": 3},
    "more ranks share than there are key-value heads": {"num_ranks": 4, "sequence_parallel": 4, "zero_stage": 2},
}


BATCH = make_batch()
TARGETS_A = {
    "actor": normalize_advantages(np.random.default_rng(1).normal(size=BATCH.num_actions).astype(np.float32)),
    "critic": np.repeat(BATCH.rewards_B, BATCH.response_lengths_B),
}


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, four attention heads, two key-value heads; weights so large that attention matters."""
    folder = tmp_path_factory.mktemp("two_layers")
    config = AutoConfig.from_pretrained(TINY_BASE)
    config.num_hidden_layers = 2
    config.layer_types = config.layer_types[:2]
    config.initializer_range = 0.1
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_BASE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return fork_context()


def config_of(model: Path, dtype: str = "float32", **settings: Any) -> Config:
    learner = {"learning_rate": 1e-4, "warmup_steps": 0, "micro_batch_tokens": 90, "logprob_chunk_tokens": 32}
    return Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 200.0},
            "model": {"path": str(model), "context_window_tokens": 512, "dtype": dtype},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"answer_reserve_tokens": 16, "temperature": 0.9},
            "ppo": {"problems_per_step": 4, "responses_per_problem": 4, "critic_minibatches": 2},
            "actor": learner | settings,
            "critic": learner | settings,
        }
    )


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_every_layout_comes_to_the_same(
    context: ForkServerContext, two_layers: Path, tmp_path: Path, role: Role
) -> None:
    """Rows alone on one rank are the reference, so this also shows that packed documents do not see each other."""
    running: dict[str, RunningIteration] = {}
    outcomes: dict[str, Iteration] = {}
    for name, settings in LAYOUTS.items():
        running[name] = RunningIteration(
            context, role, config_of(two_layers, **settings), BATCH, TARGETS_A[role], folder=tmp_path / name
        )
        if len(running) == 3:  # few at a time: memory
            outcomes |= {name: iteration.result() for name, iteration in running.items()}
            running.clear()
    outcomes |= {name: iteration.result() for name, iteration in running.items()}

    expected = outcomes[ALONE]
    start = load_file(two_layers / "model.safetensors")
    weights = load_file(tmp_path / ALONE / "model.safetensors")
    moved = max(float((weights[key] - start[key]).abs().max()) for key in start if key in weights)
    assert moved > 1e-4  # ten times the tolerance: Adam moves by the learning rate whatever the gradient's size
    assert np.abs(expected.after_A - expected.before_A).max() > 1e-3
    for name, outcome in outcomes.items():
        np.testing.assert_allclose(outcome.before_A, expected.before_A, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(outcome.after_A, expected.after_A, atol=2e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(outcome.losses, expected.losses, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(outcome.grad_norms, expected.grad_norms, rtol=1e-4, err_msg=name)
        ours = load_file(tmp_path / name / "model.safetensors")
        assert ours.keys() == weights.keys()
        for key, value in ours.items():
            torch.testing.assert_close(value, weights[key], atol=1e-5, rtol=0, msg=f"{name}: {key}")


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_weights_follow_fp32_ones(context: ForkServerContext, two_layers: Path, zero_stage: int) -> None:
    """A bfloat16 weight above 0.1 rounds a step of 5e-5 away (its neighbours are 1/2048 apart), but not twenty."""
    config = config_of(two_layers, "bfloat16", learning_rate=5e-5, zero_stage=zero_stage)
    one, twenty = move_in_bfloat16(context, config, BATCH, TARGETS_A["actor"], num_steps=(1, 19))
    assert one < 0.1
    assert twenty > 0.3
