"""Packed rows compute what they compute alone: log-probs, values and gradients, with and without shared prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import make_rows
from torch import Tensor

from pacore_rl.config import ModelConfig
from pacore_rl.engine import document_attention
from pacore_rl.engine.document_attention import plan_rows
from pacore_rl.engine.models import PolicyModule, ValueModule, load_critic, load_policy
from pacore_rl.ppo.batch import MicroBatch, pack
from pacore_rl.types import TokenRows

CPU = torch.device("cpu")


def nine_rows() -> TokenRows:
    """Nine rows: three prompts of very different lengths, shared by several responses, one of a single token."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 250, n) for n in (5, 60, 23)]
    rows = [
        (prompts[p], rng.integers(3, 250, n)) for p, n in [(0, 4), (1, 30), (1, 1), (1, 9), (2, 70), (2, 2), (0, 1)]
    ]
    rows += [(rng.integers(3, 250, 3), rng.integers(3, 250, 5)), (prompts[1], rng.integers(3, 250, 40))]
    return make_rows(rows)


def inputs(micro: MicroBatch) -> tuple[Tensor, ...]:
    arrays = (micro.token_ids[None], micro.position_ids[None], micro.action_index, micro.labels)
    return tuple(torch.from_numpy(array).long() for array in arrays)


def run(module: torch.nn.Module, forward: Callable[..., Tensor], micros: list[MicroBatch], weights_A: Tensor) -> Tensor:
    """Outputs [A] over all micro-batches; gradients of their weighted mean are left on the module."""
    module.zero_grad()
    out = torch.empty(len(weights_A))
    for micro in micros:
        slots = torch.from_numpy(micro.slots)
        values = forward(*inputs(micro))
        out[slots] = values.detach()
        ((values * weights_A[slots]).sum() / len(weights_A)).backward()
    return out


@pytest.fixture(scope="module", params=["policy", "critic"])
def network(request: pytest.FixtureRequest, tiny_model_dir: Path) -> tuple[torch.nn.Module, Callable[..., Tensor]]:
    config = ModelConfig(path=str(tiny_model_dir))
    if request.param == "policy":
        policy = PolicyModule(load_policy(config, torch.float32), temperature=0.8, chunk_tokens=16)
        return policy, policy
    critic = ValueModule(load_critic(config, torch.float32, seed=1))
    return critic, lambda ids, positions, index, _: critic(ids, positions, index)


@pytest.mark.parametrize("rows_are", ["masked", "whole", "rounded"])
@pytest.mark.parametrize("budget", [10_000, 80])
def test_packed_equals_alone(
    network: tuple[torch.nn.Module, Callable[..., Tensor]], budget: int, rows_are: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, forward = network
    if rows_are != "masked":
        monkeypatch.setattr(document_attention, "MAX_MASK_ELEMENTS", 0)
    rows = nine_rows()
    weights_A = torch.randn(rows.num_actions, generator=torch.Generator().manual_seed(1))
    alone = [pack(rows, [row], micro_batch_tokens=10_000, num_ranks=1)[0][0] for row in range(rows.num_rows)]
    expected = run(module, forward, alone, weights_A)
    expected_grads = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    if rows_are == "rounded":
        monkeypatch.setattr(document_attention, "LONG_ROW_TOKENS", 16)
        monkeypatch.setattr(document_attention, "LONG_ROW_STEPS", 2)
        monkeypatch.setattr(document_attention, "_prefers_cudnn", lambda device: True)
    (micros,) = pack(rows, range(rows.num_rows), micro_batch_tokens=budget, num_ranks=1)
    out = run(module, forward, list(micros), weights_A)

    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_grads[name], atol=1e-6, rtol=1e-4, msg=name)


def test_alone_equals_plain_transformers(tiny_model_dir: Path) -> None:
    """The reference of all comparisons: transformers' own sdpa on one row, without anything of ours."""
    from transformers import AutoModelForCausalLM

    rows = nine_rows()
    config = ModelConfig(path=str(tiny_model_dir))
    ours = PolicyModule(load_policy(config, torch.float32), temperature=1.0, chunk_tokens=7)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attn_implementation="sdpa", dtype=torch.float32)
    (micros,) = pack(rows, range(rows.num_rows), micro_batch_tokens=10_000, num_ranks=1)
    out = torch.empty(rows.num_actions)
    with torch.no_grad():
        for micro in micros:
            out[torch.from_numpy(micro.slots)] = ours(*inputs(micro))
        expected = [
            torch.log_softmax(plain(torch.from_numpy(ids)[None].long()).logits[0, :-1].float(), -1)
            .gather(1, torch.from_numpy(ids[1:]).long()[:, None])
            .squeeze(1)[len(prompt) - 1 :]
            for prompt, ids in ((p, np.append(p, r)) for p, r in zip(rows.prompts, rows.responses, strict=True))
        ]
    torch.testing.assert_close(out, torch.cat(expected), atol=2e-6, rtol=0)


def test_gradient_checkpointing_changes_nothing(tiny_model_dir: Path) -> None:
    rows = nine_rows()
    config = ModelConfig(path=str(tiny_model_dir))
    (micros,) = pack(rows, range(rows.num_rows), micro_batch_tokens=80, num_ranks=1)
    grads: list[dict[str, Tensor]] = []
    for checkpointing in (False, True):
        module = PolicyModule(load_policy(config, torch.float32), temperature=1.0, chunk_tokens=16).train()
        if checkpointing:
            module.model.gradient_checkpointing_enable({"use_reentrant": False})
        run(module, module, list(micros), torch.ones(rows.num_actions))
        grads.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-7, rtol=1e-5, msg=name)


def test_a_micro_batch_is_laid_out_in_as_many_slots_as_its_budget_allows() -> None:
    """64 answers of 5 tokens to a prompt of 320 were 20,736 slots; only their padding may exceed 8 x 640."""
    (micros,) = pack(make_rows([(np.arange(320), np.arange(5))] * 64), range(64), micro_batch_tokens=640, num_ranks=1)
    plans = [plan_rows(micro.position_ids.astype(np.int64), CPU) for micro in micros]
    slots = [sum(bucket.keys.tokens.numel() for bucket in plan.buckets) for plan in plans if plan is not None]
    assert slots == [15 * 324] * 4 + [4 * 324] and max(slots) <= 8 * 640


def test_plan_of_one_document_is_no_plan() -> None:
    assert plan_rows(np.arange(5), CPU) is None


def test_long_rows_have_few_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_attention, "_prefers_cudnn", lambda device: True)

    def slots(length: int) -> int:
        plan = plan_rows(np.arange(length), CPU)
        return length if plan is None else plan.buckets[0].keys.shape[1]

    lengths = [*range(2**14 - 3, 2**14), *range(2**14, 2**17, 997)]
    laid_out = [slots(length) for length in lengths]
    assert laid_out[:4] == [2**14 - 3, 2**14 - 2, 2**14 - 1, 2**14]
    assert all(length <= slots <= length * 33 / 32 for length, slots in zip(lengths, laid_out, strict=True))
    assert len(set(laid_out[3:])) <= 3 * 32 + 1


@pytest.mark.parametrize("positions", [[1, 2], [0, 1, 5, 6]])
def test_positions_that_begin_nothing_are_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="must begin at position 0"):
        plan_rows(np.array(positions), CPU)


def test_model_folder_errors(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        load_policy(ModelConfig(path=str(tmp_path / "nowhere")), torch.float32)
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_policy(ModelConfig(path=str(tmp_path)), torch.float32)
    (tmp_path / "config.json").write_bytes((tiny_model_dir / "config.json").read_bytes())
    with pytest.raises(ValueError, match="holds no weights"):
        load_critic(ModelConfig(path=str(tmp_path)), torch.float32, seed=0)


def test_rope_scaling_override_reaches_the_model(tiny_model_dir: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.0, "original_max_position_embeddings": 512}
    model = load_policy(ModelConfig(path=str(tiny_model_dir), rope_scaling=scaling), torch.float32)
    assert model.config.rope_parameters["rope_type"] == "yarn"
    rotary: Any = model.get_submodule("model.rotary_emb")
    assert rotary.attention_scaling == 1.0


def test_fresh_head_is_seeded_and_small(tiny_model_dir: Path) -> None:
    config = ModelConfig(path=str(tiny_model_dir))
    first, again, other = (
        load_critic(config, torch.float32, seed=seed).get_parameter("score.weight") for seed in (3, 3, 4)
    )
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() < 2 / first.shape[1]
