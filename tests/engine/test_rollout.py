"""Generation on the real engine: two vLLM workers in a private Ray cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from pacore_rl.config import Config
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup, assign
from pacore_rl.engine.rollout_worker import check_model_folder, stream_seed, typed_finish
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

CONTEXT_TOKENS = 128
CPU = Device(kind="cpu", cpu_threads=1)


def configuration(model_dir: Path) -> Config:
    return Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 120},
            "model": {"path": str(model_dir), "context_window_tokens": CONTEXT_TOKENS},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 8},
            "rollout": {"num_workers": 2, "kv_cache_gib": 0.25, "max_concurrent_sequences": 64},
        }
    )


@pytest.fixture(scope="module")
def group(tiny_model_dir: Path) -> Iterator[RolloutGroup]:
    ray.init(
        address="local",
        namespace="test-rollout",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 * 1024**2,
    )
    group = RolloutGroup.start(configuration(tiny_model_dir), CPU)
    try:
        yield group
    finally:
        group.close()
        ray.shutdown()


def request(seed: int, num_tokens: int = 40, num_samples: int = 4) -> GenerationRequest:
    prompt = np.random.default_rng(seed).integers(10, 100, size=num_tokens, dtype=np.int32)
    return GenerationRequest(prompt_ids=prompt, num_samples=num_samples, seed=seed)


def generate(
    group: RolloutGroup, requests: list[GenerationRequest], sampling: Sampling
) -> list[tuple[Trajectory, ...]]:
    finished = dict(group.generate(requests, sampling))
    return [finished[index] for index in range(len(requests))]


def same(left: list[tuple[Trajectory, ...]], right: list[tuple[Trajectory, ...]]) -> bool:
    return all(
        np.array_equal(a.response_ids, b.response_ids) and np.array_equal(a.logprobs, b.logprobs)
        for many_a, many_b in zip(left, right, strict=True)
        for a, b in zip(many_a, many_b, strict=True)
    )


def test_same_seeds_give_the_same_tokens_and_log_probs_to_the_last_bit(group: RolloutGroup) -> None:
    requests = [request(seed) for seed in range(9)]
    sampling = Sampling(max_response_tokens=20)
    first = generate(group, requests, sampling)
    generate(
        group, [request(seed, num_tokens=70) for seed in range(50, 57)], sampling
    )  # what came before leaves no trace
    assert same(first, generate(group, requests, sampling))
    others = [GenerationRequest(prompt_ids=r.prompt_ids, num_samples=4, seed=r.seed + 100) for r in requests]
    assert not same(first, generate(group, others, sampling))


def test_samples_of_a_request_and_of_neighbouring_seeds_differ(group: RolloutGroup) -> None:
    prompt = request(0).prompt_ids
    requests = [GenerationRequest(prompt_ids=prompt, num_samples=4, seed=seed) for seed in (7, 8)]
    trajectories = generate(group, requests, Sampling(max_response_tokens=20))
    responses = {tuple(t.response_ids.tolist()) for many in trajectories for t in many}
    assert len(responses) == 8


def test_log_probs_are_those_of_a_plain_forward_pass(group: RolloutGroup, tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for temperature in (1.0, 0.7):
        (trajectories,) = generate(group, [request(3)], Sampling(temperature=temperature, max_response_tokens=20))
        for trajectory in trajectories:
            ids = torch.from_numpy(np.concatenate([trajectory.prompt_ids, trajectory.response_ids])).long()
            with torch.no_grad():
                log_probs = (model(ids[None]).logits[0, :-1] / temperature).log_softmax(-1)
            start = len(trajectory.prompt_ids) - 1
            expected = log_probs[start:].gather(-1, ids[start + 1 :, None]).squeeze(-1)
            np.testing.assert_allclose(trajectory.logprobs, expected.numpy(), atol=1e-4)


def test_finishes_are_typed(group: RolloutGroup) -> None:
    full, fits, bad = request(1, CONTEXT_TOKENS), request(2, CONTEXT_TOKENS - 3), request(3)
    bad.prompt_ids[5] = 1_000_000  # no such token
    overflow, cut, failed, good = generate(group, [full, fits, bad, request(4)], Sampling(max_response_tokens=10))
    for nothing, finish in ((overflow, "overflow"), (failed, "failed")):
        assert len(nothing) == 4
        assert all(t.finish == finish and t.text == "" and len(t.response_ids) == 0 for t in nothing)
    for trajectory in cut:
        assert len(trajectory.response_ids) <= 3
        assert (trajectory.finish == "truncated") == (
            len(trajectory.response_ids) == 3 and trajectory.finish != "stopped"
        )
    assert all(len(t.response_ids) == len(t.logprobs) > 0 for t in (*cut, *good))
    assert any(t.finish == "truncated" and len(t.response_ids) == 10 for t in good)
    assert all((t.weight_versions == 0).all() for t in (*cut, *good))
    assert all(len(t.weight_versions) == len(t.response_ids) for t in (*overflow, *cut, *failed, *good))


def test_a_response_that_stops_keeps_its_stop_token_and_leaves_it_out_of_the_text(group: RolloutGroup) -> None:
    # Nearly uniform at this temperature: among 6,400 tokens of a 400-odd vocabulary the stop token comes up.
    requests = [request(seed, num_tokens=8, num_samples=16) for seed in range(4)]
    trajectories = generate(group, requests, Sampling(temperature=2.0, max_response_tokens=100))
    ends = {t.response_ids[-1] for many in trajectories for t in many if t.finish == "stopped"}
    assert len(ends) == 1
    stop = ends.pop()
    for trajectory in (t for many in trajectories for t in many):
        assert (stop in trajectory.response_ids) == (trajectory.finish in ("stopped", "empty"))
        assert stop not in trajectory.response_ids[:-1]
        assert "<|im_end|>" not in trajectory.text


def test_loads_are_balanced_and_always_alike() -> None:
    requests = [request(index, num_tokens=10 + index, num_samples=1 + index % 3) for index in range(12)]
    sampling = Sampling(max_response_tokens=50)
    shares = assign(requests, sampling, 3)
    assert shares == assign(requests, sampling, 3)
    assert sorted(index for share in shares for index in share) == list(range(12))
    loads = [sum(10 + i + (1 + i % 3) * 50 for i in share) for share in shares]
    assert max(loads) - min(loads) <= 160  # one request at most
    assert assign(requests[:1], sampling, 3) == [[0], [], []]


def test_vllm_finish_reasons() -> None:
    assert typed_finish("stop", 5) == "stopped"
    assert typed_finish("stop", 1) == "empty"
    assert typed_finish("length", 1) == "truncated"
    assert typed_finish("abort", 3) == "failed"


def test_stream_seeds_of_neighbours_are_far_apart() -> None:
    seeds = sorted(stream_seed(seed) for seed in range(1000))
    assert min(np.diff(seeds)) > 10_000
    assert 0 <= seeds[0] and seeds[-1] < 2**62


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_model_folder_is_refused(tiny_model_dir: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns(missing))
    with pytest.raises(ValueError, match=r"holds no .*give a complete Hugging Face folder"):
        check_model_folder(str(folder))
    with pytest.raises(ValueError, match="is not a folder"):
        check_model_folder(str(folder / "absent"))


def test_an_engine_without_room_says_what_to_change(group: RolloutGroup, tiny_model_dir: Path) -> None:
    config = configuration(tiny_model_dir)
    small = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"kv_cache_gib": 1e-5, "num_workers": 1})}
    )
    with pytest.raises(ValueError, match=r"rollout worker 0: vLLM does not start .*kv_cache_gib=1e-05"):
        RolloutGroup.start(small, CPU)
