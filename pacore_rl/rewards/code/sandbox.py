"""One sandbox, seen from outside: open it for a submission, run tests in it, close it.

What a test reads and writes are files in memory that we made (memfd_create): its standard input cannot be a pipe that
somebody holds open, and nothing it writes outlives it. Expected outputs stay here.
"""

from __future__ import annotations

import marshal
import math
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pacore_rl.rewards.code import backends
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.open_sandboxes import current_owner
from pacore_rl.rewards.code.runner import STARVED_FACTOR
from pacore_rl.rewards.code.stage import stage

START_SECONDS = 30.0
LOAD_SECONDS = 40.0
SLACK_SECONDS = 10.0
"""How much later than the wall limit of a test its report may come."""
PACKET_BYTES = 65_536
MAX_ERROR_BYTES = 4_000
"""Of standard error, the end."""
_COMPILER_DEATHS = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
"""How Python's compiler ends by its own limits; a SIGKILL comes from outside (a machine short of memory)."""
STACK_BYTES = {"program": 64 << 20, "binary": 256 << 20, "build": 64 << 20}
_MIB = 1 << 20


class SandboxError(RuntimeError):
    """The sandbox failed, whatever the program in it was: a failure of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one test."""

    cpu_seconds: float = 5.0
    wall_factor: float = 3.0
    """Wall time is limited to this many times the CPU time, and one second more."""
    memory_mib: int = 1024
    output_mib: int = 16

    @property
    def wall_seconds(self) -> float:
        return self.wall_factor * self.cpu_seconds + 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How one run ended."""

    ending: Literal["ended", "timeout", "output limit", "memory limit", "crashed"]
    """``ended``: by itself, with exit code 0; ``crashed``: another code, or a signal."""
    exit_code: int
    """Negative: the signal that ended it."""
    output: bytes
    error: str
    """The end of its standard error."""
    result: bytes
    """What a called function returned."""
    cpu_seconds: float
    wall_seconds: float
    memory_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to run: the loaded Python program, or a command of the sandbox (``argv``)."""

    profile: Literal["program", "binary", "build"] = "program"
    call: str = ""
    """``function NAME`` or ``check NAME``; see ``calls.perform``."""
    argv: tuple[str, ...] = ("solution.py",)
    executable: str = ""
    """What is executed, where the command calls it by another name."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    folder: str = ""
    """Where it starts; empty: at the root."""


class Sandbox:
    """A context manager. Not to be shared between threads."""

    def __init__(
        self, backend: Backend, *, box: Path | None = None, is_build: bool = False, uid: int | None = None
    ) -> None:
        """``uid``: the user that ``box`` belongs to (see ``backends.next_uid``); None chooses one."""
        self._backend: Backend = backend
        self._owner = current_owner()
        self._process: subprocess.Popen[bytes] | None = None
        uid = backends.next_uid() if uid is None else uid
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        try:
            with theirs:
                self.command = backends.command_of(
                    backend, stage(), control=theirs.fileno(), box=box, is_build=is_build, uid=uid
                )
                self._start(theirs.fileno())
            self._receive(START_SECONDS, "did not start")
        except BaseException:
            self.close()
            raise

    def _start(self, control: int) -> None:
        if self._owner is not None and self._owner.is_closed:
            raise SandboxError("the scorer was closed")
        as_user: dict[str, Any] = {}
        if self.command.uid is not None:
            as_user = {"user": self.command.uid, "group": self.command.uid, "extra_groups": []}
        self._process = subprocess.Popen[bytes](
            self.command.argv,
            env=dict(self.command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(control,),
            cwd="/",
            start_new_session=True,
            **as_user,
        )
        if self._owner is not None and not self._owner.add(self):
            raise SandboxError("the scorer was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything in it. Safe to call twice."""
        self._control.close()
        if self._owner is not None:
            self._owner.discard(self)  # before its number may become another process's
        if self._process is not None and self._process.returncode is None:
            self.kill()
            self._process.wait()
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1

    def kill(self) -> None:
        """End its processes, whoever waits for them; it is still to be closed."""
        assert self._process is not None, "it is killed after it has started"
        # Bubblewrap ends its namespace with itself; a runner's child dies with the runner.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def load(self, source: bytes, *, preload: Sequence[str] = (), prelude: bool = False) -> str | None:
        """Compile a Python program; what is wrong with it, or None."""
        descriptor = _file_of(source)
        try:
            self._send({"op": "load", "preload": list(preload), "prelude": prelude}, [descriptor])
            reply = self._receive(LOAD_SECONDS, "ended while it compiled the program")
        except SandboxError:
            if (ended_by := self._ended_by()) not in _COMPILER_DEATHS:
                raise
            return f"Python's compiler did not survive it ({signal.Signals(ended_by).name})"
        finally:
            os.close(descriptor)
        return reply["error"] or None

    def run(
        self,
        run: Run,
        limits: Limits,
        *,
        stdin: bytes = b"",
        arguments: bytes | None = None,
        answer_call: Callable[[bytes], bytes] | None = None,
    ) -> Ran:
        """One test in a child of its own. ``arguments``: of a function call; ``answer_call`` answers the calls that a
        checking program makes. Raises ``SandboxError`` for failures of ours."""
        output_bytes = limits.output_mib * _MIB
        files = [_file_of(stdin), _file_of(b""), _file_of(b"")]
        channel: socket.socket | None = None
        if arguments is not None:
            files += [_file_of(arguments), _file_of(b"")]
        elif answer_call is not None:
            channel, theirs = socket.socketpair()
            files.append(theirs.detach())
        request = {
            "op": "run",
            "profile": run.profile,
            "call": run.call,
            "argv": list(run.argv),
            "executable": run.executable or run.argv[0],
            "environment": run.environment,
            "folder": run.folder,
            "seccomp": self._backend != "none",
            "wall_seconds": limits.wall_seconds,
            "limits": {
                "cpu_seconds": math.ceil(limits.cpu_seconds),
                "memory_bytes": limits.memory_mib * _MIB,
                "output_bytes": output_bytes,
                "num_tasks": self.command.num_tasks,
                "stack_bytes": min(STACK_BYTES[run.profile], limits.memory_mib * _MIB),
            },
        }
        try:
            self._send(request, files)
            wait_seconds = STARVED_FACTOR * limits.wall_seconds + SLACK_SECONDS
            if channel is not None and answer_call is not None:
                os.close(files.pop())  # theirs: it must end when the program does
                _answer_calls(channel, self._control, answer_call, wait_seconds)
            reply = self._receive(wait_seconds, "ended while a test ran in it")
            if reply["fault"]:
                raise SandboxError(f"a test could not be started: {reply['fault']}")
            if reply["exit"] == -signal.SIGKILL and not reply["late"] and not _is_out_of_time(reply, limits):
                raise SandboxError("a test was killed from outside; is the machine short of memory?")
            output = _content_of(files[1], output_bytes)
            result = _content_of(files[4], output_bytes) if arguments is not None else b""
            error = _end_of(files[2])
        finally:
            for descriptor in files:
                os.close(descriptor)
            if channel is not None:
                channel.close()
        return Ran(
            ending=_ending(reply, limits, len(output) >= output_bytes, error),
            exit_code=reply["exit"],
            output=output,
            error=error,
            result=result,
            cpu_seconds=reply["cpu_seconds"],
            wall_seconds=reply["wall_seconds"],
            memory_mib=reply["memory_kib"] / 1024,
        )

    def _ended_by(self) -> int:
        """The signal that ended the runner; 0 where none did. It is left for ``close`` to reap."""
        assert self._process is not None, "it has started"
        deadline = time.monotonic() + 1.0  # its socket is closed a moment before it has ended
        while time.monotonic() < deadline:
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                is_told_by_bubblewrap = ended.si_code == os.CLD_EXITED
                return max(0, ended.si_status - 128) if is_told_by_bubblewrap else ended.si_status
            time.sleep(0.01)
        return 0

    def _send(self, request: dict[str, Any], descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._control, [marshal.dumps(request)], descriptors)
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error}{self._said()}") from error

    def _receive(self, limit_seconds: float, failure: str) -> dict[str, Any]:
        self._control.settimeout(limit_seconds)
        try:
            packet = self._control.recv(PACKET_BYTES)
        except TimeoutError:
            raise SandboxError(f"the sandbox said nothing for {limit_seconds:.0f} s{self._said()}") from None
        except OSError as error:
            raise SandboxError(f"the sandbox {failure}: {error}{self._said()}") from error
        if not packet:
            raise SandboxError(f"the sandbox {failure}{self._said()}")
        return marshal.loads(packet)

    def _said(self) -> str:
        said = _end_of(self._errors).strip() if self._errors >= 0 else ""
        return f" ({said.splitlines()[-1][:300]})" if said else ""


def _ending(
    reply: dict[str, Any], limits: Limits, is_full: bool, error: str
) -> Literal["ended", "timeout", "output limit", "memory limit", "crashed"]:
    if reply["late"] or _is_out_of_time(reply, limits):
        return "timeout"
    if is_full:
        return "output limit"
    if reply["exit"] and ("MemoryError" in error or "bad_alloc" in error):
        return "memory limit"
    return "crashed" if reply["exit"] else "ended"


def _is_out_of_time(reply: dict[str, Any], limits: Limits) -> bool:
    """The kernel's own limit is in whole seconds, and its count runs a little ahead of the one that is reported."""
    used = reply["cpu_seconds"]
    return used > limits.cpu_seconds or (reply["exit"] == -signal.SIGKILL and used > 0.8 * limits.cpu_seconds)


def _file_of(content: bytes) -> int:
    """A file in memory, open at its start."""
    descriptor = os.memfd_create("file", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _content_of(descriptor: int, limit_bytes: int) -> bytes:
    size = min(os.fstat(descriptor).st_size, limit_bytes)
    return os.pread(descriptor, size, 0)


def _end_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, MAX_ERROR_BYTES, max(0, size - MAX_ERROR_BYTES)).decode(errors="replace")


def _answer_calls(
    channel: socket.socket, control: socket.socket, answer: Callable[[bytes], bytes], idle_seconds: float
) -> None:
    """Answer each line on the channel with a line, until the program ends (or is killed at its limit)."""
    pending = b""
    deadline = time.monotonic() + idle_seconds
    poll = select.poll()
    for watched in (channel, control):
        poll.register(watched, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
        if channel.fileno() not in ready:
            return  # its end is reported, or nothing came for too long: the caller finds out which
        received = channel.recv(PACKET_BYTES)
        if not received:
            return
        pending += received
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            try:
                channel.sendall(answer(line) + b"\n")
            except OSError:  # it has ended meanwhile
                return
