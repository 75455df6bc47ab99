"""The ways of closing a sandbox on this machine, best first, and the command that starts a runner in each.

    bubblewrap   namespaces of its own (users, mounts, processes, network); needs `bwrap` and unprivileged namespaces
    landlock     the kernel hides the file system (5.13 and later); works in a container with Docker's default profile
    chroot       another root and another user; needs root
    none         resource limits only; asked for with ``reward.unsafe_local``, never chosen

Each test runs under seccomp and resource limits on top, whatever the backend ("none" leaves seccomp out). As root, all
of them give every sandbox a user of its own first.
"""

from __future__ import annotations

import itertools
import marshal
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pacore_rl.rewards.code import jail, seccomp
from pacore_rl.rewards.code.stage import Stage, run_folder

Backend = Literal["bubblewrap", "landlock", "chroot", "none"]
BACKENDS: tuple[Backend, ...] = ("bubblewrap", "landlock", "chroot")
"""In the order of preference."""
NUM_TASKS = 64
"""Threads of one test."""
SPARE_TASKS = 1024
"""The same where the user's other processes count as well."""
FIRST_UID, NUM_UIDS = 61_184, 2_000
"""Users of sandboxes when we are root: numbers that distributions leave to short-lived services."""
RESERVED_UIDS = 1_000
"""Of a container with fewer numbers, the first are its own users."""

_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
"""What a compiler sees."""
_START = "from pacore_rl.rewards.code.runner import main; main()"
_next_uid = itertools.count(os.getpid())


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start one runner."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    uid: int | None
    """Become this user first."""
    box: str
    """The submission's folder, as the sandbox sees it."""
    root: str
    """What stands before the stage's own folders, as the sandbox sees them."""
    num_tasks: int


def obstacle(backend: Backend) -> str | None:
    """Why a backend cannot even be tried here, None where it can. That it holds is for the probe to say."""
    try:
        seccomp.numbers_of(os.uname().machine)
    except ValueError as error:
        return str(error)
    match backend:
        case "bubblewrap":
            return None if shutil.which("bwrap") else "`bwrap` is not installed (Debian: apt-get install bubblewrap)"
        case "landlock":
            return None if jail.landlock_version() else "this kernel has no Landlock (it came with 5.13)"
        case "chroot":
            return None if os.geteuid() == 0 else "it needs root"
        case "none":
            return None


def command_of(
    backend: Backend, stage: Stage, *, control: int, box: Path | None, is_build: bool, uid: int | None
) -> Command:
    """The command for a sandbox that sees ``box``; a build may write there, and sees the system's compiler."""
    root = "" if backend in ("bubblewrap", "chroot") else str(stage.root)
    starts_in = str(stage.root) if backend == "chroot" else root  # the runner itself enters a chroot
    readable = [f"{stage.root}/py", f"{stage.root}/runner", *stage.libraries]
    if is_build:
        readable += filter(os.path.isdir, [*_SYSTEM_FOLDERS, f"{stage.root}/cpp"])
    elif box is not None:
        readable.append(str(box))
    description: dict[str, Any] = {
        "jail": backend,
        "control": control,
        "readable": readable,
        "writable": [str(box)] if is_build else [],
        "root": str(stage.root),
        "uid": uid,
    }
    start = f"import sys; sys.path.insert(0, '{starts_in}/runner'); " + _START
    environment = {"LD_LIBRARY_PATH": f"{starts_in}/py/lib"}
    argv = [f"{starts_in}/py/bin/python", "-I", "-S", "-c", start, marshal.dumps(description).hex()]
    if backend == "bubblewrap":
        argv = [*_bubblewrap(stage, box=box, is_build=is_build, environment=environment), *argv]
        environment = {}  # of bubblewrap itself, readable in /proc where there is one
    has_own_count = backend == "bubblewrap" or uid is not None
    return Command(
        argv=tuple(argv),
        environment=environment,
        uid=None if backend == "chroot" else uid,
        box=_box_inside(backend, box, stage),
        root=root,
        num_tasks=NUM_TASKS if has_own_count else _num_tasks_of_user() + SPARE_TASKS,
    )


def make_box(backend: Backend, stage: Stage, uid: int | None) -> Path:
    """A folder for one submission's files, of the user of its sandbox, under a name that nobody guesses."""
    place = run_folder(stage.root / "tmp" if backend == "chroot" else None)
    box = Path(tempfile.mkdtemp(dir=place, prefix="box-"))
    if uid is not None:
        os.chown(box, uid, uid)
    return box


def _box_inside(backend: Backend, box: Path | None, stage: Stage) -> str:
    if box is None:
        return ""
    match backend:
        case "bubblewrap":
            return "/box"
        case "chroot":
            return f"/{box.relative_to(stage.root)}"
        case "landlock" | "none":
            return str(box)


def _bubblewrap(stage: Stage, *, box: Path | None, is_build: bool, environment: Mapping[str, str]) -> list[str]:
    program = shutil.which("bwrap")
    assert program is not None, "the obstacle was not asked for"
    argv = [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--hostname",
        "sandbox",
    ]
    for name, value in environment.items():
        argv += ["--setenv", name, value]
    argv += ["--ro-bind", str(stage.root), "/", "--dev-bind", "/dev/null", "/dev/null"]
    if is_build:
        for folder in filter(os.path.isdir, _SYSTEM_FOLDERS):
            argv += ["--ro-bind", folder, folder]
    if box is not None:
        argv += ["--bind" if is_build else "--ro-bind", str(box), "/box"]
    return [*argv, "--chdir", "/", "--"]


def next_uid() -> int | None:
    """A user for the next sandbox; None where we are not root and stay who we are."""
    if os.geteuid() != 0:
        return None
    first, number = _free_uids()
    return first + next(_next_uid) % number


@lru_cache(maxsize=1)
def _free_uids() -> tuple[int, int]:
    """In a container only some numbers may exist: then the last of them, or nobody where there are few."""
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    if any(inside <= FIRST_UID and FIRST_UID + NUM_UIDS <= inside + count for inside, _, count in ranges):
        return FIRST_UID, NUM_UIDS
    count, inside = max((count, inside) for inside, _, count in ranges)
    number = min(NUM_UIDS, count - RESERVED_UIDS)
    return (inside + count - number, number) if number > 0 else (65_534, 1)


def _num_tasks_of_user() -> int:
    """Threads of this user that run now."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid():
                total += sum(1 for _ in (folder / "task").iterdir())
        except OSError:  # it has ended
            continue
    return total
