"""From a program's source to a sandbox in which it can be run: Python is loaded, C++ compiled in a sandbox first."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pacore_rl.rewards.code import backends, toolchain
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.sandbox import Limits, Run, Sandbox, SandboxError
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.stage import run_folder, stage

CPP_FLAGS = ("-O2", "-std=gnu++17", "-w", "-pipe")
SPARE_BYTES = 256 << 20
"""With less of its disk free, a compiler that finds no space may be believed."""
BUILD_LIMITS = Limits(cpu_seconds=20.0, wall_factor=3.0, memory_mib=2048, output_mib=128)
TOOL_SECONDS = 600.0
_looking = threading.Lock()
_IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+([A-Za-z_0-9, \t]+)", re.MULTILINE)
_MACHINE_FAILURE = re.compile(r"Killed signal terminated program|cannot fork|fork: Resource temporarily unavailable")
_MAIN = "int main() { return 0; }\n"


class CompileError(Exception):
    """The program cannot be run, through its own fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A program that can be run any number of times."""

    sandbox: Sandbox
    run: Run
    seconds: float
    """CPU time that compiling took."""


@contextmanager
def open_program(
    program: Program, backend: Backend, *, prelude: bool = False, box: Path | None = None, uid: int | None = None
) -> Iterator[Ready]:
    """A sandbox with the program in it. ``box``, a folder of the user ``uid``, is visible there; C++ needs none given.

    Raises ``CompileError`` for the program's own faults, ``SandboxError`` for ours.
    """
    uid = backends.next_uid() if uid is None else uid
    with ExitStack() as stack:
        if program.language == "python":
            sandbox = stack.enter_context(Sandbox(backend, box=box, uid=uid))
            source = program.source.encode(errors="surrogatepass")
            complaint = sandbox.load(source, preload=_imported(program.source), prelude=prelude)
            if complaint:
                raise CompileError(complaint)
            yield Ready(sandbox=sandbox, run=Run(), seconds=0.0)
            return
        if box is None:
            box = backends.make_box(backend, stage(), uid)
            stack.callback(shutil.rmtree, box, ignore_errors=True)
        seconds = _compile(program.source, backend, box, uid)
        sandbox = stack.enter_context(Sandbox(backend, box=box, uid=uid))
        yield Ready(
            sandbox=sandbox,
            run=Run(profile="binary", argv=(f"{sandbox.command.box}/solution",)),
            seconds=seconds,
        )


def _imported(source: str) -> list[str]:
    """Names of modules that the source mentions; the runner preloads those that it knows as harmless."""
    names = {name.split()[0] for line in _IMPORT.findall(source) for name in line.split(",") if name.split()}
    return sorted(names)


def _compile(source: str, backend: Backend, box: Path, uid: int | None) -> float:
    """Compile into ``box``, and return the CPU time it took."""
    compiler = cpp_compiler(backend)
    file = box / "solution.cpp"
    file.write_bytes(source.encode(errors="surrogatepass"))
    if uid is not None:
        os.chown(file, uid, uid)
    with Sandbox(backend, box=box, is_build=True, uid=uid) as sandbox:
        folder = sandbox.command.box
        name = f"{os.path.basename(compiler)}-{secrets.token_hex(8)}"
        argv = (
            f"{os.path.dirname(compiler)}/{name}",
            *CPP_FLAGS,
            *_link_flags(compiler),
            f"-I{sandbox.command.root}/cpp",
        )
        run = Run(
            profile="build",
            executable=compiler,
            argv=(*argv, "solution.cpp", "-o", "solution"),
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": folder, "LC_ALL": "C"},
            folder=folder,
        )
        ran = sandbox.run(run, BUILD_LIMITS)
    if ran.ending == "ended" and (box / "solution").is_file():
        return ran.cpu_seconds
    is_used_up = ran.cpu_seconds > 0.8 * BUILD_LIMITS.cpu_seconds
    if ran.ending == "timeout" and not is_used_up:
        raise SandboxError(f"the compiler got {ran.cpu_seconds:.1f} s of CPU time in {ran.wall_seconds:.0f} s")
    if not is_used_up and (failure := machine_failure(ran.error, name)):
        raise SandboxError(f"the compiler failed: {failure}")
    if "No space left on device" in ran.error and shutil.disk_usage(box).free < SPARE_BYTES:
        raise SandboxError(f"the compiler failed: no space left on the device of {box.parent}")
    if ran.ending == "timeout" or (is_used_up and "Killed signal" in ran.error):
        raise CompileError(f"not compiled within {BUILD_LIMITS.cpu_seconds:g} s of CPU time")
    errors = [line for line in ran.error.splitlines() if "error" in line] or ran.error.splitlines()[-1:]
    raise CompileError(errors[0][:300] if errors else f"the compiler ended with {ran.exit_code}")


def machine_failure(error: str, name: str) -> str | None:
    """The line in which the compiler, called ``name``, says that this machine failed it; None where there is none.

    A program can have any line printed (``static_assert(false, "...")``), but does not know the name.
    """
    lines = [line for line in error.splitlines() if line.startswith(f"{name}: ")]
    return next((line[:300] for line in lines if _MACHINE_FAILURE.search(line)), None)


def cpp_compiler(backend: Backend) -> str:
    """Path of g++. Raises ``CppMissing`` where C++ cannot be compiled here."""
    complaint = cpp_complaint()
    if complaint:
        raise CppMissing(complaint)
    found = _compiler()
    assert found is not None
    if backend == "chroot":
        with _looking:
            toolchain.install(found, stage())
    return found


class CppMissing(SandboxError):
    """C++ cannot be compiled on this machine: nobody's program is at fault."""


def cpp_complaint() -> str | None:
    """Why C++ cannot be run here, None where it can."""
    with _looking:  # once, not once a thread
        found = _compiler()
    if found is None:
        return "g++ is not installed, or cannot compile (Debian: apt-get install g++)"
    return None


@lru_cache(maxsize=1)
def _compiler() -> str | None:
    """g++ where it works; the common header is compiled beforehand, which makes most programs compile twice as fast."""
    found = shutil.which("g++")
    if found is None:
        return None
    compiler = os.path.realpath(found)
    if not _compiles(compiler, ()):
        return None
    folder = stage().root / "cpp" / "bits"
    if not folder.is_dir():
        building = Path(tempfile.mkdtemp(dir=run_folder(), prefix="building-"))
        (building / "bits").mkdir()
        header = building / "header.hpp"
        header.write_text("#include <bits/stdc++.h>\n")
        command = [compiler, *CPP_FLAGS, "-x", "c++-header", str(header), "-o", str(building / "bits" / "stdc++.h.gch")]
        made = subprocess.run(command, capture_output=True, check=False, timeout=TOOL_SECONDS)
        header.unlink()
        if made.returncode == 0:
            for path in (building, *building.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            try:
                building.rename(stage().root / "cpp")
            except OSError:  # another process was first
                pass
        shutil.rmtree(building, ignore_errors=True)
    return compiler


@lru_cache(maxsize=4)
def _link_flags(compiler: str) -> tuple[str, ...]:
    """Static programs start faster and need nothing of the system."""
    if not _compiles(compiler, ("-static",)):
        raise CppMissing("g++ cannot link statically; install the static C library (Debian: it is in libc6-dev)")
    return ("-static",)


def _compiles(compiler: str, flags: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, *flags, "-x", "c++", "-", "-o", f"{folder}/program"]
        made = subprocess.run(command, input=_MAIN.encode(), capture_output=True, check=False, timeout=TOOL_SECONDS)
        return made.returncode == 0
