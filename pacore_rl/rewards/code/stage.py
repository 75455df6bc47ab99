"""What a sandbox can see: a folder with this Python's standard library, the runner, and the libraries both need.

Made once per machine and user, and shared by every sandbox, read-only. The interpreter itself may stand where an
unprivileged user cannot go (a home folder), or beside things that are nobody's business (site-packages); the copy is
neither. Laid out as a root of its own, for bubblewrap and chroot:

    py/bin/python, py/lib/pythonX.Y    the interpreter        box/    where a submission's folder is mounted
    runner/pacore_rl/...               what runs inside       lib...  shared libraries, where they are on the host
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pacore_rl

VERSION = 1
"""Raise it when the layout changes."""
SWEPT_AGE_SECONDS = 600.0
STAGE_AGE_SECONDS = 86_400.0
RUNNER_FILES = ("__init__.py", "rewards/__init__.py") + tuple(
    f"rewards/code/{name}.py" for name in ("__init__", "calls", "jail", "runner", "seccomp", "values")
)
_LEFT_OUT = frozenset(
    "test tests site-packages dist-packages idlelib lib2to3 tkinter turtledemo turtle.py ensurepip venv pydoc_data "
    "distutils curses sqlite3 unittest wsgiref xmlrpc dbm".split()
)
_LEFT_OUT_PATTERN = re.compile(
    r"config-3.*|_(ssl|tkinter|curses.*|sqlite3|test.*|xx.*|ctypes_test)\.|(readline|nis|xx.*)\.|.*\.a$|.*\.opt-.*"
)
_STAGE_NAME = re.compile(r"[0-9a-f]{16}")
_LIBRARY = re.compile(r"(/\S+) \(0x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A finished folder."""

    root: Path
    libraries: tuple[str, ...]
    """Shared libraries of the host that the interpreter loads, where they are there."""

    @property
    def version(self) -> str:
        return self.root.name


@lru_cache(maxsize=1)
def stage() -> Stage:
    """The stage of this machine and user, made where there is none. Raises ``OSError`` where no folder serves."""
    source = Path(pacore_rl.__file__).parent
    interpreter = Path(os.path.realpath(sys.executable))
    digest = hashlib.sha256(f"{VERSION} {sys.version} {interpreter} {interpreter.stat().st_mtime_ns}".encode())
    for name in RUNNER_FILES:
        digest.update((source / name).read_bytes())
    root = shared_folder() / digest.hexdigest()[:16]
    _hold(root)
    if not root.is_dir():
        _make(root, source, interpreter)
    libraries = tuple((root / "libraries.txt").read_text().split())
    return Stage(root=root, libraries=libraries)


def _hold(root: Path) -> None:
    """Keep a stage from being swept for this process's life, and sweep others: each version of the code makes one."""
    lock = os.open(_stage_lock(root), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.utime(lock)
    sweep_stages(root.parent, keep=root)


def sweep_stages(place: Path, *, keep: Path, age_seconds: float = STAGE_AGE_SECONDS) -> None:
    """Remove stages that no process has begun to use for a while, and none uses now."""
    for root in place.iterdir():
        if root == keep or not _STAGE_NAME.fullmatch(root.name) or root.lstat().st_uid != os.geteuid():
            continue
        lock_path = _stage_lock(root)
        used = (lock_path if lock_path.exists() else root).lstat().st_mtime
        if time.time() - used < age_seconds:
            continue
        _remove_if_unused(root, lock=os.open(lock_path, os.O_CREAT | os.O_RDWR, 0o600))


def _remove_if_unused(folder: Path, *, lock: int) -> None:
    """Remove a folder unless a living process holds its lock; the descriptor ``lock`` is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _stage_lock(root: Path) -> Path:
    """Beside the stage, where no sandbox sees it; it outlives the stage."""
    return root.with_name(f"{root.name}.lock")


def run_folder(place: Path | None = None) -> Path:
    """A folder in ``place`` (the shared folder) for what this process makes and takes away again.

    A process holds the lock in it for its life, so that whoever comes later can tell what a killed one left behind.
    """
    return _run_folder(shared_folder() if place is None else place, os.getpid())


@lru_cache(maxsize=8)
def _run_folder(place: Path, pid: int) -> Path:
    sweep(place)
    folder = Path(tempfile.mkdtemp(dir=place, prefix="run-"))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder.chmod(0o711)

    def remove() -> None:
        if os.getpid() == pid:  # not in a fork of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def sweep(place: Path, age_seconds: float = SWEPT_AGE_SECONDS) -> None:
    """Remove folders of ended processes, from an age on: a lock comes a moment after its folder."""
    for folder in place.glob("run-*"):
        try:
            if time.time() - folder.stat().st_mtime < age_seconds:
                continue
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:  # swept by another process
            continue
        _remove_if_unused(folder, lock=lock)


def shared_folder() -> Path:
    """A folder of this user's that every user can read; refused where somebody else could have put things there."""
    return _shared_folder(os.geteuid())


@lru_cache(maxsize=4)
def _shared_folder(user: int) -> Path:
    places = dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp"))
    for place in map(Path, places):
        if not _is_open_to_all(place) or not os.access(place, os.W_OK):
            continue
        folder = place / f"pacore-rl-sandbox-{user}"
        folder.mkdir(mode=0o755, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022:
            folder.chmod(0o711)  # passed through by name, not listed
            return folder
        raise OSError(
            f"{folder} belongs to another user or is open to one; remove it, or set TMPDIR to another folder."
        )
    raise OSError(
        f"no folder for sandboxes: {', '.join(places)} must be writable, and open to other users; set TMPDIR to one "
        "that is."
    )


def _is_open_to_all(place: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (place, *place.parents) if folder.exists())


def _make(root: Path, source: Path, interpreter: Path) -> None:
    """Build in a folder beside and rename: whoever is first wins, the others use theirs."""
    building = Path(tempfile.mkdtemp(dir=run_folder(), prefix="building-"))
    try:
        standard_library = Path(sysconfig.get_path("stdlib"))
        library = building / "py" / "lib" / standard_library.name
        shutil.copytree(standard_library, library, ignore=_left_out, symlinks=False, ignore_dangling_symlinks=True)
        dynamic = Path(sysconfig.get_config_var("DESTSHARED") or standard_library / "lib-dynload")
        if dynamic.is_dir() and not (library / "lib-dynload").is_dir():
            shutil.copytree(dynamic, library / "lib-dynload", ignore=_left_out)
        binary = building / "py" / "bin" / "python"
        binary.parent.mkdir(parents=True)
        shutil.copy2(interpreter, binary)
        for name in RUNNER_FILES:
            target = building / "runner" / "pacore_rl" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target)
        libraries = _copy_libraries(building, interpreter, library)
        (building / "libraries.txt").write_text("\n".join(libraries))
        for name in ("box", "dev", "tmp", "usr", "lib", "lib64", "bin"):
            (building / name).mkdir(exist_ok=True)
        (building / "dev" / "null").touch()
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", building / "runner"], check=False, stdout=subprocess.DEVNULL
        )
        _open_for_reading(building)
        (building / "tmp").chmod(0o711)  # boxes of chroot sandboxes: passed through by name, not listed
        try:
            building.rename(root)
        except OSError:
            if not root.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEFT_OUT or _LEFT_OUT_PATTERN.match(name)}


def _copy_libraries(building: Path, interpreter: Path, library: Path) -> list[str]:
    """Copy what ldd says is loaded; those of the interpreter's own folder go beside it, the others where they are."""
    host: list[str] = []
    for path in loaded_libraries([str(interpreter), *map(str, library.glob("lib-dynload/*.so"))]):
        if path.startswith(sys.base_prefix + "/") and sys.base_prefix != "/usr":
            shutil.copy2(path, building / "py" / "lib" / Path(path).name)
        else:
            host.append(path)
            copy = building / path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    return host


def loaded_libraries(programs: Sequence[str]) -> list[str]:
    """Paths of the shared libraries that programs load, as ldd tells."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False, timeout=60).stdout
    return sorted(set(_LIBRARY.findall(listed)))


def _open_for_reading(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        os.chmod(parent, 0o755)
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
