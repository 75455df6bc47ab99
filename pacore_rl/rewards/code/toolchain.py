"""The C++ compiler inside the stage, for the backend ``chroot``: one that sees only the stage cannot leak the host.

Each file goes where it is on the host, as a hard link where that is possible, since a copy of the headers and static
libraries takes 250 MB. A sandbox can read them and nothing more, like everything in the stage.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pacore_rl.rewards.code.stage import Stage, loaded_libraries

TOOL_SECONDS = 60.0
_LEFT_OUT = shutil.ignore_patterns("cc1", "lto1", "plugin", "*san*.a", "*san*.o", "libgomp*", "*.py")
_LIBC_FILES = ("crt*.o", "gcrt*.o", "rcrt*.o", "lib[cm].a", "libm-*.a", "libmvec.a", "lib*pthread*.a")
_LIBC_FILES += ("libdl.a", "librt.a", "libutil.a")
_INCLUDED = re.compile(r"search starts here:\n((?: .*\n)+)")


def install(compiler: str, stage: Stage) -> None:
    """Put the compiler into the stage, unless it is there. Raises ``OSError`` where a part of it is missing."""
    with open(stage.root / "toolchain.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = stage.root / "toolchain.txt"
        if done.is_file() and done.read_text() == compiler:
            return
        for path in parts(compiler):
            place(path, stage.root)
        done.write_text(compiler)


def parts(compiler: str) -> Iterator[Path]:
    """Files and folders of the host that compiling and linking a static program takes."""
    folder = Path(_said(compiler, "-print-libgcc-file-name")).resolve().parent
    tools = [compiler, *(_tool(compiler, name) for name in ("cc1plus", "collect2", "as", "ld"))]
    plugin = folder / "liblto_plugin.so"
    yield folder
    yield from map(Path, tools)
    yield from map(Path, loaded_libraries([*tools, *([str(plugin)] if plugin.exists() else [])]))
    libc = Path(os.path.normpath(_said(compiler, "-print-file-name=libc.a"))).parent
    for pattern in _LIBC_FILES:
        yield from libc.glob(pattern)
    command = [compiler, "-E", "-v", "-x", "c++", os.devnull]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TOOL_SECONDS).stderr
    for listed in _INCLUDED.findall(told):
        yield from (path for path in map(Path, listed.split()) if path.is_dir())


def place(path: Path, root: Path) -> None:
    """Link or copy a file, or a folder with all that it holds, to the same path under ``root``."""
    target = root / os.path.normpath(path).lstrip("/")
    _make_folder(target.parent, root)
    if not path.is_dir():
        _place_file(str(path), str(target))
        return
    shutil.copytree(
        path, target, ignore=_LEFT_OUT, copy_function=_place_file, dirs_exist_ok=True, ignore_dangling_symlinks=True
    )
    for parent, _, _ in os.walk(target):
        os.chmod(parent, 0o755)


def _place_file(source: str, target: str) -> None:
    if os.path.exists(target):
        return
    source = os.path.realpath(source)
    with suppress(OSError):  # another file system, or one without links
        os.link(source, target)
        return
    descriptor, unfinished = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".unfinished-")
    os.close(descriptor)
    shutil.copy2(source, unfinished)
    os.chmod(unfinished, 0o755 if os.stat(source).st_mode & 0o100 else 0o644)
    os.rename(unfinished, target)


def _make_folder(folder: Path, root: Path) -> None:
    missing = [part for part in (folder, *folder.parents) if root in part.parents and not part.exists()]
    for part in reversed(missing):
        part.mkdir()
        part.chmod(0o755)


def _tool(compiler: str, name: str) -> str:
    """Where the compiler finds one of its programs."""
    found = _said(compiler, f"-print-prog-name={name}")
    path = os.path.normpath(found) if os.path.isabs(found) else shutil.which(found, path="/usr/local/bin:/usr/bin:/bin")
    if path is None or not os.path.exists(path):
        raise FileNotFoundError(f"{compiler} has no {name}; reinstall g++ and binutils")
    return path


def _said(compiler: str, question: str) -> str:
    asked = subprocess.run([compiler, question], capture_output=True, text=True, check=True, timeout=TOOL_SECONDS)
    return asked.stdout.strip()
