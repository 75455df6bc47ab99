"""When Liger's kernels are refused; what they compute is a GPU's matter (``test_on_gpu``)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from pacore_rl.engine.fused_kernels import fuse
from pacore_rl.engine.placement import Device


def test_a_cpu_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="kernels are for GPUs: leave it out"):
        fuse(AutoModelForCausalLM.from_pretrained(tiny_model_dir), Device(kind="cpu", cpu_threads=1))


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="Liger is installed")
def test_it_must_be_installed(tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="needs liger-kernel; install the GPU lock"):
        fuse(AutoModelForCausalLM.from_pretrained(tiny_model_dir), Device(kind="cuda", cpu_threads=1))
