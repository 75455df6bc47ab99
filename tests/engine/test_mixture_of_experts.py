"""A tiny Qwen3 mixture of experts: it trains under ZeRO-3 on ranks that route apart, and reaches a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_helpers import check_sync, config_of, experience
from local_ray import local_ray
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig

from pacore_rl.config import ModelConfig
from pacore_rl.engine.learner import ActorGroup, start_actor, start_critic
from pacore_rl.engine.models import PolicyModule, load_critic, load_policy
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.weight_source import ZeroWeightSource
from pacore_rl.ppo.advantages import normalize_advantages
from pacore_rl.ppo.batch import MicroBatch, pack
from pacore_rl.ppo.losses import policy_loss

pytestmark = pytest.mark.slow

TINY_BASE = Path(__file__).resolve().parents[2] / "recipes" / "tiny_base"
CPU = Device(kind="cpu", cpu_threads=1)
LEFT, RIGHT = (3, 130), (130, 250)
"""Tokens that the first layer sends to experts 0 and 1, and to 2 and 3."""
RATE = 1e-3


def make_rows() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    sides = [LEFT, LEFT, RIGHT, RIGHT]
    prompts = [rng.integers(*side, 30) for side in sides]
    return [(prompts[i // 4], rng.integers(*sides[i // 4], 20)) for i in range(16)]


BATCH = experience(make_rows())
ADVANTAGES_A = normalize_advantages(np.random.default_rng(1).normal(size=BATCH.num_actions).astype(np.float32))


@pytest.fixture(scope="module")
def moe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers of 4 experts, top 2, with the tokenizer of recipes/tiny_base; LEFT and RIGHT tokens route apart."""
    folder = tmp_path_factory.mktemp("model") / "tiny_moe"
    base = AutoConfig.from_pretrained(TINY_BASE)
    config = Qwen3MoeConfig(
        vocab_size=base.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # pyright: ignore[reportCallIssue] (taken, though not declared)
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=1024,
        eos_token_id=base.eos_token_id,
        pad_token_id=base.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        embedding = model.get_parameter("model.embed_tokens.weight")
        embedding[: LEFT[1], 0], embedding[RIGHT[0] :, 0] = 2.0, -2.0
        model.get_parameter("model.layers.0.mlp.gate.weight")[:, 0] = torch.tensor([2.0, 2.0, -2.0, -2.0])
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_BASE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray("test-moe", num_cpus=16):
        yield


@pytest.fixture(scope="module")
def actor(cluster: None, moe_dir: Path) -> Iterator[ActorGroup]:
    group = start_actor(config_of(moe_dir, num_ranks=2, zero_stage=3, learning_rate=RATE), CPU)
    group.wait_ready()
    yield group
    group.close()


@pytest.fixture(scope="module")
def engine(cluster: None, moe_dir: Path) -> Iterator[RolloutGroup]:
    group = RolloutGroup.start(config_of(moe_dir), CPU)
    yield group
    group.close()


def plain_forward(module: PolicyModule, micro: MicroBatch) -> torch.Tensor:
    arrays = (micro.token_ids[None], micro.position_ids[None], micro.action_index, micro.labels)
    return module(*(torch.from_numpy(array).long() for array in arrays))


def first_layer_experts(module: PolicyModule, micros: tuple[MicroBatch, ...]) -> set[int]:
    """The experts of the first layer that some token goes to."""
    hit: set[int] = set()
    gate = module.model.get_submodule("model.layers.0.mlp.gate")
    hook = gate.register_forward_hook(lambda _, __, output: hit.update(output[2].flatten().tolist()))
    for micro in micros:
        plain_forward(module, micro)
    hook.remove()
    return hit


def test_the_stream_is_the_checkpoint(moe_dir: Path) -> None:
    """Names and shapes are those of an ordinary checkpoint, one of each expert and projection, with its numbers."""
    source = ZeroWeightSource(
        load_policy(ModelConfig(path=str(moe_dir)), torch.float32), zero_stage=1, bucket_bytes=2**20
    )
    checkpoint = load_file(moe_dir / "model.safetensors")
    assert "model.layers.1.mlp.experts.3.gate_proj.weight" in checkpoint
    declared = {meta.name: meta.shape for meta in source.metadata()}
    assert declared == {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}
    sent = list(source)
    assert [name for name, _ in sent] == [meta.name for meta in source.metadata()]
    for name, tensor in sent:
        torch.testing.assert_close(tensor, checkpoint[name], rtol=0, atol=0)


def test_ranks_that_route_apart_train_together(
    actor: ActorGroup, engine: RolloutGroup, moe_dir: Path, tmp_path: Path
) -> None:
    module = PolicyModule(load_policy(ModelConfig(path=str(moe_dir)), torch.float32), temperature=1.0, chunk_tokens=999)
    module.model.config._experts_implementation = "eager"  # apart from the learner's grouped products
    per_rank = pack(BATCH.rows, range(BATCH.num_rows), micro_batch_tokens=90, num_ranks=2)
    assert [first_layer_experts(module, micros) for micros in per_rank] == [{0, 1}, {2, 3}]

    old_A = actor.log_probs(BATCH).result()[0]
    metrics = actor.update(BATCH, old_A, ADVANTAGES_A, step=1).result()
    actor.save(tmp_path / "actor")
    after = load_file(tmp_path / "actor" / "model.safetensors")

    ((whole,),) = pack(BATCH.rows, range(BATCH.num_rows), micro_batch_tokens=10_000, num_ranks=1)
    log_probs = plain_forward(module, whole)
    np.testing.assert_allclose(old_A[whole.slots], log_probs.detach().numpy(), atol=1e-5)
    policy_loss(
        log_probs,
        log_probs.detach(),
        torch.from_numpy(ADVANTAGES_A[whole.slots]),
        clip_range=0.2,
        num_actions=BATCH.num_actions,
    ).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    # Adam's first step: rate * g / (|g| + eps); where g is no more than rounding, its direction is by chance.
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(RATE * parameter.grad / (parameter.grad.abs() + 1e-8))
    module.model.save_pretrained(tmp_path / "plain")
    start, plain = (load_file(folder / "model.safetensors") for folder in (moe_dir, tmp_path / "plain"))
    assert after.keys() == plain.keys() == start.keys()
    for name in after:
        wrong = ((after[name] - plain[name]).abs() > 1e-5).float().mean()
        assert wrong < 0.01, f"{name}: {wrong:.3f} of its elements differ"
    for expert in range(4):
        name = f"model.layers.0.mlp.experts.{expert}.down_proj.weight"
        assert (after[name] - start[name]).abs().mean() > 0.5 * RATE

    index = json.loads((tmp_path / "actor" / "config.json").read_text())
    assert index["architectures"] == ["Qwen3MoeForCausalLM"]
    load_policy(ModelConfig(path=str(tmp_path / "actor")), torch.float32)
    check_sync(engine, actor, stale=1e-3)


def test_critic_is_a_mixture_too(cluster: None, moe_dir: Path, tmp_path: Path) -> None:
    critic = start_critic(config_of(moe_dir, num_ranks=2, zero_stage=3), CPU)
    critic.wait_ready()
    returns_A = np.repeat(BATCH.rewards_B, BATCH.response_lengths_B)
    losses = []
    for step in range(1, 5):
        losses.append(critic.update(BATCH, critic.values(BATCH).result(), returns_A, step=step).result()["loss"])
    assert losses[-1] < 0.7 * losses[0]
    critic.save(tmp_path / "critic")
    critic.close()
    reloaded = load_critic(ModelConfig(path=str(tmp_path / "critic")), torch.float32, seed=5)
    assert type(reloaded).__name__ == "Qwen3MoeForTokenClassification"
    assert "model.layers.0.mlp.experts.2.up_proj.weight" in load_file(tmp_path / "critic" / "model.safetensors")
