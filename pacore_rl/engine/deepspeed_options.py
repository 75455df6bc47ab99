"""DeepSpeed as a learner uses it: ZeRO 1 to 3 with AdamW in fp32, optimizer and weights on the host where asked for."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import nn

from pacore_rl.config import LearnerConfig
from pacore_rl.engine.placement import Device
from pacore_rl.planning.formulas import deepspeed_stage

PERSISTENT_TOKENS_PER_HIDDEN = 10
"""Under ZeRO-3, parameters up to 10 x hidden size (norms, biases) stay whole on every rank: gathering costs more."""

BUCKET_UNIT = 2**20
"""Gradients are reduced in buckets of this many elements, or up to 500 times as many."""


def join_deepspeed(device: Device) -> None:
    """Let DeepSpeed take over torch's process group, before anything else of DeepSpeed."""
    import deepspeed  # late: reads DS_ACCELERATOR, which only a worker's environment sets
    from deepspeed.ops import __compatible_ops__ as compatible_ops

    # DeepSpeed would compile a shared-memory all-reduce at this moment; gloo needs no compiler.
    compatible_ops["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend=device.collective_backend)


def deepspeed_engine(
    module: nn.Module, settings: LearnerConfig, device: Device, dtype: torch.dtype, *, hidden_size: int
) -> Any:
    """The module under ZeRO with AdamW. The mini-batch boundary is set by hand, pass by pass.

    Args:
        module: weights of ``dtype``; in bfloat16 AdamW steps fp32 copies of them, and gradients add up in fp32.
        hidden_size: of the model, for what stays whole under ZeRO-3.
    """
    import deepspeed  # late, as above

    optimizer = torch.optim.AdamW(
        (parameter for parameter in module.parameters() if parameter.requires_grad),
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        weight_decay=settings.weight_decay,
        # One pass over the weights: on the host several times as fast, without DeepSpeed's CPUAdam and its compiler.
        fused=settings.offload_optimizer,
    )
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    options = deepspeed_options(settings, device, dtype, hidden_size=hidden_size, num_parameters=num_parameters)
    if settings.zero_stage == 3:
        _partition(module, options, device, dtype)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=options,
        dist_init_required=False,
    )
    return engine


def _partition(module: nn.Module, options: dict[str, Any], device: Device, dtype: torch.dtype) -> None:
    """Cut up a module in the host's memory, weight by weight: a GPU never holds the whole of it."""
    import deepspeed  # late, as above

    deepspeed.zero.Init(module=module, config_dict_or_path=options, dtype=dtype)
    for buffer in module.buffers():  # which zero.Init leaves where they are
        buffer.data = buffer.data.to(device.kind)


def deepspeed_options(
    settings: LearnerConfig, device: Device, dtype: torch.dtype, *, hidden_size: int, num_parameters: int
) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    # No larger than the model: DeepSpeed allocates it. A round number, for its alignment rules.
    bucket = min(math.ceil(num_parameters / BUCKET_UNIT) * BUCKET_UNIT, 500 * BUCKET_UNIT)
    zero: dict[str, Any] = {
        "stage": deepspeed_stage(settings.zero_stage, bfloat16=dtype == torch.bfloat16),
        "overlap_comm": device.kind == "cuda",
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_param_persistence_threshold": PERSISTENT_TOKENS_PER_HIDDEN * hidden_size,
    }
    host = {"device": "cpu", "pin_memory": device.kind == "cuda"}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = host
    if settings.offload_parameters:
        zero["offload_param"] = host
    # The ranks of a sequence each hold a part of every weight's gradient, as micro-batches do: summed in fp32 too. ZeRO
    # is not told of these groups, or it would choose so itself.
    in_fp32 = {"communication_data_type": "fp32"} if settings.sequence_parallel > 1 else {}
    return in_fp32 | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        # A sum over hundreds of micro-batches would stop growing in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
