"""What only a GPU can show: runs where there is one, in minutes on a single one; everywhere else it is skipped.

Run ``python -m pytest -s tests/engine/test_on_gpu.py`` with the GPU lock installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.engine.learner_passes import Role
from pacore_rl.reporting.jsonl import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

PROGRAM = Path(__file__).with_name("gpu_learner.py")
REPOSITORY = Path(__file__).resolve().parents[2]


def learner(out: Path, model: Path, **spec: Any) -> dict[str, NDArray[Any]]:
    """What ``gpu_learner.py`` saves."""
    spec = {"model": str(model), "dtype": "float32", "turns": False, "fused_kernels": False} | spec
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, PROGRAM, json.dumps(spec), out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.fail(done.stdout[-1000:] + done.stderr[-3000:])
    with np.load(out) as saved:
        return dict(saved)


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_a_gpu_learns_what_a_cpu_learns(tiny_model_dir: Path, tmp_path: Path, role: Role) -> None:
    cpu, gpu = (
        learner(tmp_path / f"{device}.npz", tiny_model_dir, device=device, role=role, zero_stage=2)["outputs"]
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(gpu[0], cpu[0], atol=1e-4)
    np.testing.assert_allclose(gpu, cpu, atol=2e-3)
    assert np.abs(cpu[1] - cpu[0]).max() > 0.01, "the updates must have changed something"


@pytest.mark.parametrize(("role", "zero_stage"), [("actor", 2), ("critic", 2), ("actor", 3)])
def test_fused_kernels_compute_the_same(tiny_model_dir: Path, tmp_path: Path, role: Role, zero_stage: int) -> None:
    pytest.importorskip("liger_kernel")
    spec = {"device": "cuda", "role": role, "zero_stage": zero_stage}
    fused, plain = (
        learner(tmp_path / f"{fused}.npz", tiny_model_dir, **spec, fused_kernels=fused)["outputs"]
        for fused in (True, False)
    )
    np.testing.assert_allclose(fused[0], plain[0], atol=1e-4)
    np.testing.assert_allclose(fused, plain, atol=2e-3)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_states_leave_the_gpu_and_come_back(tiny_model_dir: Path, tmp_path: Path, zero_stage: int) -> None:
    spec = {"device": "cuda", "role": "actor", "zero_stage": zero_stage, "dtype": "bfloat16"}
    stays, turns = (learner(tmp_path / f"{turns}.npz", tiny_model_dir, **spec, turns=turns) for turns in (False, True))
    np.testing.assert_array_equal(turns["outputs"], stays["outputs"])
    before, away, back = turns["held"][1]
    print(f"ZeRO-{zero_stage}: {before} bytes held, {away} while away, {back} after")
    assert away < 0.5 * before
    assert back <= 1.5 * before


@pytest.mark.parametrize(
    ("zero_stage", "on_host"),
    [(2, ["offload_optimizer"]), (3, ["offload_optimizer"]), (3, ["offload_optimizer", "offload_parameters"])],
)
def test_states_on_the_host_leave_nothing_on_the_gpu(
    tiny_model_dir: Path, tmp_path: Path, zero_stage: int, on_host: list[str]
) -> None:
    """What the engines' process can have is what torch has given back, not what its tensors have left."""
    spec = {"device": "cuda", "role": "actor", "zero_stage": zero_stage, "dtype": "bfloat16"} | dict.fromkeys(
        on_host, True
    )
    stays, turns = (learner(tmp_path / f"{turns}.npz", tiny_model_dir, **spec, turns=turns) for turns in (False, True))
    np.testing.assert_array_equal(turns["outputs"], stays["outputs"])
    if zero_stage == 2:  # the buffer through which gradients leave the GPU, as large as the largest weight, is gone too
        assert turns["held"][1][1] < 2 * 522 * 128
    before, away = turns["reserved"][1]
    print(f"ZeRO-{zero_stage}, {' and '.join(on_host)}: {before} bytes reserved, {away} while away")
    assert away < 0.5 * before


def test_learners_and_engine_take_turns_on_one_gpu(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None]
) -> None:
    """A whole run: sleep, wake, CUDA IPC, offload and reload on each step, and engine and trainer agree throughout."""
    config = tiny_config(
        run={"device": "cuda"},
        rollout={"placement": "colocated", "gpu_memory_utilization": 0.3, "enforce_eager": True},
        trainer={"steps": 3, "checkpoint_every_steps": 2},
    )
    write_data(config)
    rows = read_metrics(runs.train(config) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        print(
            {
                name: row[name]
                for name in ("policy/logprob_gap_mean", "policy/logprob_gap_max", "time/sync", "time/step")
            }
        )
        assert row["policy/logprob_gap_mean"] < 0.02
