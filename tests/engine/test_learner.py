"""The learners on real Ray, DeepSpeed and gloo. More layouts, without Ray: ``test_learner_layouts``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from learner_ranks import make_batch
from local_ray import local_ray
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer

from pacore_rl.checkpoints.files import damage
from pacore_rl.config import Config, ModelConfig
from pacore_rl.engine.learner import ActorGroup, CriticGroup, start_actor, start_critic
from pacore_rl.engine.learner_passes import learning_rate
from pacore_rl.engine.models import PolicyModule, load_critic, load_policy
from pacore_rl.engine.placement import Device
from pacore_rl.engine.shares import own_micro_batches
from pacore_rl.engine.whereabouts import locate
from pacore_rl.ppo.advantages import normalize_advantages
from pacore_rl.ppo.batch import pack
from pacore_rl.ppo.losses import policy_loss

CPU = Device(kind="cpu", cpu_threads=1)
LAYOUTS = {"one rank": (1, 2, 1), "ZeRO-2": (2, 2, 1), "shared ZeRO-3": (2, 3, 2)}
"""Name to (ranks, ZeRO stage, ranks that share a sequence)."""


BATCH = make_batch()
ADVANTAGES_A = normalize_advantages(np.random.default_rng(1).normal(size=BATCH.num_actions).astype(np.float32))
RETURNS_A = np.repeat(BATCH.rewards_B, BATCH.response_lengths_B)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray("test-learner", num_cpus=16):
        yield


def config_of(model: Path, num_ranks: int, zero_stage: int, sequence_parallel: int = 1) -> Config:
    learner: dict[str, Any] = {
        "num_ranks": num_ranks,
        "sequence_parallel": sequence_parallel,
        "zero_stage": zero_stage,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "micro_batch_tokens": 90,
        "logprob_chunk_tokens": 32,
    }
    return Config.model_validate(
        {
            "run": {"device": "cpu", "worker_timeout_seconds": 120.0},
            "model": {"path": str(model), "context_window_tokens": 512},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"answer_reserve_tokens": 16, "temperature": 0.9},
            "ppo": {"problems_per_step": 4, "responses_per_problem": 4, "critic_minibatches": 3},
            "actor": learner,
            "critic": learner,
        }
    )


@pytest.fixture(scope="module")
def actors(cluster: None, tiny_model_dir: Path) -> Iterator[dict[str, ActorGroup]]:
    """One actor for each layout, all started at once."""
    groups = {name: start_actor(config_of(tiny_model_dir, *layout), CPU) for name, layout in LAYOUTS.items()}
    for group in groups.values():
        group.wait_ready()
    yield groups
    for group in groups.values():
        group.close()


@pytest.fixture(scope="module")
def critic(cluster: None, actors: dict[str, ActorGroup], tiny_model_dir: Path) -> Iterator[CriticGroup]:
    group = start_critic(config_of(tiny_model_dir, 2, 3), CPU)
    group.wait_ready()
    yield group
    group.close()


def plain_gradient(model: Path, old_A: np.ndarray) -> dict[str, torch.Tensor]:
    """The gradient of the whole batch's loss in one pass, without Ray, DeepSpeed, ranks or micro-batches."""
    module = PolicyModule(load_policy(ModelConfig(path=str(model)), torch.float32), temperature=0.9, chunk_tokens=999)
    ((micro,),) = pack(BATCH.rows, range(BATCH.num_rows), micro_batch_tokens=10_000, num_ranks=1)
    arrays = (micro.token_ids[None], micro.position_ids[None], micro.action_index, micro.labels)
    log_probs = module(*(torch.from_numpy(array).long() for array in arrays))
    policy_loss(
        log_probs,
        torch.from_numpy(old_A[micro.slots]),
        torch.from_numpy(ADVANTAGES_A[micro.slots]),
        clip_range=0.2,
        num_actions=BATCH.num_actions,
    ).loss.backward()
    return {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}


def plain_entropies(model: Path) -> np.ndarray:
    """Of every action token, from whole rows of logits."""
    policy = load_policy(ModelConfig(path=str(model)), torch.float32)
    ((micro,),) = pack(BATCH.rows, range(BATCH.num_rows), micro_batch_tokens=10_000, num_ranks=1)
    ids, positions = (torch.from_numpy(array[None]).long() for array in (micro.token_ids, micro.position_ids))
    entropies = np.empty(BATCH.num_actions, np.float32)
    with torch.no_grad():
        logits = policy(input_ids=ids, position_ids=positions, use_cache=False).logits[0, micro.action_index] / 0.9
        entropies[micro.slots] = torch.distributions.Categorical(logits=logits).entropy().numpy()
    return entropies


def test_every_layout_gives_the_same_update(
    actors: dict[str, ActorGroup], tiny_model_dir: Path, tmp_path: Path
) -> None:
    before = {name: group.log_probs(BATCH) for name, group in actors.items()}
    log_probs = {name: pending.result()[0] for name, pending in before.items()}
    old_A = log_probs["one rank"]
    grads = plain_gradient(tiny_model_dir, old_A)
    entropies = plain_entropies(tiny_model_dir)
    norm = float(torch.sqrt(sum((g.square().sum() for g in grads.values()), torch.zeros(()))))

    updates = {name: group.update(BATCH, old_A, ADVANTAGES_A, step=1) for name, group in actors.items()}
    metrics = {name: pending.result() for name, pending in updates.items()}
    after = {name: group.log_probs(BATCH) for name, group in actors.items()}
    entropy = {name: pending.result() for name, pending in after.items()}
    num_passes = {name: ray.get(locate(group.handles[0]), timeout=60).num_steps for name, group in actors.items()}
    for name, group in actors.items():
        group.save(tmp_path / name)
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in actors}
    start = load_file(tiny_model_dir / "model.safetensors")

    # A warm-up of 2 steps: the first has half the rate. Adam's first step is rate * g / (|g| + eps), g the clipped one.
    rate = 0.5e-3
    for key, grad in grads.items():
        clipped = grad * min(1.0, 1.0 / (norm + 1e-6))
        expected = start[key] - rate * clipped / (clipped.abs() + 1e-8)
        sure = clipped.abs() > 1e-6  # below, rounding alone decides the direction of Adam's first step
        torch.testing.assert_close(weights["one rank"][key][sure], expected[sure], atol=1e-5, rtol=0)
    for name in actors:
        micros = len(own_micro_batches(actors[name].settings, BATCH.rows, range(BATCH.num_rows), rank=0))
        assert num_passes[name] == 3 * micros + 1, "two passes for log-probs, one for the update, and Adam's step"
        np.testing.assert_allclose(log_probs[name], old_A, atol=1e-5)
        np.testing.assert_allclose(entropy[name][0], entropy["one rank"][0], atol=1e-4)
        assert metrics[name]["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert metrics[name]["lr"] == rate
        assert 0.0 <= metrics[name]["padding_share"] < 0.02
        assert metrics[name]["loss"] == pytest.approx(-float(ADVANTAGES_A.mean()), abs=1e-6)
        assert metrics[name]["ratio_max"] == pytest.approx(1.0, abs=1e-4)
        np.testing.assert_allclose(before[name].result()[1], entropies, atol=1e-4)
        assert weights[name].keys() == start.keys()
        for key, value in weights[name].items():
            sure = grads[key].abs() > 1e-6 * max(1.0, norm)
            torch.testing.assert_close(value[sure], weights["one rank"][key][sure], atol=1e-5, rtol=0, msg=name)
    assert np.abs(entropy["one rank"][0] - old_A).max() > 1e-3


def test_saved_policy_is_a_model_with_its_tokenizer(actors: dict[str, ActorGroup], tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    actors["shared ZeRO-3"].save(folder)
    actors["shared ZeRO-3"].save(folder)
    load_policy(ModelConfig(path=str(folder)), torch.float32)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize("name", ["one rank", "shared ZeRO-3"])
def test_state_continues_where_it_was_saved(actors: dict[str, ActorGroup], tmp_path: Path, name: str) -> None:
    actor = actors[name]
    actor.snapshot().result()
    written = actor.write_snapshot(tmp_path).result()
    assert damage(tmp_path, written) is None and len(list((tmp_path / "state").iterdir())) == len(actor.handles)
    old_A = actor.log_probs(BATCH).result()[0]
    runs = []
    for _ in range(2):
        actor.update(BATCH, old_A, ADVANTAGES_A, step=9).result()
        runs.append(actor.log_probs(BATCH).result()[0])
        actor.load_state(tmp_path).result()
    np.testing.assert_array_equal(runs[0], runs[1])
    with pytest.raises(ValueError, match="holds no state of the actor"):
        actor.load_state(tmp_path / "nowhere").result()


def test_state_of_two_ranks_goes_on_in_every_other_layout(actors: dict[str, ActorGroup], tmp_path: Path) -> None:
    """Written by two data-parallel ranks, read by one, and by two that share each sequence under another stage."""
    source = actors["ZeRO-2"]
    old_A = source.log_probs(BATCH).result()[0]
    source.update(BATCH, old_A, ADVANTAGES_A, step=8).result()  # so that Adam has moments
    source.snapshot().result()
    source.write_snapshot(tmp_path).result()
    outcomes = {}
    for name, actor in actors.items():
        actor.load_state(tmp_path).result()
        before_A = actor.log_probs(BATCH).result()[0]
        losses = [actor.update(BATCH, before_A, ADVANTAGES_A, step=9).result()["loss"] for _ in range(3)]
        outcomes[name] = (before_A, losses, actor.log_probs(BATCH).result()[0])
        actor.load_state(tmp_path).result()  # for the tests that follow, which compare the layouts
    before_A, losses, after_A = outcomes["ZeRO-2"]
    assert np.abs(after_A - before_A).max() > 1e-3
    for name, (before, losses_of, after) in outcomes.items():
        np.testing.assert_allclose(before, before_A, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(losses_of, losses, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(after, after_A, atol=1e-5, rtol=0, err_msg=name)


def test_critic_learns_the_returns(critic: CriticGroup, tmp_path: Path) -> None:
    first: dict[str, float] = {}
    metrics: dict[str, float] = {}
    for step in range(1, 9):
        values_A = critic.values(BATCH).result()
        metrics = dict(critic.update(BATCH, values_A, RETURNS_A, step=step).result())
        first = first or metrics
    assert metrics["loss"] < 0.3 * first["loss"]
    assert metrics["explained_variance_before"] > first["explained_variance_before"]
    assert metrics["lr"] == 1e-3
    assert 0.0 <= metrics["clip_share"] <= 1.0

    critic.save(tmp_path / "critic")
    reloaded = load_critic(ModelConfig(path=str(tmp_path / "critic")), torch.float32, seed=99)
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "critic")
    torch.testing.assert_close(reloaded.get_parameter("score.weight"), plain.get_parameter("score.weight"))
    ids = torch.from_numpy(np.append(BATCH.rows.prompts[0], BATCH.rows.responses[0]))[None].long()
    prompt = len(BATCH.rows.prompts[0])
    with torch.no_grad():
        expected = plain.eval()(ids).logits[0, prompt - 1 : -1, 0].numpy()
    np.testing.assert_allclose(critic.values(BATCH).result()[: len(expected)], expected, atol=1e-5)


def test_errors_surface_with_the_rank(actors: dict[str, ActorGroup]) -> None:
    actor = actors["ZeRO-2"]
    old_A = actor.log_probs(BATCH).result()[0]
    with pytest.raises(FloatingPointError, match="the loss of step 3 is nan") as caught:
        actor.update(BATCH, old_A, np.full_like(ADVANTAGES_A, np.nan), step=3).result()
    assert "actor rank" in "".join(caught.value.__notes__)


def test_a_missing_model_is_the_users_error(cluster: None, tmp_path: Path) -> None:
    group = start_actor(config_of(tmp_path, 1, 2), CPU)
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        group.wait_ready()
    group.close()


def test_learning_rate_warms_up_then_stays(tiny_config: Callable[..., Config]) -> None:
    warming = {"learning_rate": 1e-3, "warmup_steps": 4}
    config = tiny_config(actor=warming, critic=warming, ppo={"critic_minibatches": 3, "critic_warmup_steps": 2})
    actor = [learning_rate(config, "actor", iteration, 1) for iteration in (3, 4, 6, 100)]  # frozen until the third
    assert actor == pytest.approx([2.5e-4, 5e-4, 1e-3, 1e-3])
    critic = [learning_rate(config, "critic", iteration, number) for iteration in (1, 2) for number in (1, 2, 3)]
    assert critic == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    at_once = tiny_config(actor=warming | {"warmup_steps": 0})
    assert learning_rate(at_once, "actor", 1, 1) == 1e-3
