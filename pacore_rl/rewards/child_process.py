"""The program behind ``children``: a single-threaded template that forks killable children.

    scorer process --- control socket ---> template (imports done once) --- fork ---> child, child, ...
           \\___________________________ one socket per child ____________________________________/

The control socket carries ``fork`` (with the child's socket attached) and ``kill <pid>``, each answered by one packet.
When it closes, that is when the scorer closes it or dies, the template kills and reaps its children and exits; a child
whose template dies is killed by the kernel. A child reads one question per packet and answers each with one packet.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PACKET_BYTES = 65_536
QUESTIONS_PER_CHILD = 2_000
"""Then a child retires: the caches of what it runs only grow."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the children of a template do."""

    answer: Callable[[dict[str, Any]], dict[str, Any]]
    """The reply to a question; its key ``last`` says that the child then retires."""
    memory_bytes: int
    """Address space of a child."""


def _serve_questions(connection: socket.socket, service: Service) -> None:
    """A child's life: until its socket closes, it retires, or it is killed."""
    resource.setrlimit(resource.RLIMIT_AS, (service.memory_bytes, service.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for count in range(1, QUESTIONS_PER_CHILD + 1):
        packet = _receive(connection)
        if not packet:
            return
        reply = service.answer(json.loads(packet))
        reply["last"] = reply["last"] or count == QUESTIONS_PER_CHILD
        connection.send(json.dumps(reply).encode())
        if reply["last"]:
            return


def _receive(connection: socket.socket) -> bytes:
    """One question; a long one comes as a file in memory whose descriptor the packet carries."""
    packet, descriptors, _, _ = socket.recv_fds(connection, PACKET_BYTES, 1)
    if not descriptors:
        return packet
    with os.fdopen(descriptors[0], "rb") as file:
        file.seek(0)
        return file.read()


def _fork_child(control: socket.socket, descriptor: int, libc: ctypes.CDLL, service: Service) -> int:
    """Fork a child that speaks through ``descriptor``; its pid, in the template."""
    template = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    status = 1
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == template:  # else it died before the line above
            control.close()
            with socket.socket(fileno=descriptor) as connection:
                _serve_questions(connection, service)
            status = 0
    finally:
        os._exit(status)  # never run the template's loop in a child


def _reap(children: set[int]) -> None:
    for pid in tuple(children):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            children.discard(pid)


def _end(children: set[int], pid: int) -> None:
    """Kill one child and wait for its end; one that has already been reaped is left alone."""
    if pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        children.discard(pid)


def serve(descriptor: int, service: Service) -> None:
    """The template's life: fork and kill children until the control socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then closes us
    _serve_control(socket.socket(fileno=descriptor), service)


def _serve_control(control: socket.socket, service: Service) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    children: set[int] = set()
    control.settimeout(1.0)
    owner = os.getppid()
    try:
        control.send(b"ready")
        while os.getppid() == owner:
            _reap(children)
            try:
                packet, descriptors, _, _ = socket.recv_fds(control, PACKET_BYTES, 1)
            except TimeoutError:
                continue
            if not packet:
                return
            command, _, argument = packet.partition(b" ")
            if command == b"fork":
                pid = _fork_child(control, descriptors[0], libc, service)
                children.add(pid)
                control.send(str(pid).encode())
            elif command == b"kill":
                _end(children, int(argument))
                control.send(b"killed")
    except (BrokenPipeError, ConnectionResetError):
        return  # the owner is gone
    finally:
        for pid in tuple(children):
            _end(children, pid)
