"""Liger's kernels in a transformers model: each norm, rotary embedding and gated MLP in one pass over its numbers.

transformers writes them as sequences of small operations, and at 1.7B parameters a GPU spends more time on those than
on matrix products: docs/performance.md has the figures. Log-probs need nothing of it (``pacore_rl.ppo.log_probs``).
"""

from __future__ import annotations

from importlib.util import find_spec

from transformers import PreTrainedModel

from pacore_rl.engine.placement import Device

MEASURED = ("qwen3",)
"""Architectures (transformers' model types) that get the kernels without being asked for."""


def fuse(model: PreTrainedModel, wanted: bool | None, device: Device) -> bool:
    """Exchange the modules of ``model`` that Liger has kernels for; before adapters, tiles and DeepSpeed wrap them.

    Liger exchanges classes and functions of the architecture too, so that a process holds models of one kind.

    Args:
        wanted: ``fused_kernels`` of the learner's settings.

    Returns:
        Whether it did.

    Raises:
        ValueError: the kernels were asked for and cannot be had.
    """
    name = str(model.config.model_type)
    installed = find_spec("liger_kernel") is not None
    if wanted is None:
        wanted = device.kind == "cuda" and installed and name in MEASURED
    if not wanted:
        return False
    if device.kind != "cuda":
        raise ValueError(
            "fused_kernels=true, but this learner computes on CPUs, and the kernels are for GPUs; leave it out."
        )
    if not installed:
        raise ValueError("fused_kernels=true needs liger-kernel; install the GPU lock, or leave the setting out.")
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports] (the GPU lock has it)
        _apply_liger_kernel_to_instance,  # pyright: ignore[reportUnknownVariableType, reportPrivateUsage] (no public way to patch one model)
    )
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
        MODEL_TYPE_TO_APPLY_LIGER_FN,  # pyright: ignore[reportUnknownVariableType]
    )

    if name not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"fused_kernels=true, but Liger has no kernels for {name} models; leave the setting out.")
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    return True
