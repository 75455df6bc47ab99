"""Low-rank adapters: only they learn, and what leaves the learner is the merged model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_helpers import check_sync, config_of, experience
from local_ray import local_ray
from safetensors.torch import load_file

from pacore_rl.config import LoraConfig, ModelConfig
from pacore_rl.engine.learner import ActorGroup, start_actor, start_critic
from pacore_rl.engine.lora import add_adapters, merged_parameters
from pacore_rl.engine.models import PolicyModule, load_critic, load_policy
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.ppo.advantages import normalize_advantages
from pacore_rl.ppo.batch import pack

pytestmark = pytest.mark.slow

CPU = Device(kind="cpu", cpu_threads=1)
RANK, RATE = 4, 1e-2
ADAPTED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def make_rows() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.integers(3, 250, 15), rng.integers(3, 250, 20)) for _ in range(16)]


BATCH = experience(make_rows())
ADVANTAGES_A = normalize_advantages(np.random.default_rng(1).normal(size=BATCH.num_actions).astype(np.float32))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray("test-lora", num_cpus=16):
        yield


@pytest.fixture(scope="module")
def actor(cluster: None, tiny_model_dir: Path) -> Iterator[ActorGroup]:
    settings = {"num_ranks": 2, "zero_stage": 3, "learning_rate": RATE, "lora": {"rank": RANK, "alpha": 8.0}}
    group = start_actor(config_of(tiny_model_dir, **settings), CPU)
    group.wait_ready()
    yield group
    group.close()


@pytest.fixture(scope="module")
def engine(cluster: None, tiny_model_dir: Path) -> Iterator[RolloutGroup]:
    group = RolloutGroup.start(config_of(tiny_model_dir), CPU)
    yield group
    group.close()


def last_layer(name: str) -> str:
    return name.split(".")[-2]


def test_merged_is_w_plus_scaled_b_a(tiny_model_dir: Path) -> None:
    model = load_policy(ModelConfig(path=str(tiny_model_dir)), torch.float32)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    ids = torch.arange(3, 40)[None]
    positions = torch.arange(37)[None]
    plain = model(ids, position_ids=positions).logits
    add_adapters(model, LoraConfig(rank=RANK, alpha=6.0, target_modules=("q_proj", "down_proj")))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        f"model.layers.{layer}.{module}.lora_{side}.default.weight"
        for layer in range(4)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for side in "AB"
    ]
    torch.testing.assert_close(model(ids, position_ids=positions).logits, plain, rtol=0, atol=0)  # B starts at 0
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    adapted = model(ids, position_ids=positions).logits
    assert (adapted - plain).abs().max() > 0.01

    merged = {parameter.name: parameter.tensor() for parameter in merged_parameters(model)}
    assert list(merged) == list(before)
    layer = "model.layers.2.self_attn.q_proj"
    up, down = (parameters[f"{layer}.lora_{side}.default.weight"] for side in "BA")
    torch.testing.assert_close(merged[f"{layer}.weight"], before[f"{layer}.weight"] + 6.0 / RANK * up @ down)
    whole = load_policy(ModelConfig(path=str(tiny_model_dir)), torch.float32)
    whole.load_state_dict(merged, strict=False)
    torch.testing.assert_close(whole(ids, position_ids=positions).logits, adapted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("targets", [("q_proj", "query"), ("lm_head",), ()])
def test_other_targets_are_refused(tiny_model_dir: Path, targets: tuple[str, ...]) -> None:
    model = load_policy(ModelConfig(path=str(tiny_model_dir)), torch.float32)
    with pytest.raises(ValueError, match=r"lora\.target_modules=.* must name linear layers.*choose from \['down_proj'"):
        add_adapters(model, LoraConfig(target_modules=targets))


def test_actor_trains_adapters_and_hands_out_the_merged_model(
    actor: ActorGroup, engine: RolloutGroup, tiny_model_dir: Path, tmp_path: Path
) -> None:
    first_A = old_A = actor.log_probs(BATCH).result()[0]
    for step in range(1, 4):
        metrics = actor.update(BATCH, old_A, ADVANTAGES_A, step=step).result()
        assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
        assert math.isfinite(metrics["grad_norm"])
        old_A = actor.log_probs(BATCH).result()[0]
    actor.save(tmp_path / "actor")
    assert not list((tmp_path / "actor").glob("adapter*"))
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model_dir, tmp_path / "actor"))
    assert after.keys() == before.keys()
    for name in after:
        change = after[name] - before[name]
        if last_layer(name) in ADAPTED:
            assert 0 < torch.linalg.matrix_rank(change, atol=1e-6) <= RANK, name
        else:
            assert not change.any(), name

    reloaded = PolicyModule(
        load_policy(ModelConfig(path=str(tmp_path / "actor")), torch.float32), temperature=1.0, chunk_tokens=999
    )
    ((micro,),) = pack(BATCH.rows, range(BATCH.num_rows), micro_batch_tokens=10_000, num_ranks=1)
    arrays = (micro.token_ids[None], micro.position_ids[None], micro.action_index, micro.labels)
    log_probs = reloaded(*(torch.from_numpy(array).long() for array in arrays)).detach().numpy()
    np.testing.assert_allclose(old_A[micro.slots], log_probs, atol=1e-4)
    assert np.abs(old_A - first_A).max() > 0.01
    check_sync(engine, actor, stale=0.01)


def test_critic_trains_adapters_and_its_head(cluster: None, tiny_model_dir: Path, tmp_path: Path) -> None:
    critic = start_critic(config_of(tiny_model_dir, zero_stage=2, learning_rate=RATE, lora={"rank": RANK}), CPU)
    critic.wait_ready()
    returns_A = np.repeat(BATCH.rewards_B, BATCH.response_lengths_B)
    critic.save(tmp_path / "first")
    for step in range(1, 3):
        critic.update(BATCH, critic.values(BATCH).result(), returns_A, step=step).result()
    critic.save(tmp_path / "second")
    values_A = critic.values(BATCH).result()
    critic.close()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    changed = {name for name in second if not torch.equal(first[name], second[name])}
    assert changed == {name for name in second if last_layer(name) in ADAPTED | {"score"}}
    reloaded = load_critic(ModelConfig(path=str(tmp_path / "second")), torch.float32, seed=9).eval()
    prompt, row = len(BATCH.rows.prompts[0]), np.append(BATCH.rows.prompts[0], BATCH.rows.responses[0])
    ids = torch.from_numpy(row)[None].long()
    with torch.no_grad():
        expected = reloaded(ids, position_ids=torch.arange(len(row))[None]).logits[0, prompt - 1 : -1, 0]
    np.testing.assert_allclose(values_A[: len(expected)], expected.numpy(), atol=1e-4)
