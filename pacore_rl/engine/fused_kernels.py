"""Liger's kernels in a transformers model: each norm, rotary embedding and gated MLP in one pass over its numbers.

transformers writes them as sequences of small operations, and at 1.7B parameters a GPU spends more time on those than
on matrix products: docs/performance.md has the figures. Log-probs need nothing of it (``pacore_rl.ppo.log_probs``).
"""

from __future__ import annotations

from importlib.util import find_spec

from transformers import PreTrainedModel

from pacore_rl.engine.placement import Device


def fuse(model: PreTrainedModel, device: Device) -> None:
    """Exchange the modules of ``model`` that Liger has kernels for; before adapters, tiles and DeepSpeed wrap them.

    Liger exchanges the architecture's classes and its rotary function for the whole process too: do not keep a plain
    model of that architecture beside a fused one.

    Raises:
        ValueError: the kernels cannot be had: no GPU, no Liger, or an architecture that it does not know.
    """
    if device.kind != "cuda":
        raise ValueError(
            "fused_kernels=true, but this learner computes on CPUs; the kernels are for GPUs: leave it out."
        )
    if find_spec("liger_kernel") is None:
        raise ValueError("fused_kernels=true needs liger-kernel; install the GPU lock, or leave the setting out.")
    # Of the GPU lock alone; there is no public way to patch one model.
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # pyright: ignore
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # pyright: ignore

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(
            f"fused_kernels=true, but Liger has no kernels for {model.config.model_type} models; leave the setting out."
        )
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
