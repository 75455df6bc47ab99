"""What a model keeps for its backward pass where it computes MLPs in tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pacore_rl.config import ModelConfig
from pacore_rl.engine.activations import tile_mlps
from pacore_rl.engine.models import load_policy


def kept_bytes(module: nn.Module, states: Tensor) -> int:
    """Bytes that the forward pass keeps, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(states)
    return sum(kept)


def test_a_tiled_mlp_keeps_its_input_only(tiny_model_dir: Path) -> None:
    model = load_policy(ModelConfig(path=str(tiny_model_dir)), torch.float32)
    mlp = model.get_submodule("model.layers.0.mlp")
    states = torch.randn(1, 50, 128, requires_grad=True)
    whole = mlp(states)
    assert kept_bytes(mlp, states) >= states.nbytes + 3 * 50 * 256 * 4
    tile_mlps(model, 7)
    assert kept_bytes(mlp, states) == states.nbytes
    torch.testing.assert_close(mlp(states), whole)
    with torch.no_grad():
        torch.testing.assert_close(mlp(states), whole)


def test_a_model_without_mlps_is_refused(tiny_model_dir: Path) -> None:
    model = load_policy(ModelConfig(path=str(tiny_model_dir)), torch.float32)
    layer = model.get_submodule("model.layers.1")
    layer.feed_forward = layer.mlp
    del layer.mlp
    with pytest.raises(ValueError, match="only 3 layers of Qwen3ForCausalLM have an `mlp`"):
        tile_mlps(model, 7)
