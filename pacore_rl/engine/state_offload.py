"""A DeepSpeed engine's states to the host's memory and back, while colocated vLLM has the GPU.

DeepSpeed moves its own (``offload_states``), with two gaps that are filled here. Under ZeRO-3 it moves optimizer states
of its own fused Adam only, and ours is torch's AdamW: fp32 weights and moments are moved here. Under ZeRO 1 and 2 with
the optimizer on the host it keeps a buffer of the largest weight, which is given back and made anew.
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

    pin_memory = engine.device.type == "cuda"  # makes the copies fast; without a GPU there is nothing to lock pages for
    zero3 = settings.zero_stage == 3
    if settings.offload_parameters:
        # The bucket alone is on the GPU. DeepSpeed's engine refuses beside offloaded weights; its optimizer does not.
        if part == "optimizer":
            engine.optimizer.offload_states(include=[State.contiguous_grad_buffer], pin_memory=pin_memory)
        states = []
    elif part == "weights":
        states = [State.lp_params]
    elif settings.offload_optimizer:
        # The rest lives on the host: reloading would move it to the GPU. ZeRO 1 and 2 keep no bucket between steps.
        states = [State.contiguous_grad_buffer] if zero3 else []
    elif zero3:
        states = [State.lp_grads, State.contiguous_grad_buffer]
    else:
        states = [State.hp_params, State.lp_grads, State.optim_states]
    if states:
        engine.offload_states(include=states, pin_memory=pin_memory)
    if part == "optimizer":
        _move(engine, settings, torch.device("cpu"))
        _resize_scratch(engine, settings, there=False)
    if engine.device.type == "cuda":
        # vLLM is another process: what torch keeps for later, it cannot have, the last weight sync's buffer included.
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()


def reload(engine: Any, settings: LearnerConfig) -> None:
    """Move everything that ``offload`` moved back to where it is computed with."""
    engine.reload_states()
    _move(engine, settings, torch.device(engine.device))
    _resize_scratch(engine, settings, there=True)


def _resize_scratch(engine: Any, settings: LearnerConfig, *, there: bool) -> None:
    """The buffer through which gradients leave the GPU under ZeRO 1 and 2; always written before it is read."""
    if settings.offload_optimizer and settings.zero_stage < 3:
        scratch = engine.optimizer.temp_grad_buffer_for_gpu_offload
        size = engine.optimizer.temp_grad_buffer_for_cpu_offload.numel() if there else 0
        scratch.data = scratch.data.new_empty(size)


def _move(engine: Any, settings: LearnerConfig, device: torch.device) -> None:
    if settings.zero_stage == 3 and not settings.offload_optimizer:
        for tensor in _zero3_optimizer_tensors(engine.optimizer):
            tensor.data = tensor.data.to(device)


def _zero3_optimizer_tensors(optimizer: Any) -> Iterator[torch.Tensor]:
    """This rank's fp32 weights under ZeRO-3, and the moments that torch's AdamW keeps for them."""
    yield from optimizer.fp32_partitioned_groups_flat
    for state in optimizer.optimizer.state.values():
        # The step counter is a tensor of one element that torch keeps on the host.
        yield from (value for value in state.values() if torch.is_tensor(value) and value.numel() > 1)
