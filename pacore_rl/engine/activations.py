"""What a learner keeps between forward and backward pass: layer inputs only, in the host's memory, MLPs in tiles.

At 131,072 tokens a layer's MLP alone makes tokens x 3 x 12,288 numbers in an 8B model: 9.7 GB in bfloat16.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from pacore_rl.config import LearnerConfig
from pacore_rl.engine.placement import Device


def spare_memory(model: PreTrainedModel, settings: LearnerConfig, device: Device) -> None:
    """Set a model up to keep as little as ``settings`` ask for; results stay the same.

    Raises:
        ValueError: ``mlp_tile_tokens`` for an architecture without an MLP in each layer.
    """
    recompute = device.kind == "cuda" if settings.gradient_checkpointing is None else settings.gradient_checkpointing
    if recompute:
        # On CPUs they are in the host's memory anyway.
        offload = settings.offload_checkpoints and device.kind == "cuda"
        model.gradient_checkpointing_enable({"use_reentrant": False}, offload=offload)
    if settings.mlp_tile_tokens:
        tile_mlps(model, settings.mlp_tile_tokens)


def tile_mlps(model: PreTrainedModel, tile_tokens: int) -> None:
    """Compute the MLP of each layer ``tile_tokens`` at a time, and again in the backward pass.

    An MLP looks at one token at a time, so tiles change nothing but rounding. DeepSpeed's ``TiledMLP`` gathers ZeRO-3
    weights once a tile, so that every rank needs equally many; ours hold different numbers of tokens. So the MLP
    becomes a ZeRO-3 leaf, whose weights are gathered once for all its tiles, and autograd adds the tiles' gradients up
    before DeepSpeed sees one.
    """
    mlps = [module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] == "mlp"]
    if len(mlps) < model.config.get_text_config().num_hidden_layers:
        raise ValueError(
            f"mlp_tile_tokens={tile_tokens}: only {len(mlps)} layers of {type(model).__name__} have an `mlp`; set it "
            "to 0 for this architecture."
        )
    from deepspeed.utils import set_z3_leaf_modules  # late: reads DS_ACCELERATOR, as everywhere

    for mlp in mlps:
        mlp.forward = partial(_in_tiles, mlp.forward, tile_tokens)
    set_z3_leaf_modules(model, sorted({type(mlp) for mlp in mlps}, key=lambda kind: kind.__name__))


def _in_tiles(forward: Any, tile_tokens: int, states: Tensor) -> Tensor:
    """``forward`` of states [..., T, H], a tile of tokens at a time."""
    if states.shape[-2] <= tile_tokens:
        return forward(states)
    if not torch.is_grad_enabled():
        return torch.cat([forward(tile) for tile in states.split(tile_tokens, dim=-2)], dim=-2)
    tiles = [checkpoint(forward, tile, use_reentrant=False) for tile in states.split(tile_tokens, dim=-2)]
    return torch.cat(tiles, dim=-2)
