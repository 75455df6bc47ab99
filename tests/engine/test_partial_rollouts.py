"""Partial rollouts on the real engines: interrupted under one version of the weights, continued under the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from local_ray import local_ray
from numpy.testing import assert_array_equal
from test_weight_sync import learners, perturbed
from transformers import AutoModelForCausalLM

from pacore_rl.config import Config
from pacore_rl.engine import weight_sync
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.routing import Routing
from pacore_rl.types import Float32, GenerationRequest, Sampling, Trajectory

pytestmark = pytest.mark.slow

CPU = Device(kind="cpu", cpu_threads=1)
CONTEXT_TOKENS = 512
SAMPLING = Sampling(max_response_tokens=300)


@pytest.fixture(scope="module")
def group(tiny_model_dir: Path) -> Iterator[RolloutGroup]:
    config = Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 120},
            "model": {"path": str(tiny_model_dir), "context_window_tokens": CONTEXT_TOKENS},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"max_response_tokens": 300, "answer_reserve_tokens": 8},
            "rollout": {"num_workers": 2, "kv_cache_gib": 0.25, "max_concurrent_sequences": 8},
        }
    )
    with local_ray("test-partial", num_cpus=8):
        group = RolloutGroup.start(config, CPU)
        try:
            yield group
        finally:
            group.close()


def requests() -> list[GenerationRequest]:
    """Two prompts that leave room for six tokens, and four with room for the whole budget; six samples of each."""
    return [
        GenerationRequest(
            prompt_ids=np.random.default_rng(seed).integers(10, 100, size=length, dtype=np.int32),
            num_samples=6,
            seed=seed,
        )
        for seed, length in enumerate([CONTEXT_TOKENS - 6] * 2 + [20] * 4)
    ]


def going_on(unfinished: list[Trajectory]) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt_ids=before.prompt_ids, num_samples=1, seed=1000 + number, continues=before)
        for number, before in enumerate(unfinished)
    ]


def log_probs(model: torch.nn.Module, trajectory: Trajectory) -> Float32:
    ids = torch.from_numpy(np.concatenate([trajectory.prompt_ids, trajectory.response_ids])).long()
    with torch.no_grad():
        rows = model(ids[None]).logits[0, :-1].log_softmax(-1)
    start = len(trajectory.prompt_ids) - 1
    return rows[start:].gather(-1, ids[start + 1 :, None]).squeeze(-1).numpy()


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_interrupted_responses_go_on_under_other_weights(
    group: RolloutGroup, tiny_model_dir: Path, routing: Routing
) -> None:
    view = replace(group, routing=routing)
    old = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    new = perturbed(AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32), 5)
    version = group.weight_version + 1
    with learners(tiny_model_dir, zero_stage=1, num_ranks=1) as handles:
        weight_sync.connect(group, handles, device=CPU)
        weight_sync.sync(group, handles, version)
        arrived = list(view.stream(requests(), SAMPLING, enough=10))
        ray.get([handle.perturb.remote(5) for handle in handles], timeout=60)
        weight_sync.sync(group, handles, version + 1)

    assert sorted((index, sample) for index, sample, _ in arrived) == [(i, s) for i in range(6) for s in range(6)]
    ended = [trajectory for _, _, trajectory in arrived if trajectory.finish != "unfinished"]
    unfinished = [trajectory for _, _, trajectory in arrived if trajectory.finish == "unfinished"]
    assert len(ended) >= 10 and unfinished
    # An engine of two runs 8 of its 18 at a time: some had begun, and others had not.
    assert {len(trajectory.response_ids) > 0 for trajectory in unfinished} == {True, False}
    for trajectory in (*ended, *unfinished):
        assert len(trajectory.response_ids) == len(trajectory.logprobs) == len(trajectory.weight_versions)
        np.testing.assert_allclose(trajectory.logprobs, log_probs(old, trajectory), atol=1e-4)
        assert (trajectory.weight_versions == version).all()

    continued = list(view.stream(going_on(unfinished), SAMPLING))
    assert sorted(index for index, _, _ in continued) == list(range(len(unfinished)))
    for index, sample, after in continued:
        before = unfinished[index]
        cut = len(before.response_ids)
        assert sample == 0 and after.finish in ("stopped", "truncated", "empty")
        budget = min(SAMPLING.max_response_tokens, CONTEXT_TOKENS - len(after.prompt_ids))
        assert (len(after.response_ids) == budget) == (after.finish == "truncated")
        assert len(after.response_ids) > cut
        assert after.text.startswith(before.text.rstrip("\ufffd"))  # the cut may have parted a character
        assert_array_equal(after.response_ids[:cut], before.response_ids)
        assert_array_equal(after.logprobs[:cut], before.logprobs)
        assert_array_equal(after.weight_versions, [version] * cut + [version + 1] * (len(after.response_ids) - cut))
        np.testing.assert_allclose(after.logprobs[cut:], log_probs(new, after)[cut:], atol=1e-4)


def test_going_on_under_the_same_weights_is_as_if_nothing_had_happened(group: RolloutGroup) -> None:
    greedy = Sampling(temperature=0.0, max_response_tokens=120)
    whole = {(index, sample): trajectory for index, sample, trajectory in group.stream(requests(), greedy)}
    arrived = {(index, sample): trajectory for index, sample, trajectory in group.stream(requests(), greedy, enough=8)}
    cut = {job: trajectory for job, trajectory in arrived.items() if trajectory.finish == "unfinished"}
    assert cut
    for index, _, trajectory in group.stream(going_on(list(cut.values())), greedy):
        arrived[list(cut)[index]] = trajectory
    assert whole.keys() == arrived.keys()
    for job, trajectory in whole.items():
        assert_array_equal(arrived[job].response_ids, trajectory.response_ids)
        assert (arrived[job].finish, arrived[job].text) == (trajectory.finish, trajectory.text)
        np.testing.assert_allclose(arrived[job].logprobs, trajectory.logprobs, atol=1e-4)


def test_a_continued_response_may_be_interrupted_again(group: RolloutGroup) -> None:
    rows, num_ended, calls = requests(), 0, 0
    while rows:
        calls += 1
        assert calls < 40
        arrived = [trajectory for _, _, trajectory in group.stream(rows, SAMPLING, enough=6)]
        unfinished = [trajectory for trajectory in arrived if trajectory.finish == "unfinished"]
        num_ended += len(arrived) - len(unfinished)
        rows = going_on(unfinished)
    assert num_ended == 36 and calls > 1


def test_a_budget_that_is_used_up_ends_a_response_without_another_token(group: RolloutGroup) -> None:
    arrived = [trajectory for _, _, trajectory in group.stream(requests(), SAMPLING, enough=6)]
    before = next(t for t in arrived if t.finish == "unfinished" and len(t.response_ids) > 0)
    budget = Sampling(max_response_tokens=len(before.response_ids))
    ((_, _, after),) = group.stream(going_on([before]), budget)
    assert after.finish == "truncated" and after.text == before.text
    assert_array_equal(after.response_ids, before.response_ids)
