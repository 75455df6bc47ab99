"""Engines that span two processes, and the check that engine and trainer mean the same model: on the real machinery."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pytest
import torch
from local_ray import local_ray
from safetensors.torch import load_file, save_file

from pacore_rl.config import Config
from pacore_rl.engine import weight_sync
from pacore_rl.engine.agreement import check_agreement, probe_requests
from pacore_rl.engine.learner import ActorGroup
from pacore_rl.engine.models import load_policy
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.types import GenerationRequest, Sampling

pytestmark = pytest.mark.slow

CPU = Device(kind="cpu", cpu_threads=1)
ORIGINAL_WINDOW = 64
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": ORIGINAL_WINDOW}
UNCHANGED = YARN | {"attention_factor": 1.0}  # the paper's: attention temperature unchanged


def configuration(model_dir: Path, rope: dict[str, Any], **rollout: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 240},
            "model": {"path": str(model_dir), "context_window_tokens": 2 * ORIGINAL_WINDOW, "rope_scaling": rope},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 8},
            "actor": {"zero_stage": 1},
            "rollout": {"kv_cache_gib": 0.125, "max_concurrent_sequences": 16, **rollout},
        }
    )


class Pair:
    """An engine and a trainer that need not share a configuration."""

    def __init__(self, generator: RolloutGroup, actor: ActorGroup) -> None:
        self.generator, self.actor = generator, actor

    def turn_to(self, work: Literal["generation", "learning"]) -> None:
        """Each has its own CPU."""


@pytest.fixture(scope="module")
def trainer(tiny_model_dir: Path) -> Iterator[ActorGroup]:
    """The policy with YaRN, attention temperature unchanged; starts Ray for this module."""
    with local_ray("test-parallel", num_cpus=8):
        actor = ActorGroup.start("actor", configuration(tiny_model_dir, UNCHANGED), CPU)
        try:
            actor.wait_ready()
            yield actor
        finally:
            actor.close()


@pytest.fixture(scope="module")
def single(trainer: ActorGroup, tiny_model_dir: Path) -> Iterator[RolloutGroup]:
    """One process, and YaRN as vLLM understands it when nobody names the attention factor."""
    group = RolloutGroup.start(configuration(tiny_model_dir, YARN), CPU)
    yield group
    group.close()


@pytest.fixture(scope="module", params=["tensor_parallel", "pipeline_parallel"])
def double(
    trainer: ActorGroup, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """Two processes that share each layer, or the layers: the trainer's YaRN, but other weights."""
    other = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(tiny_model_dir, other)
    generator = torch.Generator().manual_seed(1)
    weights = load_file(other / "model.safetensors")
    noisy = {name: weight + 0.05 * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    save_file(noisy, other / "model.safetensors", metadata={"format": "pt"})
    group = RolloutGroup.start(configuration(tiny_model_dir, UNCHANGED, **{request.param: 2}), CPU, str(other))
    yield group
    group.close()


def test_another_attention_factor_is_caught_before_the_first_step(single: RolloutGroup, trainer: ActorGroup) -> None:
    assert all(len(request.prompt_ids) > ORIGINAL_WINDOW for request in probe_requests(single.config))
    # Left out, the factor is 0.1 ln 2 + 1 = 1.07, in vLLM as in transformers; the paper's is 1.
    with pytest.raises(ValueError, match=r"differ by .* nats on average, above 1e-03.*model.rope_scaling="):
        check_agreement(Pair(single, trainer), single.config, torch.float32)


def test_weights_arrive_in_both_halves_of_an_engine(
    double: RolloutGroup, trainer: ActorGroup, tiny_model_dir: Path
) -> None:
    pair = Pair(double, trainer)
    with pytest.raises(ValueError, match="Engine and trainer disagree"):
        check_agreement(pair, double.config, torch.float32)
    weight_sync.connect(double, trainer.handles, device=CPU)
    weight_sync.sync(double, trainer.handles, 1)
    # Past the original window too, with YaRN.
    assert check_agreement(pair, double.config, torch.float32) < 1e-5
    assert double.weight_version == 1
    check_greedy(double, load_policy(double.config.model, torch.float32))

    # Its processes are vLLM's, which Ray does not know: they end when their parent does.
    processes = [p for p in psutil.Process().children(recursive=True) if "VLLM::Worker" in " ".join(p.cmdline())]
    assert len(processes) == 2
    double.close()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


def check_greedy(group: RolloutGroup, model: torch.nn.Module) -> None:
    """Every token is the likeliest of a plain forward pass in one process."""
    rng = np.random.default_rng(0)
    requests = [
        GenerationRequest(prompt_ids=rng.integers(10, 100, size=30, dtype=np.int32), num_samples=1, seed=seed)
        for seed in range(4)
    ]
    for index, (trajectory,) in group.generate(requests, Sampling(temperature=0.0, max_response_tokens=12)):
        ids = torch.from_numpy(np.concatenate([requests[index].prompt_ids, trajectory.response_ids])).long()
        with torch.no_grad():
            logits = model(ids[None], position_ids=torch.arange(len(ids))[None]).logits[0]
        likeliest = logits[len(requests[index].prompt_ids) - 1 : -1].argmax(-1)
        assert likeliest.tolist() == trajectory.response_ids.tolist()
