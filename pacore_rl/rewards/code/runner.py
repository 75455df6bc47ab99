"""The program inside a sandbox: reads one submission, and forks a child for each test of it.

    our process                                   this process                       a child, for one test
    descriptors of input and output  --------->   fork                      -------> limits, seccomp, the program
    how it ended  <----------------------------   wait, kill at the limit   <------- ends, or is killed

Trusted, although it lives inside: it never executes the submission in its own process, and a child cannot signal it,
trace it or speak through its socket. Started by ``sandbox.Sandbox`` with a description of the jail to enter. Imports
little, since a sandbox starts for every submission. Speaks marshal: only trusted sides write.
"""

from __future__ import annotations

import _socket
import array
import ctypes
import gc
import marshal
import os
import select
import signal
import sys
import time
from types import CodeType
from typing import Any, NoReturn

from pacore_rl.rewards.code import calls, jail, seccomp

PACKET_BYTES = 65_536
MAX_DESCRIPTORS = 5
FAULT = 200
"""Descriptor on which a child says why it could not start its program; closed when it starts."""
COMPILE_CPU_SECONDS = 10
COMPILE_MEMORY_BYTES = 1 << 30
STARVED_FACTOR, STARVED_SHARE = 4, 0.03
_CPU_CLOCK = 2
"""clock_getcpuclockid(3): of another process."""
PRELOADED = frozenset(
    "__future__ array atexit bisect cmath collections copy datetime decimal enum fractions functools heapq io "
    "itertools json math operator os queue random re statistics string sys threading time typing types".split()
)
"""Imported once, before the fork, where the source mentions them; trusted modules without state between tests."""
CALL_PRELUDE = "import collections, heapq, bisect, math, itertools, functools, re, string\nfrom collections import *\n"
CALL_PRELUDE += "from typing import *\nfrom heapq import *\nfrom bisect import *\nfrom math import inf\n"
CALL_PRELUDE += "from functools import lru_cache, cache, reduce, cmp_to_key\nfrom itertools import accumulate\n"
"""What code for function-call tests may use without importing it (LeetCode's judges do the same)."""


class Runner:
    def __init__(self, control: _socket.socket, libc: ctypes.CDLL, machine: str) -> None:
        self._control = control
        self._libc = libc
        self._machine = machine
        self._code: CodeType | None = None
        self._prelude: CodeType | None = None

    def serve(self) -> None:
        self._control.send(marshal.dumps({"ready": True}))
        while True:
            request, descriptors = _receive(self._control)
            if request is None:
                return
            reply = self._load(request, descriptors) if request["op"] == "load" else self._run(request, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            self._control.send(marshal.dumps(reply))

    def _load(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Compile the submission (Python). Limits of its own: should they kill this process, our side knows why."""
        import resource

        with open(descriptors[0], "rb", closefd=False) as file:
            source = file.read()
        _preload(source, request["preload"])
        limits = {resource.RLIMIT_CPU: COMPILE_CPU_SECONDS, resource.RLIMIT_AS: COMPILE_MEMORY_BYTES}
        before = {kind: resource.getrlimit(kind) for kind in limits}
        for kind, limit in limits.items():
            resource.setrlimit(kind, (limit, before[kind][1]))
        try:
            self._code = compile(source, "solution.py", "exec", dont_inherit=True)
            if request["prelude"]:
                self._prelude = compile(CALL_PRELUDE, "prelude.py", "exec", dont_inherit=True)
                exec(self._prelude, {})
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            return {"error": f"{type(error).__name__}: {error}"[:500]}
        finally:
            for kind, limit in before.items():
                resource.setrlimit(kind, limit)
        gc.collect()
        gc.freeze()
        return {"error": ""}

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """One test in a child; how it ended."""
        parent = os.getpid()
        started = time.monotonic()
        faults, fault = os.pipe()
        child = os.fork()
        if not child:
            try:
                self._become_program(request, descriptors, parent, fault)
            except BaseException as error:  # before the program started; afterwards the descriptor is closed
                os.write(FAULT, f"{type(error).__name__}: {error}"[:500].encode())
            finally:
                os._exit(125)  # never run the runner's loop in a child
        os.close(fault)
        is_late = not _wait(child, self._control, request["wall_seconds"])
        if is_late:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        found = os.read(faults, 1000)
        os.close(faults)
        return {
            "fault": found.decode(errors="replace"),
            "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status),
            "late": is_late,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "wall_seconds": time.monotonic() - started,
            "memory_kib": usage.ru_maxrss,
        }

    def _become_program(self, request: dict[str, Any], descriptors: list[int], parent: int, fault: int) -> NoReturn:
        os.dup2(fault, FAULT, inheritable=False)
        for number, descriptor in enumerate(descriptors, start=100):
            os.dup2(descriptor, number)
        for number in range(len(descriptors)):
            os.dup2(100 + number, number, inheritable=True)
        os.closerange(len(descriptors), FAULT)
        jail.die_with_parent(self._libc, parent)
        jail.limit_resources(**request["limits"])
        profile = request["profile"]
        filter_program = seccomp.build_filter(profile, self._machine, os.getpid()) if request["seccomp"] else b""
        if profile == "program":
            # What the program will find must be made before the filter: no file can be opened for writing after it.
            _fresh_streams()
        else:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if request["folder"]:
            os.chdir(request["folder"])
        if filter_program:
            seccomp.install(self._libc, filter_program)
        if profile != "program":
            os.execve(request["executable"], request["argv"], request["environment"])
        assert self._code is not None, "a program runs before it is loaded"
        os.close(FAULT)
        _execute(self._code, self._prelude, request["call"], request["argv"])


def _wait(child: int, control: _socket.socket, limit_seconds: float) -> bool:
    """Whether the child ended within the limit. Our side hanging up means that nobody waits: end at once.

    On a machine with more work than cores a child may wait for a core most of the time. One that has computed is given
    ``STARVED_FACTOR`` times as long, since its limit of CPU time ends it; one that sleeps is not.
    """
    descriptor = os.pidfd_open(child)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(control.fileno(), select.POLLIN)
    events = poll.poll(max(1.0, limit_seconds * 1000))
    if not events and time.clock_gettime((~child << 3) | _CPU_CLOCK) > STARVED_SHARE * limit_seconds:
        events = poll.poll((STARVED_FACTOR - 1) * limit_seconds * 1000)
    os.close(descriptor)
    if any(number == control.fileno() for number, _ in events):
        os.kill(child, signal.SIGKILL)
        os._exit(0)
    return bool(events)


def _fresh_streams() -> None:
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _flush() -> None:
    """A program may have closed its output, or put another stream in its place."""
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def _execute(code: CodeType, prelude: CodeType | None, call: str, argv: list[str]) -> NoReturn:
    """Run the program as an interpreter would, with what it does at its end, and exit with its exit code."""
    module = type(sys)("__main__" if not call else "solution")
    module.__dict__["__file__"] = "solution.py"
    sys.modules[module.__name__] = module
    sys.argv = list(argv)
    sys.path[:] = [path for path in sys.path if "python3" in path]
    sys.set_int_max_str_digits(0)
    status = 0
    try:
        if prelude is not None:
            exec(prelude, module.__dict__)
        exec(code, module.__dict__)
        if call:
            calls.perform(call, module.__dict__)
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
    except SystemExit as error:
        status = _exit_status(error)
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
    except BaseException as error:
        status = 1
        sys.__excepthook__(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    try:
        import atexit

        atexit._run_exitfuncs()
        _flush()
        if not call:
            # A stream of the program's own is written out when its last reference goes.
            del sys.modules[module.__name__], module
            gc.collect()
            _flush()
    except BaseException as error:  # a full output file, or what an exit function raised
        status = status or 1
        sys.__excepthook__(type(error), error, None)
    finally:
        os._exit(status & 0xFF)


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    print(error.code, file=sys.stderr)
    return 1


def _preload(source: bytes, wanted: list[str]) -> None:
    """Import the harmless modules that the source names, so that its tests need not."""
    for name in wanted:
        if name in PRELOADED:
            __import__(name)


def _receive(control: _socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    descriptors = array.array("i")
    packet, ancillary, _, _ = control.recvmsg(PACKET_BYTES, _socket.CMSG_LEN(MAX_DESCRIPTORS * descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return (marshal.loads(packet) if packet else None), list(descriptors)


def enter(description: dict[str, Any], libc: ctypes.CDLL) -> None:
    """Close the jail around this process, if bubblewrap has not done so."""
    match description["jail"]:
        case "landlock":
            jail.enter_landlock(libc, readable=description["readable"], writable=description["writable"])
        case "chroot":
            root = description["root"]
            jail.enter_chroot(root, description["uid"])
            sys.path[:] = [path.removeprefix(root) for path in sys.path]
            sys.path_importer_cache.clear()
    os.environ.clear()


def _add_exit() -> None:
    """Programs call ``exit()`` and ``quit()`` without importing them; ``site``, which makes them, is left out here."""
    import _sitebuiltins
    import builtins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))


def main() -> None:
    description = marshal.loads(bytes.fromhex(sys.argv[1]))
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    _add_exit()
    enter(description, libc)
    # A low number, so that children find it among the few that they close.
    control = _socket.socket(fileno=os.dup(description["control"]))
    os.close(description["control"])
    Runner(control, libc, os.uname().machine).serve()


if __name__ == "__main__":
    main()
