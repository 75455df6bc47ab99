"""Which sandboxes a scorer has open, so that closing it ends them and nobody waits for a program's time limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacore_rl.rewards.code.sandbox import Sandbox


class OpenSandboxes:
    """Those of one scorer; its threads share it."""

    def __init__(self) -> None:
        self.is_closed = False
        self._lock = threading.Lock()
        self._open: set[Sandbox] = set()

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Sandboxes that this thread starts in the ``with`` block belong here."""
        before = _owner.set(self)
        try:
            yield
        finally:
            _owner.reset(before)

    def add(self, sandbox: Sandbox) -> bool:
        """False where it is too late."""
        with self._lock:
            if not self.is_closed:
                self._open.add(sandbox)
            return not self.is_closed

    def discard(self, sandbox: Sandbox) -> None:
        with self._lock:
            self._open.discard(sandbox)

    def close(self) -> None:
        """Whoever waits for a sandbox gets a ``SandboxError``, and no other starts. Safe to call twice."""
        with self._lock:
            self.is_closed = True
            for sandbox in self._open:
                sandbox.kill()


def current_owner() -> OpenSandboxes | None:
    """Whose the sandboxes are that this thread starts."""
    return _owner.get()


_owner: ContextVar[OpenSandboxes | None] = ContextVar("owner", default=None)
