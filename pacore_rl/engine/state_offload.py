"""A DeepSpeed engine's states to the host's memory and back, while colocated vLLM has the GPU.

DeepSpeed moves its own (``offload_states``), with one gap: under ZeRO-3 it moves optimizer states of its own fused Adam
only. Ours is torch's AdamW, so there the fp32 weights and the moments are moved here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from pacore_rl.config import LearnerConfig

Part = Literal["optimizer", "weights"]
"""optimizer: fp32 weights, moments, gradients and their buffers. weights: those that the model computes with."""


def offload(engine: Any, settings: LearnerConfig, part: Part) -> None:
    """Move ``part`` to the host; what settings keep there anyway stays as it is."""
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as State  # late: reads DS_ACCELERATOR

    if settings.offload_parameters:
        return
    zero3 = settings.zero_stage == 3
    if part == "weights":
        states = [State.lp_params]
    elif settings.offload_optimizer:
        # The rest lives on the host: reloading would move it to the GPU. ZeRO 1 and 2 keep no bucket between steps.
        states = [State.contiguous_grad_buffer] if zero3 else []
    elif zero3:
        states = [State.lp_grads, State.contiguous_grad_buffer]
    else:
        states = [State.hp_params, State.lp_grads, State.optim_states]
    if states:
        # Page-locked memory makes the copies fast; without a GPU there is nothing to lock it for.
        engine.offload_states(include=states, pin_memory=engine.device.type == "cuda")
    if part == "optimizer" and zero3 and not settings.offload_optimizer:
        _move(engine, torch.device("cpu"))
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()  # vLLM is another process: what torch keeps for later, it cannot have


def reload(engine: Any, settings: LearnerConfig) -> None:
    """Move everything that ``offload`` moved back to where it is computed with."""
    if settings.offload_parameters:
        return
    engine.reload_states()
    if settings.zero_stage == 3 and not settings.offload_optimizer:
        _move(engine, torch.device(engine.device))


def _move(engine: Any, device: torch.device) -> None:
    for tensor in _zero3_optimizer_tensors(engine.optimizer):
        tensor.data = tensor.data.to(device)


def _zero3_optimizer_tensors(optimizer: Any) -> Iterator[torch.Tensor]:
    """This rank's fp32 weights under ZeRO-3, and the moments that torch's AdamW keeps for them."""
    yield from optimizer.fp32_partitioned_groups_flat
    for state in optimizer.optimizer.state.values():
        # The step counter is a tensor of one element that torch keeps on the host.
        yield from (value for value in state.values() if torch.is_tensor(value) and value.numel() > 1)
