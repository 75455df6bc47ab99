"""Formulas against numbers worked by hand, and the activations against what autograd really saves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pacore_rl.planning import formulas as f
from pacore_rl.planning.shapes import BUILT_IN, ModelShape

EIGHT_B = BUILT_IN["Qwen/Qwen3-8B"]


def test_zero_shards_what_its_stage_says() -> None:
    """ZeRO's table: a model of 8 parameters on 4 ranks, bf16."""
    assert [f.weights(8, itemsize=2, zero_stage=stage, ranks=4) for stage in (1, 2, 3)] == [16, 16, 4]
    assert [f.gradients(8, zero_stage=stage, ranks=4) for stage in (1, 2, 3)] == [32, 8, 8], "fp32: 4 bytes each"
    assert f.optimizer(8, ranks=4) == 24
    assert f.optimizer(8, ranks=1) + f.weights(8, itemsize=2, zero_stage=1, ranks=1) == 14 * 8


def test_kv_cache_of_one_token() -> None:
    """Qwen3-8B: 2 x 36 layers x 8 heads x 128 x 2 bytes = 144 KiB; a head is never split."""
    token = f.kv_token(EIGHT_B, itemsize=2, tensor_parallel=1, pipeline_parallel=1)
    assert token == 144 * f.KIB
    assert f.kv_token(EIGHT_B, itemsize=2, tensor_parallel=4, pipeline_parallel=1) == token / 4
    assert f.kv_token(EIGHT_B, itemsize=2, tensor_parallel=16, pipeline_parallel=1) == token / 8
    assert f.kv_token(EIGHT_B, itemsize=2, tensor_parallel=1, pipeline_parallel=2) == token / 2


def test_the_heads_gradient_is_written_once() -> None:
    """151,936 x 4,096 in bf16, and nothing in fp32."""
    assert f.head_gradient(EIGHT_B, itemsize=2) == 2 * 151_936 * 4096


def test_logits_of_a_chunk_and_the_whole() -> None:
    """At 131,072 tokens the fp32 logits are 80 GB, and a temporary as much again; a chunk of 4,096 is a 32nd of it."""
    whole = f.logits(EIGHT_B, chunk_tokens=131_072)
    assert whole / 2 == pytest.approx(80e9, rel=0.01)
    assert f.logits(EIGHT_B, chunk_tokens=4096) == whole // 32


def test_checkpointing_keeps_layer_inputs() -> None:
    """36 inputs of 4,096 x 2 bytes a token, one layer, and its gradients."""
    assert (
        f.activations(EIGHT_B, 1000, 10, itemsize=2, checkpointing=True, offloaded=False) == 36 * 4096 * 2 * 10 + 2000
    )
    assert f.activations(EIGHT_B, 1000, 10, itemsize=2, checkpointing=True, offloaded=True) == 2000
    assert f.activations(EIGHT_B, 1000, 10, itemsize=2, checkpointing=False, offloaded=False) == 37 * 1000


def test_attentions_backward_pass_holds_more_than_its_rows() -> None:
    """bf16, a slot of Qwen3-8B: 12 x 4,096 + 4 x 1,024 bytes, where rows of queries, keys and values take 20,480."""
    assert f.attention_gradients(EIGHT_B, 10, itemsize=2) == 10 * (12 * 4096 + 4 * 1024)
    args = {"itemsize": 2, "checkpointing": True, "offloaded": True}
    assert f.activations(EIGHT_B, 1000, 10, **args, gradients=3000) == 4000


def test_lora_counts_what_peft_adds() -> None:
    """A layer of Qwen3-1.7B at rank 1: in + out of q, k, v, o, gate, up, down."""
    shape = BUILT_IN["Qwen/Qwen3-1.7B"]
    one = (2048 + 2048) + (2048 + 1024) * 2 + (2048 + 2048) + (2048 + 6144) * 3
    assert f.lora_parameters(shape, 1) == 28 * one
    assert f.lora_parameters(shape, 32) == 32 * 28 * one


@pytest.mark.parametrize("tokens", [16, 64])
def test_layer_activations_are_what_autograd_saves(tokens: int) -> None:
    """fp32, one document: bytes of the distinct tensors that a real layer's backward pass holds."""
    import torch
    from transformers import AutoModel, Qwen3Config

    from pacore_rl.engine import document_attention

    document_attention.register()
    shape = ModelShape(
        model_type="qwen3",
        num_layers=2,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=160,
        vocab_size=50,
        tied_embeddings=True,
        max_positions=256,
        qk_norm=True,
        attention_bias=False,
    )

    def saved(num_layers: int) -> int:
        settings = Qwen3Config(
            num_hidden_layers=num_layers,
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=160,
            vocab_size=50,
        )
        settings._attn_implementation = document_attention.DOCUMENT_ATTENTION
        model = AutoModel.from_config(settings)
        held: dict[int, int] = {}
        parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        positions = torch.arange(tokens)[None]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(input_ids=torch.ones_like(positions), position_ids=positions, use_cache=False)
        assert output.last_hidden_state.requires_grad
        return sum(held.values())

    computed = f.layer_activations(shape, tokens, itemsize=4, query_slots=tokens, key_slots=tokens)
    assert computed == pytest.approx(saved(3) - saved(2), rel=0.12)


def test_tiles_and_experts() -> None:
    def layer(shape: ModelShape, tiles: int = 0) -> int:
        return f.layer_activations(shape, 100, itemsize=2, query_slots=100, key_slots=100, mlp_tile_tokens=tiles)

    assert layer(EIGHT_B) - layer(EIGHT_B, tiles=10) == 4 * 2 * 12_288 * 90
    assert layer(EIGHT_B, tiles=1000) == layer(EIGHT_B)
    split = replace(EIGHT_B, num_experts=64, experts_per_token=8, intermediate_size=12_288 // 8)
    # The same inner width over eight experts, plus each expert's input and output and the router's scores.
    assert layer(split) - layer(EIGHT_B) == 100 * (8 * 2 * 2 * 4096 + 8 * 64)
