"""The whole loop on the real machinery: Ray, vLLM and DeepSpeed on CPU with a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.synthesis.message_pool import MessagePool

TIMED = ("time/", "throughput/", "memory/")


def untimed(run_dir: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMED)}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def test_two_rollout_workers_and_two_ranks_each_train_and_the_same_seed_gives_the_same_metrics(
    tiny_config: Callable[..., Config], write_data: Callable
) -> None:
    configs = [
        tiny_config(
            run={"name": name},
            trainer={"steps": 2, "checkpoint_every_steps": 0},
            rollout={"num_workers": 2},
            actor={"num_ranks": 2, "zero_stage": 3},
            critic={"num_ranks": 2, "zero_stage": 2},
        )
        for name in ("first", "second")
    ]
    write_data(configs[0])
    run_dir, again = (runs.train(config) for config in configs)
    first, second = read_metrics(run_dir / "metrics.jsonl")
    assert first["policy/weight_version"] == 0 and second["policy/weight_version"] == 1
    # Engine and trainer agree about the same tokens, before any update and after a sync of changed weights.
    assert first["policy/logprob_gap_max"] < 1e-4
    assert second["policy/logprob_gap_max"] < 1e-4
    assert second["critic/grad_norm"] > 0
    for name in ("curves.png", "recipe.yaml", "checkpoints/step_000002/actor/model.safetensors"):
        assert (run_dir / name).stat().st_size > 0
    assert (run_dir / "checkpoints/step_000002/actor/tokenizer.json").exists()
    assert untimed(again) == untimed(run_dir)


@pytest.mark.slow
def test_plain_rlvr_is_the_loop_with_empty_message_sets(
    tiny_config: Callable[..., Config], write_data: Callable
) -> None:
    config = tiny_config(
        trainer={"steps": 1, "checkpoint_every_steps": 0}, synthesis={"min_messages": 0, "max_messages": 0}
    )
    write_data(config)
    (metrics,) = read_metrics(runs.train(config) / "metrics.jsonl")
    assert "messages/accuracy" not in metrics and metrics["prompt/length_tokens"] < 40


@pytest.mark.slow
def test_off_policy_is_the_same_loop_with_other_settings(
    tiny_config: Callable[..., Config], write_data: Callable
) -> None:
    """Partial rollouts with truncated importance sampling, a critic warm-up and online messages, all at once."""
    config = tiny_config(
        trainer={"steps": 4, "checkpoint_every_steps": 0},
        ppo={"actor_minibatches": 2, "oversample": 0.5, "importance_cap": 8.0, "critic_warmup_steps": 1},
        synthesis={"refresh_every_steps": 2, "online_share": 0.5},
    )
    write_data(config)
    run_dir = runs.train(config)
    rows = read_metrics(run_dir / "metrics.jsonl")
    # The first step trains the critic only: nothing is sent, and the second step samples from version 0 still.
    assert "policy/loss" not in rows[0] and "time/sync" not in rows[0] and rows[0]["critic/grad_norm"] > 0
    assert rows[1]["policy/loss"] != 0.0 and rows[1]["policy/stale_token_share"] == 0.0
    # Later ones go on with what was unfinished under older weights.
    assert max(row["policy/stale_token_share"] for row in rows[2:]) > 0.0
    assert all(1.0 <= row["policy/importance_mean"] * 8 <= 64.0 for row in rows)
    pool = MessagePool.open(run_dir / "online_pool.jsonl")
    writers = {message.model for problem in pool.problem_ids for message in pool.messages(problem)}
    assert writers == {"run-step-0", "run-step-2"}
