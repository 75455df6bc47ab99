"""SIGTERM, as a scheduler or a spot market sends it: at once where nothing is under way, else as soon as it is done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_came = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM. It unwinds like Ctrl-C, so that workers are stopped."""


class TerminatedSaved(Terminated):
    """SIGTERM, after which the run was saved. The message says what goes on, where it is not ``--resume auto``."""


@contextmanager
def termination_raised() -> Iterator[None]:
    """SIGTERM raises ``Terminated`` within this block."""
    _came.clear()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    _came.set()
    raise Terminated


def is_termination(interruption: KeyboardInterrupt) -> bool:
    """Whether SIGTERM is behind it: during a call of Ray's, Ray raises a bare KeyboardInterrupt in its place."""
    return isinstance(interruption, Terminated) or _came.is_set()


@contextmanager
def termination_deferred() -> Iterator[None]:
    """SIGTERM waits for the end of this block: half an update is nothing that could be saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    previous = signal.signal(signal.SIGTERM, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)
