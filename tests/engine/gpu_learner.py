"""One learner rank in a process of its own, on a CPU or a GPU: two updates, and what it says before and after each.

    python gpu_learner.py '{"model": FOLDER, "device": "cuda", "role": "actor", "zero_stage": 2, ...}' OUT.npz

A process, because DeepSpeed knows one kind of device in its lifetime.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learner_helpers import config_of, experience

from pacore_rl.config import Config
from pacore_rl.engine.learner_worker import LearnerWorker
from pacore_rl.engine.placement import Device
from pacore_rl.ppo.batch import scatter_flat
from pacore_rl.types import ExperienceBatch, Float32


def make_batch() -> ExperienceBatch:
    """Two prompts with three responses each: what packing lays out as two documents with branches."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(10, 250, size) for size in (12, 20)]
    return experience([(prompts[i // 3], rng.integers(10, 250, n)) for i, n in enumerate((5, 30, 17, 41, 8, 22))])


def main(spec: dict[str, Any], out: Path) -> None:
    device = Device(kind=spec["device"], cpu_threads=1)
    os.environ |= device.environment()
    names = ("zero_stage", "fused_kernels", "offload_optimizer", "offload_parameters")
    settings = {name: spec[name] for name in names if name in spec}
    config = config_of(Path(spec["model"]), gradient_checkpointing=True, **settings)
    plain = config.model_dump(mode="json")
    plain["model"]["dtype"], plain["run"]["device"] = spec["dtype"], spec["device"]
    config = Config.model_validate(plain)
    worker = LearnerWorker(role=spec["role"], rank=0, config=config, device=device)
    worker.start(worker.rendezvous())
    batch = make_batch()

    def outputs_A() -> Float32:
        own = worker.log_probs(batch.rows)[:2] if spec["role"] == "actor" else worker.values(batch.rows)
        return scatter_flat([own], batch.num_actions)

    targets_A = np.random.default_rng(1).normal(size=batch.num_actions).astype(np.float32)
    outputs, held, reserved = [outputs_A()], [[0, 0, 0]], [[0, 0]]
    for step in (1, 2):
        worker.update(batch.rows, outputs[0], targets_A, step=step)
        if spec["turns"]:
            reserved.append([torch.cuda.memory_reserved()])
            held.append([_held()])
            for part in ("optimizer", "weights"):
                worker.offload(part)
            held[-1].append(_held())
            reserved[-1].append(torch.cuda.memory_reserved())
            worker.reload()
            held[-1].append(_held())
        outputs.append(outputs_A())
    worker.close()
    np.savez(out, outputs=np.stack(outputs), held=np.array(held), reserved=np.array(reserved))


def _held() -> int:
    """Bytes of tensors on the GPU, without the workspace of its matrix products, which stays."""
    torch._C._cuda_clearCublasWorkspaces()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return torch.cuda.memory_allocated()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
