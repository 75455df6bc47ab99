"""When Liger's kernels are put into a model; what they compute is a GPU's matter (``test_on_gpu``)."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from pacore_rl.engine.fused_kernels import fuse
from pacore_rl.engine.placement import Device

CPU = Device(kind="cpu", cpu_threads=1)


def test_cpus_do_without(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert not fuse(model, None, CPU)
    assert not fuse(model, False, CPU)
    with pytest.raises(ValueError, match="kernels are for GPUs; leave it out"):
        fuse(model, True, CPU)


def test_what_is_asked_for_must_be_installed(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacore_rl.engine.fused_kernels.find_spec", lambda name: None)
    model, gpu = AutoModelForCausalLM.from_pretrained(tiny_model_dir), Device(kind="cuda", cpu_threads=1)
    assert not fuse(model, None, gpu)
    with pytest.raises(ValueError, match="needs liger-kernel; install the GPU lock"):
        fuse(model, True, gpu)
