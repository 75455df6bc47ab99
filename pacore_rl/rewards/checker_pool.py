"""The scorer's side of the checker processes: start on first use, ask, kill what does not answer, start again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.checker_process import PACKET_BYTES

START_SECONDS = 60.0
"""Importing math-verify takes 0.7 s on a quiet machine."""
CLOSE_SECONDS = 10.0
MAX_CPU_SECONDS = 2.0
CPU_SHARE_OF_LIMIT = 0.4
"""A checker's own limit is CPU time, so that a busy machine does not turn right answers into wrong ones."""
STOOD_STILL_SHARE = 0.1
"""A checker that used less of its CPU time than this when its time was up did not work on the answer."""
_KEPT_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a question."""

    outcome: Literal["equal", "different", "timeout", "failed"]
    """``failed``: our checkers died or stood still, whatever the answer was."""
    detail: str
    seconds: float


class CheckersUnavailable(RuntimeError):
    """No checker process can be had."""


class _CheckerLost(Exception):
    """The checker died, or stood still without computing."""


@dataclass(slots=True)
class _Checker:
    pid: int
    connection: socket.socket


class CheckerPool:
    """Checker processes, started when first asked. ``ask`` may be called from any number of threads; each call in
    progress uses one process, so the caller's number of threads is the number of processes."""

    def __init__(self, timeout_seconds: float, config: RewardConfig | None = None) -> None:
        self.config = config or RewardConfig()
        """The scorer's settings, for rewards that have some of their own."""
        self._timeout_seconds = timeout_seconds
        self._cpu_seconds = min(MAX_CPU_SECONDS, CPU_SHARE_OF_LIMIT * timeout_seconds)
        self._lock = threading.Lock()  # guards everything below, and one request on the control socket
        self._idle: list[_Checker] = []
        self._busy: dict[int, _Checker] = {}
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._unavailable: str | None = None
        self._closed = False

    def ask(self, answer: str, ground_truth: str) -> Reply:
        """Compare two normalised answers. Takes at most about twice the time limit (once more after a failure of ours),
        and never raises for what they hold."""
        question = {"answer": answer, "ground_truth": ground_truth, "cpu_seconds": self._cpu_seconds}
        packet = json.dumps(question).encode()
        started = time.monotonic()
        loss = ""
        for attempt in range(2):
            try:
                outcome, detail = self._ask_once(packet, fresh=attempt > 0)
            except _CheckerLost as lost:
                loss = str(lost)
            except CheckersUnavailable as error:
                loss = str(error)
                break
            else:
                return Reply(outcome=outcome, detail=detail, seconds=time.monotonic() - started)
        return Reply(outcome="failed", detail=loss, seconds=time.monotonic() - started)

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process of the pool that is alive, the template first."""
        with self._lock:
            checkers = [checker.pid for checker in (*self._idle, *self._busy.values())]
            return (*(() if self._template is None else (self._template.pid,)), *checkers)

    def close(self) -> None:
        """End every process. Questions in progress come back as ``failed``. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._stop_template()

    def _ask_once(self, packet: bytes, *, fresh: bool) -> tuple[Literal["equal", "different", "timeout"], str]:
        checker = self._take(fresh=fresh)
        is_reusable = False
        cpu_seconds_before = _cpu_seconds_of(checker.pid)
        try:
            checker.connection.settimeout(self._timeout_seconds)
            checker.connection.send(packet)
            reply = checker.connection.recv(PACKET_BYTES)
            if not reply:
                raise _CheckerLost(f"checker process {checker.pid} died while it compared")
            content = json.loads(reply)
            is_reusable = not content["last"]
            return content["outcome"], content["detail"]
        except TimeoutError:
            limit = self._timeout_seconds
            if _cpu_seconds_of(checker.pid) - cpu_seconds_before < STOOD_STILL_SHARE * self._cpu_seconds:
                raise _CheckerLost(f"checker process {checker.pid} stood still for {limit:g} s") from None
            return "timeout", f"not compared within {limit:g} s"
        except OSError as error:
            raise _CheckerLost(f"checker process {checker.pid} died while it compared: {error}") from error
        finally:
            self._give_back(checker, is_reusable=is_reusable)

    def _take(self, *, fresh: bool) -> _Checker:
        """An idle checker, or a fresh one: after a loss the other idle ones may be dead as well."""
        with self._lock:
            if self._closed:
                raise CheckersUnavailable("the scorer is closed")
            if self._template is not None and self._template.poll() is not None:
                self._stop_template()
            checker = self._idle.pop() if self._idle and not fresh else self._fork()
            self._busy[checker.pid] = checker
            return checker

    def _give_back(self, checker: _Checker, *, is_reusable: bool) -> None:
        with self._lock:
            del self._busy[checker.pid]
            if is_reusable and not self._closed:
                self._idle.append(checker)
                return
            checker.connection.close()
            if self._control is not None:
                try:
                    self._request(b"kill %d" % checker.pid)
                except OSError:  # the template is gone, and the kernel has killed its checkers
                    self._stop_template()

    def _fork(self) -> _Checker:
        """A new checker (the lock is held). Starts the template where there is none, twice if it has just died."""
        for attempt in range(2):
            if self._template is None:
                self._start_template()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                return _Checker(int(self._request(b"fork", theirs.fileno())), ours)
            except OSError as error:
                ours.close()
                self._stop_template()
                if attempt:
                    raise _CheckerLost(f"the checkers' template process died twice: {error}") from error
            finally:
                theirs.close()
        raise AssertionError("unreachable")

    def _start_template(self) -> None:
        if self._unavailable is not None:
            raise CheckersUnavailable(self._unavailable)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            template = subprocess.Popen(
                [sys.executable, "-P", "-m", "pacore_rl.rewards.checker_process", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        self._template, self._control = template, ours
        ours.settimeout(START_SECONDS)
        try:
            is_ready = ours.recv(PACKET_BYTES) == b"ready"
        except OSError:
            is_ready = False
        if not is_ready:
            self._stop_template()
            self._unavailable = (
                f"the checker process did not start (exit status {template.returncode}; its error is on stderr); "
                "check that math-verify is installed for " + sys.executable
            )
            raise CheckersUnavailable(self._unavailable)

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
        """End the template, and with it every checker (the lock is held)."""
        for checker in self._idle:
            checker.connection.close()
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


def _environment() -> dict[str, str]:
    """A small environment (no credentials) that finds this package, with one thread and a fixed hash seed: the order
    of a set decides which way sympy simplifies, and a run must repeat."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    package_root = str(Path(__file__).resolve().parents[2])
    search_path = [package_root, *(entry for entry in sys.path if entry)]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(search_path),
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
