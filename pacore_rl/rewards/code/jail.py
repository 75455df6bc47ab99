"""What a process does to itself before it runs something that is not trusted: Landlock, chroot, resource limits.

Runs inside the sandbox, so it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls have these numbers on every architecture."""
_GET_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_NUM_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
_NUM_RIGHTS = 16
"""From version 5 on (IOCTL_DEV is the sixteenth)."""
_TCP_BIND_AND_CONNECT, _ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SIGKILL = 9


def landlock_version() -> int:
    """Version of the kernel's Landlock, 0 where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION))


def enter_landlock(libc: ctypes.CDLL, *, readable: Sequence[str], writable: Sequence[str]) -> None:
    """From now on only these folders and files exist: the first to read and execute, the second to write as well."""
    version = landlock_version()
    if not version:
        raise OSError("this kernel has no Landlock (it came with 5.13), or it is turned off")
    rights = (1 << _NUM_RIGHTS_BY_VERSION.get(version, _NUM_RIGHTS)) - 1
    network = _TCP_BIND_AND_CONNECT if version >= 4 else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    attributes = struct.pack("QQQ", rights, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    _check(ruleset, "landlock_create_ruleset")
    reading = _EXECUTE | _READ_FILE | _READ_DIR
    for path, wanted in [*((path, reading) for path in readable), *((path, rights) for path in writable)]:
        _allow_beneath(libc, ruleset, path, wanted)
    _allow_beneath(libc, ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE
        rule = struct.pack("=Qi", rights, descriptor)
        _check(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), f"landlock_add_rule for {path}")
    finally:
        os.close(descriptor)


def enter_chroot(root: str, uid: int) -> None:
    """Make ``root`` the whole file system and become the user ``uid``, who owns nothing in it. Needs root."""
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """Be killed by the kernel when the parent ends."""
    _check(libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "pdeathsig")
    if os.getppid() != parent:
        os._exit(1)  # it ended before the line above


def limit_resources(
    *, cpu_seconds: int, memory_bytes: int, output_bytes: int, num_tasks: int, stack_bytes: int
) -> None:
    """Hard limits of this process. ``num_tasks`` counts every task of the user (of its namespace, where it has one)."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, output_bytes),
        (resource.RLIMIT_NPROC, num_tasks),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_STACK, stack_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _check(result: int, call: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
