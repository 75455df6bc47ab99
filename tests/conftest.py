"""Shared fixtures: a tiny Qwen3-architecture model with random weights, and a configuration that fits two cores."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_curation.chain_demonstrations import Habits, demonstrated_message
from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl.config import Config
from pacore_rl.problems import save_problems
from pacore_rl.synthesis.message_pool import MessagePool

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_BASE = REPOSITORY / "recipes" / "tiny_base"

# Ray gives its workers the lowest priority but four. Beside a test that keeps all cores busy with its own process they
# would get a thirtieth of them, and reach time limits.
os.environ.setdefault("RAY_worker_niceness", "0")

LONG_FILES = (
    "engine/test_training.py",
    "test_interrupt.py",
    "engine/test_weight_sync.py",
    "test_quickstart.py",
    "engine/test_learner.py",
    "engine/test_learner_layouts.py",
    "engine/",
)
"""What takes minutes, the longest first: begun last, one of these would leave the other processes idle at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, else in the order found (``--no-loadscope-reorder`` hands files out in this order)."""

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(REPOSITORY / "tests").as_posix()
        return next((i for i, start in enumerate(LONG_FILES) if name.startswith(start)), len(LONG_FILES))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: architecture, tokenizer and chat template of recipes/tiny_base, fresh weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("model") / "tiny_random"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TINY_BASE)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_BASE).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_config(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Config]:
    """A function from sections, e.g. ``ppo={"problems_per_step": 4}``, to a CPU configuration of the tiny model."""

    def build(**sections: dict[str, Any]) -> Config:
        base: dict[str, dict[str, Any]] = {
            "run": {"output_dir": tmp_path, "name": "run", "device": "cpu", "worker_timeout_seconds": 120.0},
            "model": {"path": str(tiny_model_dir), "context_window_tokens": 512},
            "data": {"problems": tmp_path / "problems.jsonl", "pool": tmp_path / "pool.jsonl"},
            "synthesis": {"min_messages": 2, "max_messages": 4, "pool_size": 6},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 16},
            "ppo": {"problems_per_step": 4, "responses_per_problem": 4, "critic_minibatches": 2},
            "actor": {"learning_rate": 1e-3, "warmup_steps": 0, "zero_stage": 1, "micro_batch_tokens": 1024},
            "critic": {"learning_rate": 1e-3, "warmup_steps": 0, "zero_stage": 1, "micro_batch_tokens": 1024},
            "rollout": {"kv_cache_gib": 0.25, "max_concurrent_sequences": 64},
            "logging": {"console": False, "wandb_project": None},
        }
        for name, values in sections.items():
            base[name] = base.get(name, {}) | values
        return Config.model_validate(base)

    return build


@pytest.fixture
def write_data() -> Callable[[Config], None]:
    """Writes eight chain sums and their pool where a configuration names them."""

    def write(config: Config) -> None:
        assert config.data.problems is not None and config.data.pool is not None
        rng = random.Random(0)
        chains = [sample_chain(rng, range(5, 8)) for _ in range(8)]
        save_problems(config.data.problems, [chain_problem(chain) for chain in chains])
        MessagePool.open(config.data.pool).append(
            [demonstrated_message(chain, Habits(), rng) for chain in chains for _ in range(config.synthesis.pool_size)]
        )

    return write
