"""The doctor's checks of GPUs: driver, CUDA, NCCL."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

from pacore_rl import machine
from pacore_rl.doctor.findings import Finding, last_line, run_limited

LIMIT_SECONDS = 60.0
DRIVER = Path("/proc/driver/nvidia/version")
"""There where NVIDIA's driver is loaded."""
_ASK_TORCH = (
    "import json, torch; c = torch.cuda; "
    "print(json.dumps({'cuda': torch.version.cuda, 'seen': c.device_count() if c.is_available() else 0, "
    "'nccl': '.'.join(map(str, c.nccl.version())) if torch.distributed.is_nccl_available() else None}))"
)


def check_gpu() -> list[Finding]:
    """GPUs, their driver and CUDA"""
    if shutil.which("nvidia-smi") is None and DRIVER.is_file():
        return [judge_without_smi(_torch())]
    gpus = machine.visible_gpus()
    if not gpus:
        return [Finding(name="GPU", status="ok", seen="none visible: everything runs on the CPU")]
    code, output = run_limited(["nvidia-smi"], LIMIT_SECONDS)
    driver, cuda = read_smi(output) if code == 0 else (None, None)
    torch_says = _torch()
    return [Finding(name="GPU", status="ok", seen="; ".join(gpus)), judge_cuda(driver, cuda, torch_says, len(gpus))]


def judge_without_smi(torch_says: dict[str, object] | None) -> Finding:
    """A driver without its tool, as in some containers: what torch sees decides."""
    remedy = "Add the driver's tools to the container (NVIDIA_DRIVER_CAPABILITIES=compute,utility)."
    if torch_says is None:
        return Finding(name="CUDA", status="fail", seen="torch cannot be imported", remedy="Install the lock.")
    found = torch_says.get("seen")
    seen = f"a driver without nvidia-smi; torch sees {found} GPUs"
    return Finding(name="GPU", status="warn" if found else "fail", seen=seen, remedy=remedy)


def read_smi(output: str) -> tuple[str | None, str | None]:
    """Versions of the driver and of the newest CUDA that it runs, from the head of what nvidia-smi prints."""
    driver = re.search(r"Driver Version:\s*([0-9.]+)", output)
    cuda = re.search(r"CUDA Version:\s*([0-9.]+)", output)
    return driver and driver[1], cuda and cuda[1]


def judge_cuda(driver: str | None, newest: str | None, torch_says: dict[str, object] | None, num_gpus: int) -> Finding:
    """torch's CUDA must not be of a later major version than the driver runs, and torch must see every GPU."""
    seen = f"driver {driver or 'unknown'}, up to CUDA {newest or 'unknown'}"
    if torch_says is None:
        return Finding(name="CUDA", status="fail", seen=f"{seen}; torch cannot be imported", remedy="Install the lock.")
    built = torch_says.get("cuda")
    if not isinstance(built, str):
        remedy = "This is the CPU stack: rm -rf .venv and install the GPU lock (PACORE_LOCK=gpu) to use the GPUs."
        return Finding(name="CUDA", status="warn", seen=f"{seen}; torch is built without CUDA", remedy=remedy)
    seen = f"{seen}; torch is built for {built}"
    if newest is not None and int(built.split(".")[0]) > int(newest.split(".")[0]):
        remedy = f"Install a driver that runs CUDA {built.split('.')[0]}."
        return Finding(name="CUDA", status="fail", seen=seen, remedy=remedy)
    if torch_says.get("seen") != num_gpus:
        remedy = "Look at CUDA_VISIBLE_DEVICES, at the container's options, and at the driver's log."
        return Finding(
            name="CUDA", status="fail", seen=f"{seen}, and sees {torch_says.get('seen')} GPUs", remedy=remedy
        )
    return Finding(name="CUDA", status="ok", seen=seen)


def check_nccl() -> list[Finding]:
    """NCCL and the interface that it is told to use"""
    findings = [judge_interface(name, os.environ.get(name), _interfaces()) for name in INTERFACE_VARIABLES]
    told = [finding for finding in findings if finding is not None]
    if machine.visible_gpus():
        says = _torch()
        version = says.get("nccl") if says else None
        status = "ok" if version else "fail"
        remedy = "" if version else "Install the GPU lock: torch brings NCCL with it."
        told.append(Finding(name="NCCL", status=status, seen=str(version or "none in torch"), remedy=remedy))
    return told


INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def judge_interface(name: str, value: str | None, present: frozenset[str]) -> Finding | None:
    """A network interface named in the environment must be there; None where none is named.

    Names are prefixes, after an equals sign whole names, after a caret names to leave out (NCCL's rules).
    """
    if not value or value.startswith("^"):
        return None
    whole, names = value.startswith("="), [part for part in value.lstrip("=").split(",") if part]
    found = [one for one in present for part in names if (one == part if whole else one.startswith(part))]
    if found:
        return Finding(name=name, status="ok", seen=f"{value} ({', '.join(sorted(found))})")
    remedy = f"Unset it, or name one of {', '.join(sorted(present))}."
    return Finding(name=name, status="fail", seen=f"{value}: no such interface", remedy=remedy)


def _interfaces(folder: Path = Path("/sys/class/net")) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _torch() -> dict[str, object] | None:
    """CUDA and NCCL versions of torch and the GPUs it sees; asked in a process of its own. None: it failed."""
    code, output = run_limited([sys.executable, "-c", _ASK_TORCH], LIMIT_SECONDS)
    return json.loads(last_line(output)) if code == 0 else None
