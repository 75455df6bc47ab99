"""Weights from learners to two real engines: a plain model in one rank, and ZeRO-3 shards in two."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from local_ray import local_ray
from ray import cloudpickle
from transformers import AutoModelForCausalLM

from pacore_rl.config import Config, RolloutConfig
from pacore_rl.engine import weight_sync
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.weight_source import buckets
from pacore_rl.engine.whereabouts import CONTROL, Whereabouts, locate
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

CPU = Device(kind="cpu", cpu_threads=1)
GREEDY = Sampling(temperature=0.0, max_response_tokens=12)


def perturbed(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The model with noise on every weight, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


@pytest.fixture(scope="module")
def group(tiny_model_dir: Path) -> Iterator[RolloutGroup]:
    config = Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 90},
            "model": {"path": str(tiny_model_dir), "context_window_tokens": 128},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 8},
            "rollout": {"num_workers": 2, "kv_cache_gib": 0.25, "max_concurrent_sequences": 64},
        }
    )
    with local_ray("test-sync", num_cpus=8, log_to_driver=True):
        group = RolloutGroup.start(config, CPU)
        try:
            yield group
        finally:
            group.close()


class Learner:
    """A Ray actor with the two commands that weight sync gives to a learner."""

    def __init__(self, model_dir: Path, *, zero_stage: int, rank: int, num_ranks: int, port: int) -> None:
        torch.set_num_threads(1)
        self.rank, self.zero_stage = rank, zero_stage
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        if zero_stage == 3:
            import deepspeed

            from pacore_rl.engine.deepspeed_options import join_deepspeed

            address = f"tcp://127.0.0.1:{port}"
            torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=num_ranks)
            join_deepspeed(CPU)
            self.engine, *_ = deepspeed.initialize(
                model=self.model,
                config={
                    "train_micro_batch_size_per_gpu": 1,
                    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
                    "optimizer": {"type": "Adam", "params": {"torch_adam": True}},
                },
            )

    def perturb(self, seed: int) -> None:
        if self.zero_stage != 3:
            perturbed(self.model, seed)
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.model.parameters()), modifier_rank=0):
            if self.rank == 0:
                perturbed(self.model, seed)

    def num_local_elements(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def init_weight_sync(self, spec: dict[str, Any]) -> None:
        self.sender: Any = weight_sync.make_sender(
            self.model, zero_stage=self.zero_stage, rank=self.rank, device=torch.device("cpu"), spec=spec
        )

    def send_weights(self) -> None:
        self.sender.send()

    def whereabouts(self) -> Whereabouts:
        return Whereabouts.of_this_process()


@contextmanager
def learners(model_dir: Path, *, zero_stage: int, num_ranks: int) -> Iterator[list[Any]]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this file
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = CPU.ray_options()
    options["runtime_env"]["env_vars"] |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    remote: Any = ray.remote(concurrency_groups={CONTROL: 1})  # pyright: ignore[reportCallIssue]
    actor = remote(Learner).options(**options)
    handles = [
        actor.remote(model_dir, zero_stage=zero_stage, rank=rank, num_ranks=num_ranks, port=port)
        for rank in range(num_ranks)
    ]
    try:
        ray.get([locate(handle) for handle in handles], timeout=300)  # started, as a run's learners are
        yield handles
    finally:
        for handle in handles:
            ray.kill(handle)  # pyright: ignore[reportArgumentType]


def greedy(group: RolloutGroup) -> list[Trajectory]:
    """One response to each of six prompts; both workers serve some."""
    requests = [
        GenerationRequest(
            prompt_ids=np.random.default_rng(seed).integers(10, 100, size=20, dtype=np.int32), num_samples=1, seed=seed
        )
        for seed in range(6)
    ]
    finished = dict(group.generate(requests, GREEDY))
    return [finished[index][0] for index in range(6)]


def tokens(trajectories: list[Trajectory]) -> list[list[int]]:
    return [trajectory.response_ids.tolist() for trajectory in trajectories]


def check_log_probs(trajectories: list[Trajectory], model: torch.nn.Module) -> None:
    for trajectory in trajectories:
        ids = torch.from_numpy(np.concatenate([trajectory.prompt_ids, trajectory.response_ids])).long()
        with torch.no_grad():
            log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        start = len(trajectory.prompt_ids) - 1
        expected = log_probs[start:].gather(-1, ids[start + 1 :, None]).squeeze(-1)
        np.testing.assert_allclose(trajectory.logprobs, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(("zero_stage", "num_ranks"), [(1, 1), (3, 2)])
def test_same_weights_change_nothing_and_others_arrive_everywhere(
    group: RolloutGroup, tiny_model_dir: Path, zero_stage: int, num_ranks: int
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    version = group.weight_version
    with learners(tiny_model_dir, zero_stage=zero_stage, num_ranks=num_ranks) as handles:
        weight_sync.connect(group, handles, device=CPU)
        weight_sync.sync(group, handles, version + 1)
        before = greedy(group)
        check_log_probs(before, model)
        weight_sync.sync(group, handles, version + 2)
        same = greedy(group)
        assert tokens(before) == tokens(same)
        assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(before, same, strict=True))
        assert {int(t.weight_versions[0]) for t in same} == {version + 2} == {group.weight_version}

        ray.get([handle.perturb.remote(5) for handle in handles], timeout=60)
        weight_sync.sync(group, handles, version + 3)
        other = greedy(group)
        assert tokens(other) != tokens(before)
        check_log_probs(other, perturbed(model, 5))  # on every prompt, and both workers serve some
        if zero_stage == 3:  # sharded before as after: nothing whole was left behind
            assert ray.get([handle.num_local_elements.remote() for handle in handles], timeout=60) == [0, 0]


def test_a_learner_that_fails_is_an_error_at_once(group: RolloutGroup, tiny_model_dir: Path) -> None:
    with learners(tiny_model_dir, zero_stage=1, num_ranks=1) as handles:
        weight_sync.connect(group, handles, device=CPU)
        ray.kill(handles[0])
        with pytest.raises(RuntimeError, match=r"learner rank 0 on \S+ \(pid \d+\) died"):
            weight_sync.sync(group, handles, 99)


def test_the_transfer_follows_from_devices_and_placement() -> None:
    cuda = Device(kind="cuda", cpu_threads=1)
    separate, colocated = RolloutConfig(), RolloutConfig(placement="colocated")
    assert weight_sync.choose_backend(separate, CPU) == weight_sync.choose_backend(colocated, CPU) == "gloo"
    assert weight_sync.choose_backend(separate, cuda) == "nccl"
    assert weight_sync.choose_backend(colocated, cuda) == "ipc"


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"weight_transfer": "nccl"}, "cpu", "needs GPUs"),
        ({"weight_transfer": "nccl", "placement": "colocated"}, "cuda", "on the same one"),
        ({"weight_transfer": "ipc"}, "cuda", "placement=colocated .here separate"),
        ({"weight_transfer": "ipc", "placement": "colocated"}, "cpu", "on GPUs .here cpu"),
    ],
)
def test_a_transfer_that_cannot_work_is_refused(settings: dict[str, Any], kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weight_sync.choose_backend(RolloutConfig(**settings), Device(kind=kind, cpu_threads=1))


def test_buckets_are_bounded_and_keep_the_order() -> None:
    cut = list(buckets([3, 3, 4, 1, 12, 2, 2], lambda item: item, 10))
    assert cut == [[3, 3, 4], [1], [12], [2, 2]]  # 12 is larger than a bucket and goes alone
