"""The scorer's side of killable processes: start on first use, ask, kill what does not answer, start again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.rewards.child_process import PACKET_BYTES

START_SECONDS = 60.0
"""Imports take a second on a quiet machine, a user's own perhaps many."""
CLOSE_SECONDS = 10.0
_KEPT_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME")


class ChildrenUnavailable(RuntimeError):
    """No child process can be had."""


class ChildLost(Exception):
    """The child died before it answered."""


class ChildLate(Exception):
    """The child did not answer in time and was killed."""

    def __init__(self, pid: int, cpu_seconds: float, *, was_stopped: bool = False) -> None:
        super().__init__(f"process {pid} did not answer in time")
        self.pid = pid
        self.was_stopped = was_stopped
        """Whether somebody had stopped it (SIGSTOP): then the time says nothing of the question."""
        self.cpu_seconds = cpu_seconds
        """What it computed meanwhile."""


@dataclass(slots=True)
class _Child:
    pid: int
    connection: socket.socket


class Children:
    """Processes of one program (see ``child_process``), started when first asked. ``ask`` may be called from any number
    of threads; each call in progress uses one process, so the caller's number of threads is the number of processes.

    ``program`` is a module to run and its arguments; ``environment`` names variables it may see beside the few it
    needs; ``search_path`` are folders in which its imports are looked for first.
    """

    def __init__(
        self,
        program: Sequence[str],
        timeout_seconds: float,
        *,
        environment: Sequence[str] = (),
        search_path: Sequence[str] = (),
    ) -> None:
        self._program = tuple(program)
        self._timeout_seconds = timeout_seconds
        self._environment = _environment(environment, search_path)
        self._lock = threading.Lock()  # guards everything below, and one request on the control socket
        self._idle: list[_Child] = []
        self._busy: dict[int, _Child] = {}
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._unavailable: str | None = None
        self._closed = False

    def ask(self, question: dict[str, Any], *, fresh: bool = False) -> dict[str, Any]:
        """The reply to one question. ``fresh`` asks a new child: after a loss the other idle ones may be dead too.

        Raises ``ChildLost``, ``ChildLate`` or ``ChildrenUnavailable``.
        """
        packet = json.dumps(question).encode()
        child = self._take(fresh=fresh)
        is_reusable = False
        cpu_seconds_before = _cpu_seconds_of(child.pid)
        try:
            child.connection.settimeout(self._timeout_seconds)
            _send(child.connection, packet)
            reply = child.connection.recv(PACKET_BYTES)
            if not reply:
                raise ChildLost(f"process {child.pid} died before it answered")
            content = json.loads(reply)
            is_reusable = not content["last"]
            return content
        except TimeoutError:
            cpu_seconds = _cpu_seconds_of(child.pid) - cpu_seconds_before
            raise ChildLate(child.pid, cpu_seconds, was_stopped=_is_stopped(child.pid)) from None
        except OSError as error:
            raise ChildLost(f"process {child.pid} died before it answered: {error}") from error
        finally:
            self._give_back(child, is_reusable=is_reusable)

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process of the pool that is alive, the template first."""
        with self._lock:
            children = [child.pid for child in (*self._idle, *self._busy.values())]
            return (*(() if self._template is None else (self._template.pid,)), *children)

    def close(self) -> None:
        """End every process. Questions in progress come back as ``failed``. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._stop_template()

    def start(self) -> None:
        """Start the template, where that has not happened. Raises ``ChildrenUnavailable`` where it cannot."""
        with self._lock:
            if self._template is None:
                self._start_template()

    def _take(self, *, fresh: bool) -> _Child:
        """An idle child, or a fresh one: after a loss the other idle ones may be dead as well."""
        with self._lock:
            if self._closed:
                raise ChildrenUnavailable("the scorer is closed")
            if self._template is not None and self._template.poll() is not None:
                self._stop_template()
            child = self._idle.pop() if self._idle and not fresh else self._fork()
            self._busy[child.pid] = child
            return child

    def _give_back(self, child: _Child, *, is_reusable: bool) -> None:
        with self._lock:
            del self._busy[child.pid]
            if is_reusable and not self._closed:
                self._idle.append(child)
                return
            child.connection.close()
            if self._control is not None:
                try:
                    self._request(b"kill %d" % child.pid)
                except OSError:  # the template is gone, and the kernel has killed its children
                    self._stop_template()

    def _fork(self) -> _Child:
        """A new child (the lock is held). Starts the template where there is none, twice if it has just died."""
        for attempt in range(2):
            if self._template is None:
                self._start_template()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                return _Child(int(self._request(b"fork", theirs.fileno())), ours)
            except OSError as error:
                ours.close()
                self._stop_template()
                if attempt:
                    raise ChildLost(f"the template process died twice: {error}") from error
            finally:
                theirs.close()
        raise AssertionError("unreachable")

    def _start_template(self) -> None:
        if self._unavailable is not None:
            raise ChildrenUnavailable(self._unavailable)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            template = subprocess.Popen(
                [sys.executable, "-P", "-m", self._program[0], str(theirs.fileno()), *self._program[1:]],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )
        self._template, self._control = template, ours
        ours.settimeout(START_SECONDS)
        try:
            said = ours.recv(PACKET_BYTES)
        except OSError:
            said = b""
        if said != b"ready":
            self._stop_template()
            why = said.decode() or f"exit status {template.returncode}; its error is on stderr"
            self._unavailable = f"{' '.join(self._program)} did not start ({why})"
            raise ChildrenUnavailable(self._unavailable)

    def _request(self, command: bytes, descriptor: int | None = None) -> bytes:
        """One request to the template and its reply (the lock is held)."""
        assert self._control is not None, "no template"
        if descriptor is None:
            self._control.send(command)
        else:
            socket.send_fds(self._control, [command], [descriptor])
        reply = self._control.recv(PACKET_BYTES)
        if not reply:
            raise ConnectionResetError("the template process closed its socket")
        return reply

    def _stop_template(self) -> None:
        """End the template, and with it every child (the lock is held)."""
        for child in self._idle:
            child.connection.close()
        self._idle.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._template is not None:
            try:
                self._template.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._template.kill()
                self._template.wait(CLOSE_SECONDS)
            self._template = None


def _send(connection: socket.socket, packet: bytes) -> None:
    """A packet has a limit of the kernel's; what is longer goes as a file in memory."""
    if len(packet) <= PACKET_BYTES:
        connection.send(packet)
        return
    with os.fdopen(os.memfd_create("question"), "wb") as file:
        file.write(packet)
        file.flush()
        socket.send_fds(connection, [b"file"], [file.fileno()])


def _environment(names: Sequence[str], search_path: Sequence[str]) -> dict[str, str]:
    """A small environment (no credentials unless named) that finds this package, with one thread and a fixed hash seed:
    the order of a set decides which way sympy simplifies, and a run must repeat."""
    kept = {name: os.environ[name] for name in (*_KEPT_ENVIRONMENT, *names) if name in os.environ}
    package_root = str(Path(__file__).resolve().parents[2])
    folders = [*search_path, package_root, *(entry for entry in sys.path if entry)]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(folders),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _cpu_seconds_of(pid: int) -> float:
    """CPU time a process has used, 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except FileNotFoundError:
        return False
