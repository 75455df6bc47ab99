"""The system calls that a sandboxed program has, as a seccomp filter (seccomp(2), "BPF programs").

Runs inside the sandbox, so it imports the standard library only. The filter is a list of what is allowed: a system call
that a newer kernel adds is refused, not open. An architecture without a table here is refused as a whole.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Literal

Profile = Literal["program", "binary", "build"]
"""program: Python code run by the interpreter that is already there; binary: the same, and may execute (a compiled
program has to be started); build: a compiler, which writes files and has child processes."""

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86-64, aarch64), None where the architecture has no such call.
_ALWAYS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "pipe": (22, None),
    "select": (23, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, None),
    "pause": (34, None),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "ftruncate": (77, 46),
    "getdents": (78, None),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "sigaltstack": (131, 132),
    "arch_prctl": (158, None),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "epoll_create": (213, None),
    "getdents64": (217, 61),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "epoll_wait": (232, None),
    "epoll_ctl": (233, 21),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "epoll_create1": (291, 20),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "statx": (332, 291),
    "rseq": (334, 293),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
    "futex_waitv": (449, 449),
}
_EXECUTE: dict[str, tuple[int | None, int | None]] = {"execve": (59, 221)}
_BUILD: dict[str, tuple[int | None, int | None]] = {
    **_EXECUTE,
    "fork": (57, None),
    "vfork": (58, None),
    "wait4": (61, 260),
    "rename": (82, None),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "unlink": (87, None),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "umask": (95, 166),
    "waitid": (247, 95),
    "mkdirat": (258, 34),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "fchmodat": (268, 53),
    "utimensat": (280, 88),
    "fallocate": (285, 47),
    "renameat2": (316, 276),
}
_CONDITIONAL: dict[str, tuple[int, int]] = {
    "setrlimit": (160, 164),
    "ioctl": (16, 29),
    "clone": (56, 220),
    "fcntl": (72, 25),
    "prctl": (157, 167),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
}
_PRETEND_MISSING: dict[str, tuple[int, int]] = {"clone3": (435, 435), "openat2": (437, 437)}
"""Refused as if the kernel were too old, since the C library then does without."""

_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX."""
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""F_DUPFD to F_SETLKW and F_DUPFD_CLOEXEC. Not F_SETOWN, which has the kernel signal any process of the same user."""
_SIGNALS_TO_ITSELF = (0, 2, 6, 8, 10, 11, 12, 14, 15)
_THREAD_NAMES = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""

_EPERM, _ENOTTY, _ENOSYS = 1, 25, 38
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2

Instruction = tuple[int, int, int, int]


def numbers_of(machine: str) -> dict[str, int]:
    """Every system call named here, by its number on ``machine``. Raises ``ValueError`` for an architecture without."""
    if machine not in AUDIT_ARCH:
        raise ValueError(
            f"no sandbox on {machine}: its system calls are not known here, only those of {', '.join(AUDIT_ARCH)}; "
            "add a column to pacore_rl/rewards/code/seccomp.py, or score on another machine."
        )
    column = tuple(AUDIT_ARCH).index(machine)
    table = {**_ALWAYS, **_BUILD, **_CONDITIONAL, **_PRETEND_MISSING}
    named = {name: numbers[column] for name, numbers in table.items()}
    return {name: number for name, number in named.items() if number is not None}


def build_filter(profile: Profile, machine: str, pid: int) -> bytes:
    """The filter program for a process ``pid``, which may signal itself (``abort`` does) and nobody else."""
    numbers = numbers_of(machine)
    names = [*_ALWAYS, *{"program": {}, "binary": _EXECUTE, "build": _BUILD}[profile]]
    code: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL)]
    code.append((_LOAD, 0, 0, 0))
    for name in names:
        if name in numbers:
            code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ALLOW)]
    if profile == "build":
        code += _where(numbers["clone"], argument=0, mask=_CLONE_NEW, allowed=(0,))
    else:
        code += _where(numbers["clone"], argument=0, mask=_CLONE_NEW | _CLONE_THREAD, allowed=(_CLONE_THREAD,))
    code += _where(numbers["ioctl"], argument=1, allowed=_TERMINAL_QUESTIONS, error=_ENOTTY)
    code += _where(numbers["fcntl"], argument=1, allowed=_DESCRIPTOR_COMMANDS)
    code += _where(numbers["prctl"], argument=0, allowed=_THREAD_NAMES)
    code += _own_signals(numbers["tgkill"], pid)
    code += _own_limits(numbers["prlimit64"], pid)
    code += [(_EQUAL, 0, 1, numbers["setrlimit"]), (_RETURN, 0, 0, _ERRNO)]
    for name in _PRETEND_MISSING:
        code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    code.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _where(
    number: int, *, argument: int, allowed: tuple[int, ...], mask: int | None = None, error: int = _EPERM
) -> list[Instruction]:
    """Allow a call where the low word of an argument (little-endian machines), masked, is one of ``allowed``."""
    body: list[Instruction] = [(_LOAD, 0, 0, 16 + 8 * argument)]
    if mask is not None:
        body.append((_AND, 0, 0, mask))
    for value in allowed:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    body.append((_RETURN, 0, 0, _ERRNO | error))
    return [(_EQUAL, 0, len(body), number), *body]


def _own_signals(number: int, pid: int) -> list[Instruction]:
    """tgkill: to itself, and never a SIGKILL, which would look like a failure of ours."""
    body: list[Instruction] = [
        (_LOAD, 0, 0, 16),
        (_EQUAL, 1, 0, pid),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_LOAD, 0, 0, 32),
        *(pair for value in _SIGNALS_TO_ITSELF for pair in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    return [(_EQUAL, 0, len(body), number), *body]


def _own_limits(number: int, pid: int) -> list[Instruction]:
    """prlimit64: read one's own. Setting one seems to work and does nothing: honest programs ask for a larger stack,
    and a lower limit of CPU time would end in a SIGKILL."""
    body: list[Instruction] = [
        (_LOAD, 0, 0, 16),
        (_EQUAL, 2, 0, 0),
        (_EQUAL, 1, 0, pid),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_LOAD, 0, 0, 32),  # the new limit: a pointer of two words
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, 36),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO),
    ]
    return [(_EQUAL, 0, len(body), number), *body]


def install(libc: ctypes.CDLL, filter_program: bytes) -> None:
    """Put the calling thread under the filter, for ever. Raises ``OSError`` where the kernel refuses."""
    buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
    descriptor = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(filter_program) // 8, ctypes.addressof(buffer))
    )
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(descriptor), 0, 0),
    ):
        if libc.prctl(*(ctypes.c_ulong(argument) for argument in arguments)):
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp cannot be used here: {os.strerror(code)}")
