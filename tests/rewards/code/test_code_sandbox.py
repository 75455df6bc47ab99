"""The attack set against every backend, as root and as an ordinary user, and against none: so that it can fail."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pacore_rl.rewards.code import backends, probe, seccomp
from pacore_rl.rewards.code.attacks import ATTACKS
from pacore_rl.rewards.code.backends import BACKENDS, Backend
from pacore_rl.rewards.code.building import machine_failure
from pacore_rl.rewards.code.open_sandboxes import OpenSandboxes
from pacore_rl.rewards.code.sandbox import Limits, Run, Sandbox, SandboxError
from pacore_rl.rewards.code.stage import run_folder, stage, sweep, sweep_stages

NOBODY = 65_534


def as_user(uid: int | None, function: Callable[[], Any]) -> Any:
    """What ``function`` returns (as JSON) in a child process that has become ``uid``."""
    if uid is None:
        return json.loads(json.dumps(function()))
    stage()  # made by us: where the interpreter is in root's home, another user could not copy it
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writing, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def sandboxed_processes() -> set[int]:
    """Processes with the command line that only sandboxes have, whatever they call their own folders."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"pacore_rl.rewards.code.runner" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def own_sandboxed_processes() -> set[int]:
    """Those below this process: tests beside this one have sandboxes too."""
    return sandboxed_processes() & {child.pid for child in psutil.Process().children(recursive=True)}


def all_end(processes: set[int]) -> bool:
    deadline = time.monotonic() + 10
    while processes & sandboxed_processes():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


AS_ROOT = (
    ("bubblewrap", None),
    ("bubblewrap", NOBODY),
    ("landlock", None),
    ("landlock", NOBODY),
    ("chroot", None),
)
TRIED = AS_ROOT if os.geteuid() == 0 else tuple((name, None) for name in BACKENDS)


@pytest.mark.parametrize(("name", "uid"), TRIED)
def test_every_attack_is_blocked(name: Backend, uid: int | None) -> None:
    if obstacle := backends.obstacle(name):
        pytest.skip(obstacle)

    def attack() -> dict[str, Any]:
        found = probe.run_attacks(name)
        left = [path.name for path in run_folder().iterdir()]
        return {"obstacle": found.obstacle, "leaks": found.leaks, "num_attacks": found.num_attacks, "left": left}

    before = sandboxed_processes()
    found = as_user(uid, attack)
    if found["obstacle"]:
        pytest.skip(found["obstacle"])
    assert found == {"obstacle": None, "leaks": [], "num_attacks": len(ATTACKS), "left": ["lock"]}
    assert len(ATTACKS) >= 40
    with Sandbox(name):
        assert sandboxed_processes() - before  # else the next line shows nothing
    assert all_end(sandboxed_processes() - before)


def test_without_a_sandbox_the_same_attacks_succeed() -> None:
    uid = NOBODY if os.geteuid() == 0 else None
    found = as_user(uid, lambda: probe.run_attacks("none").leaks)
    leaked = {name for name, _ in found}
    expected = {attack.name for attack in ATTACKS if attack.leaks_without_sandbox}
    # What a kernel or a container refuses to everybody is no leak there; most of them are anywhere.
    assert len(expected - leaked) <= 8, sorted(expected - leaked)
    assert {"connect to a server", "/etc/passwd", "a file of the host", "signal our side", "fork bomb"} <= leaked


def test_a_sandbox_that_leaks_is_refused() -> None:
    leaky = probe.Probe(
        backend="landlock", obstacle=None, leaks=(("io_uring", "it was there"),), num_attacks=1, seconds=0
    )
    with pytest.raises(ValueError, match=r"io_uring \(it was there\)[\s\S]*bubblewrap[\s\S]*unsafe_local"):
        probe._choose("auto", lambda _: leaky)
    assert probe.choose_backend(unsafe_local=True) == "none"


def test_what_a_killed_process_leaves_is_swept(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from pacore_rl.rewards.code.stage import run_folder\n"
        "folder = run_folder(pathlib.Path(sys.argv[1])); (folder / 'box-1').mkdir()\n"
        "print(folder, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        sweep(tmp_path, age_seconds=0.0)
        assert (folder / "box-1").is_dir()  # its process lives
    finally:
        child.kill()
        child.communicate()
    sweep(tmp_path)
    assert (folder / "box-1").is_dir()  # too young
    sweep(tmp_path, age_seconds=0.0)
    assert not folder.exists()


def test_stages_that_nobody_uses_are_swept(tmp_path: Path) -> None:
    ours, old, foreign = (tmp_path / name for name in ("0123456789abcdef", "fedcba9876543210", "somebody-elses"))
    for folder in (ours, old, foreign):
        (folder / "py").mkdir(parents=True)
    sweep_stages(tmp_path, keep=ours)
    assert old.exists(), "too young"
    lock = os.open(tmp_path / f"{old.name}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_SH)
    sweep_stages(tmp_path, keep=ours, age_seconds=-1.0)
    assert old.exists(), "a process uses it"
    os.close(lock)
    sweep_stages(tmp_path, keep=ours, age_seconds=-1.0)
    assert ours.exists() and foreign.exists() and not old.exists()


def test_system_call_numbers_are_the_kernels() -> None:
    headers = {
        "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+) (\d+)"),
        "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+) (\d+)"),
    }
    for machine, (header, pattern) in headers.items():
        if not header.is_file():
            pytest.skip(f"{header} is not installed")
        kernels = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
        kernels.setdefault("newfstatat", kernels.get("fstatat", -1))
        ours = seccomp.numbers_of(machine)
        assert {name: kernels[name] for name in ours} == ours


def test_a_machine_whose_calls_are_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="no sandbox on riscv64"):
        seccomp.numbers_of("riscv64")


@pytest.fixture(scope="module")
def sandbox(backend: Backend) -> Any:
    with Sandbox(backend) as opened:
        yield opened


def run(sandbox: Sandbox, source: str, stdin: bytes = b"", limits: Limits | None = None) -> Any:
    assert sandbox.load(source.encode()) is None
    return sandbox.run(Run(), limits or Limits(), stdin=stdin)


def test_a_program_runs_as_in_an_interpreter(sandbox: Sandbox) -> None:
    ran = run(sandbox, "import os, sys\nprint(os.fstat(0).st_size, input(), __name__, sys.argv)\nsys.exit(3)", b"ab\n")
    assert (ran.output, ran.exit_code, ran.ending) == (b"3 ab __main__ ['solution.py']\n", 3, "crashed")
    late = "import threading, atexit\natexit.register(print, 'bye')\n"
    late += "threading.Thread(target=lambda: print('thread')).start()"
    assert run(sandbox, late).output == b"thread\nbye\n"
    deep = "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
    deep += (
        "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(50000)))\nt.start()\nt.join()"
    )
    assert run(sandbox, deep).output == b"50000\n"
    assert "ZeroDivisionError" in run(sandbox, "1 / 0").error
    assert sandbox.load(b"x = (") is not None


def test_each_limit_has_its_name(sandbox: Sandbox) -> None:
    tight = Limits(cpu_seconds=1.0, wall_factor=1.0, memory_mib=128, output_mib=1)
    assert run(sandbox, "while True: pass", limits=tight).ending == "timeout"
    assert run(sandbox, "import time; time.sleep(60)", limits=tight).ending == "timeout"
    assert run(sandbox, "x = bytearray(1 << 28)", limits=tight).ending == "memory limit"
    flood = run(sandbox, "while True: print('x' * 65536)", limits=tight)
    assert flood.ending == "output limit" and len(flood.output) == 1 << 20


def test_a_machine_that_fails_the_compiler_is_no_programs_fault() -> None:
    killed = "g++-12-5d41: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n"
    assert machine_failure(killed, "g++-12-5d41") == killed.splitlines()[0]
    forged = "solution.cpp:1:15: error: static assertion failed: \n" + killed
    assert machine_failure(forged, "g++-12-9a7c") is None


def test_closing_a_scorer_ends_its_sandboxes(backend: Backend) -> None:
    owner = OpenSandboxes()
    with owner.owning(), Sandbox(backend) as opened:
        assert opened.load(b"import time; time.sleep(30)") is None
        threading.Timer(0.5, owner.close).start()
        started = time.monotonic()
        with pytest.raises(SandboxError):
            opened.run(Run(), Limits())
        assert time.monotonic() - started < 5
        with pytest.raises(SandboxError, match="the scorer was closed"):
            Sandbox(backend)


def test_a_runner_killed_from_outside_is_no_programs_fault(backend: Backend) -> None:
    before = own_sandboxed_processes()
    with Sandbox(backend) as opened:
        started = own_sandboxed_processes() - before
        opened.kill()
        assert started and all_end(started)  # the kernel ends a namespace in its own time
        with pytest.raises(SandboxError):
            opened.load(b"print(1)")
    with Sandbox(backend) as opened:
        os.kill(max(own_sandboxed_processes() - before), signal.SIGXCPU)  # the runner, the last to start
        assert opened.load(b"print(1)") == "Python's compiler did not survive it (SIGXCPU)"
