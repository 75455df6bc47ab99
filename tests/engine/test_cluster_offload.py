"""A learner's states to the host and back between two updates, on DeepSpeed itself: nothing may be lost on the way.

On CPUs both ends are the host; what is tested is that DeepSpeed takes the calls with torch's AdamW under every ZeRO
stage, and that an optimizer continues as if nothing had happened.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
import deepspeed
import torch.distributed as dist
from deepspeed.ops import __compatible_ops__ as compatible_ops
from pacore_rl.config import ActorConfig
from pacore_rl.engine import state_offload

compatible_ops["deepspeed_shm_comm"] = False
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

def trained(settings, interrupt):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": settings.zero_stage, "stage3_param_persistence_threshold": 0},
        },
        dist_init_required=False,
    )
    inputs = torch.linspace(-1, 1, 32).view(4, 8)
    outputs = []
    for _ in range(3):
        loss = engine(inputs).square().mean()
        engine.backward(loss)
        engine.step()
        if interrupt:
            state_offload.offload(engine, settings, "optimizer")
            state_offload.offload(engine, settings, "weights")
            assert engine.optimizer.offloaded_states
            state_offload.reload(engine, settings)
            assert not engine.optimizer.offloaded_states
        with torch.no_grad():
            outputs.append(engine(inputs).flatten().clone())
    assert engine.global_steps == 3
    return torch.stack(outputs)

for stage in (1, 2, 3):
    settings = ActorConfig(zero_stage=stage)
    plain, interrupted = trained(settings, False), trained(settings, True)
    assert not torch.equal(plain[0], plain[1])
    assert torch.equal(plain, interrupted), stage
    print("stage", stage, "agrees", flush=True)
"""


def test_an_optimizer_continues_as_if_it_had_never_left(tmp_path: Path) -> None:
    script = tmp_path / "offload.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1"}
    environment |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.fail(done.stderr[-3000:])
    assert [line for line in done.stdout.splitlines() if line.startswith("stage")] == [
        f"stage {stage} agrees" for stage in (1, 2, 3)
    ]
