"""Generation on the real engine: two vLLM workers in a private Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from local_ray import local_ray
from transformers import AutoModelForCausalLM

from pacore_rl.config import Config
from pacore_rl.engine.generation import Response, sample_seed, stream_seed, typed_finish
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.rollout_worker import CPU_BLOCK_TOKENS, check_model_folder
from pacore_rl.failures import WorkerDied
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

CONTEXT_TOKENS = 128
CPU = Device(kind="cpu", cpu_threads=1)


def configuration(model_dir: Path, out: Path) -> Config:
    return Config.model_validate(
        {
            "run": {"output_dir": out, "device": "cpu", "worker_timeout_seconds": 120},
            "model": {"path": str(model_dir), "context_window_tokens": CONTEXT_TOKENS},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 16, "answer_reserve_tokens": 8},
            "rollout": {"num_workers": 2, "kv_cache_gib": 0.25, "max_concurrent_sequences": 64},
        }
    )


@pytest.fixture(scope="module")
def group(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutGroup]:
    out = tmp_path_factory.mktemp("runs")
    with local_ray("test-rollout", num_cpus=4, log_to_driver=True):
        group = RolloutGroup.start(configuration(tiny_model_dir, out), CPU)
        try:
            yield group
        finally:
            group.close()


def request(seed: int, num_tokens: int = 40, num_samples: int = 4) -> GenerationRequest:
    prompt = np.random.default_rng(seed).integers(10, 100, size=num_tokens, dtype=np.int32)
    return GenerationRequest(prompt_ids=prompt, num_samples=num_samples, seed=seed)


def generate(
    group: RolloutGroup, requests: list[GenerationRequest], sampling: Sampling
) -> list[tuple[Trajectory, ...]]:
    finished = dict(group.generate(requests, sampling))
    return [finished[index] for index in range(len(requests))]


def dynamic(group: RolloutGroup, *, max_concurrent_sequences: int) -> RolloutGroup:
    """The same engines, given their responses one by one, so many at a time."""
    rollout = group.config.rollout.model_copy(update={"max_concurrent_sequences": max_concurrent_sequences})
    return replace(group, config=group.config.model_copy(update={"rollout": rollout}), routing="dynamic")


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


def test_later_samples_can_be_asked_for_alone(group: RolloutGroup) -> None:
    requests, sampling = [request(seed) for seed in range(3)], Sampling(max_response_tokens=20)
    rest = [replace(one, num_samples=2, first_sample=2) for one in requests]
    whole, later = generate(group, requests, sampling), generate(group, rest, sampling)
    assert [[t.response_ids.tolist() for t in many[2:]] for many in whole] == [
        [t.response_ids.tolist() for t in many] for many in later
    ]


def test_responses_come_as_they_end_and_each_once(group: RolloutGroup) -> None:
    requests = [request(0, num_tokens=40), request(1, num_tokens=CONTEXT_TOKENS - 2, num_samples=3), request(2)]
    arrived = list(group.stream(requests, Sampling(max_response_tokens=40)))
    assert sorted((index, sample) for index, sample, _ in arrived) == [
        (index, sample) for index, many in enumerate(requests) for sample in range(many.num_samples)
    ]
    # Those with room for two tokens are there before those with 40 that share their engine.
    ends = {index: place for place, (index, _, _) in enumerate(arrived)}
    assert ends[1] < max(ends[0], ends[2])
    grouped = generate(group, requests, Sampling(max_response_tokens=40))
    responses = {(index, sample): trajectory for index, sample, trajectory in arrived}
    assert same(grouped, [tuple(responses[index, s] for s in range(len(many))) for index, many in enumerate(grouped)])


def test_a_prompt_is_prefilled_once_for_all_its_responses(group: RolloutGroup) -> None:
    prompt = request(5, num_tokens=3 * CPU_BLOCK_TOKENS + 1, num_samples=64)
    jobs = [(0, sample) for sample in range(64)]
    method = group.handles[0].generate.options(num_returns="streaming")
    stream = method.remote("test", [prompt], Sampling(max_response_tokens=2), jobs, more=False)
    responses: list[Response] = [response for reference in stream for response in ray.get(reference, timeout=60)]
    assert sorted(response.job for response in responses) == jobs
    # Whole blocks are shared; the token after them is each response's own.
    assert sorted(response.num_cached_tokens for response in responses) == [0] + [3 * CPU_BLOCK_TOKENS] * 63


def test_dynamic_routing_gives_the_same_tokens(group: RolloutGroup) -> None:
    # From 2 tokens of room to 60, eleven responses to a problem: engines run out of work at different times.
    requests = [
        request(seed, num_tokens=CONTEXT_TOKENS - room, num_samples=11) for seed, room in enumerate((60, 2, 30))
    ]
    sampling = Sampling(max_response_tokens=60)
    static = generate(group, requests, sampling)
    arrived = list(dynamic(group, max_concurrent_sequences=4).stream(requests, sampling))
    assert len(arrived) == len({(index, sample) for index, sample, _ in arrived}) == 33
    for index, sample, trajectory in arrived:
        np.testing.assert_array_equal(trajectory.response_ids, static[index][sample].response_ids)
        np.testing.assert_allclose(trajectory.logprobs, static[index][sample].logprobs, atol=1e-5)


def test_a_caller_that_stops_listening_stops_the_engines(group: RolloutGroup) -> None:
    requests = [request(seed, num_tokens=20, num_samples=32) for seed in range(4)]
    for view in (group, dynamic(group, max_concurrent_sequences=4)):
        stream = view.stream(requests, Sampling(max_response_tokens=100))
        next(stream)
        stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    (trajectories,) = generate(group, [request(3)], Sampling(max_response_tokens=4))
    assert all(len(trajectory.response_ids) > 0 for trajectory in trajectories)


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


def test_vllm_finish_reasons() -> None:
    assert typed_finish("stop", 5) == "stopped"
    assert typed_finish("stop", 1) == "empty"
    assert typed_finish("length", 1) == "truncated"
    assert typed_finish("abort", 3) == "failed"


def test_stream_seeds_of_neighbours_are_far_apart() -> None:
    seeds = sorted(stream_seed(seed) for seed in range(1000))
    assert min(np.diff(seeds)) > 10_000
    assert 0 <= seeds[0] and seeds[-1] < 2**62


def test_seeds_of_samples_are_vllms_and_a_continued_part_has_its_own() -> None:
    assert [sample_seed(7, sample, 0) for sample in range(3)] == [stream_seed(7) + sample for sample in range(3)]
    assert len({sample_seed(7, 0, position) for position in range(100)}) == 100
    assert sample_seed(7, 0, 5) == sample_seed(7, 0, 5)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_model_folder_is_refused(tiny_model_dir: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns(missing))
    with pytest.raises(ValueError, match=r"holds no .*give a complete Hugging Face folder"):
        check_model_folder(str(folder))
    with pytest.raises(ValueError, match="is not a folder"):
        check_model_folder(str(folder / "absent"))


def test_an_engine_without_room_says_what_to_change(group: RolloutGroup) -> None:
    config = group.config
    small = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"kv_cache_gib": 1e-5, "num_workers": 1})}
    )
    with pytest.raises(ValueError, match=r"rollout worker 0: vLLM does not start .*kv_cache_gib=1e-05"):
        RolloutGroup.start(small, CPU)


def kill_one(group: RolloutGroup, requests: list[GenerationRequest]) -> list[tuple[int, int]]:
    """Kill engine 1 once it generates, as the kernel does when memory runs out; the responses that come."""
    pid: Any = ray.get(group.handles[1].__ray_call__.remote(lambda _: os.getpid()), timeout=60)
    stream = group.stream(requests, Sampling(max_response_tokens=100))
    first = next(stream)
    os.kill(pid, signal.SIGKILL)
    return [(index, sample) for index, sample, _ in (first, *stream)]


def test_an_engine_that_dies_is_replaced_and_every_response_comes_once(group: RolloutGroup) -> None:
    requests = [request(seed, num_tokens=20, num_samples=64) for seed in range(8)]
    before = group.places[1].pid
    came = kill_one(group, requests)
    assert sorted(came) == [(index, sample) for index in range(8) for sample in range(64)]
    assert group.places[1].pid != before and group.num_restarts == 0  # a call that went through begins the count anew


def break_engine(group: RolloutGroup, worker: int, after_steps: int, how: Callable[[], object]) -> None:
    """Have an engine's step do something else from the n-th on."""

    def breaks(rollout_worker: Any) -> None:
        engine, steps = rollout_worker._engine, iter(range(after_steps))
        step = engine.step
        engine.step = lambda: step() if next(steps, None) is not None else how()

    ray.get(group.handles[worker].__ray_call__.remote(breaks), timeout=60)


def generate_on_broken(group: RolloutGroup, out: Path, **surviving: float) -> dict[str, Any]:
    """Generate where engine 1 was broken: another takes its place, and every response comes once. The event of it."""
    config = group.config.model_copy(
        update={
            "run": group.config.run.model_copy(update={"output_dir": out}),
            "surviving": group.config.surviving.model_copy(update=surviving),
        }
    )
    requests = [request(seed, num_tokens=20, num_samples=16) for seed in range(8)]
    sampling = Sampling(max_response_tokens=60)
    before = [place.pid for place in group.places]
    came: dict[tuple[int, int], Trajectory] = {}
    for index, sample, trajectory in replace(group, config=config).stream(requests, sampling):
        assert (index, sample) not in came, "a response came twice"
        came[index, sample] = trajectory
    assert len(came) == 8 * 16, "a response was lost"
    assert [place.pid == pid for place, pid in zip(group.places, before, strict=True)] == [True, False]
    sound = generate(group, requests, sampling)
    # Seeded by request: the same tokens, but for a rare one whose probability another batch rounds differently.
    equal = [
        np.array_equal(came[index, sample].response_ids, trajectory.response_ids)
        for index, many in enumerate(sound)
        for sample, trajectory in enumerate(many)
    ]
    assert np.mean(equal) > 0.9
    (event,) = [json.loads(line) for line in (config.run_dir / "events.jsonl").read_text().splitlines()]
    return event


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2.00 GiB"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), marks=pytest.mark.slow),
    ],
    ids=["host", "gpu"],
)
def test_an_engine_that_runs_out_of_memory_is_replaced_and_asked_again(
    group: RolloutGroup, tmp_path: Path, error: Exception
) -> None:
    def no_memory() -> None:
        raise error

    break_engine(group, 1, 20, no_memory)
    event = generate_on_broken(group, tmp_path)
    assert (event["event"], event["worker"]) == ("engine_replaced", 1)
    assert "rollout worker 1 on " in event["cause"] and f"failed while generating: {error!r}" in event["cause"]


@pytest.mark.slow
def test_an_engine_that_hangs_in_a_step_is_replaced_and_asked_again(group: RolloutGroup, tmp_path: Path) -> None:
    break_engine(group, 1, 20, lambda: time.sleep(600))
    event = generate_on_broken(group, tmp_path, health_timeout_seconds=5.0, stall_timeout_seconds=3.0)
    assert (event["event"], event["worker"]) == ("engine_replaced", 1)
    assert "has made no step for" in event["cause"] and "surviving.stall_timeout_seconds" in event["cause"]


def test_an_engine_that_dies_too_often_is_named_with_what_to_do(group: RolloutGroup) -> None:
    """The last test of this file: it costs an engine."""
    surviving = group.config.surviving.model_copy(update={"max_restarts": 0})
    strict = replace(group, config=group.config.model_copy(update={"surviving": surviving}))
    requests = [request(seed, num_tokens=20, num_samples=64) for seed in range(8)]
    told = (
        r"(?s)rollout worker 1 on .* \(pid \d+\) died while generating: .*max_restarts=0 .*lower rollout.kv_cache_gib"
    )
    with pytest.raises(WorkerDied, match=told):
        kill_one(strict, requests)
