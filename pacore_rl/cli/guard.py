"""How a command ends: 0 done, 1 a failure of ours, 2 something the user can mend, 75 terminated after the run was saved
(EX_TEMPFAIL: the same command with --resume auto goes on), 130 interrupted, 143 terminated."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from pacore_rl.failures import RunStopped
from pacore_rl.termination import TerminatedSaved, is_termination, termination_raised

MENDABLE_ERRNOS = frozenset({errno.ENOSPC, errno.EADDRINUSE, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""A full disk, a port in use, an exhausted quota, a limit of a file's size, a read-only disk."""
_MENDABLE = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    RunStopped,
    FloatingPointError,
)
_SCREEN_LINES = 30
SAVED = 75
"""EX_TEMPFAIL of sysexits.h: not done, and worth another try."""


class Outputs:
    """What a command writes, filled in as it learns of it; shown when the command ends early."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def add(self, *paths: Path) -> None:
        self.paths += paths

    def written(self) -> list[Path]:
        """Those that exist and, where they are folders, hold something."""
        return [path for path in self.paths if path.is_file() or (path.is_dir() and any(path.iterdir()))]


@contextmanager
def guard(*, debug: bool) -> Iterator[Outputs]:
    """Turn whatever ends a command early into one screen on standard error and an exit code.

    ``debug`` shows the traceback of an error of the user's making too.
    """
    outputs, console = Outputs(), Console(stderr=True)
    try:
        with termination_raised():
            yield outputs
    except KeyboardInterrupt as interruption:
        word, code = _word_and_code(interruption)
        console.print(Text(f"{word}. {_saved(outputs)}", style="yellow"), soft_wrap=True)
        raise typer.Exit(code) from None
    except _mendable_types() as error:
        cause = _innermost(error)
        if not _is_mendable(cause):
            _fail(console, error, outputs)
        if debug:
            traceback.print_exception(error)
        _show(console, cause)
        raise typer.Exit(2) from None
    except typer.Exit:
        raise
    except Exception as error:  # whatever remains is a failure of ours: everything is shown
        _fail(console, error, outputs)


def _word_and_code(interruption: KeyboardInterrupt) -> tuple[str, int]:
    if isinstance(interruption, TerminatedSaved):
        return f"Terminated, and saved: {str(interruption) or '--resume auto goes on'}", SAVED
    return ("Terminated", 143) if is_termination(interruption) else ("Interrupted", 130)


def _mendable_types() -> tuple[type[Exception], ...]:
    return (*_MENDABLE, OSError)


def _is_mendable(error: BaseException) -> bool:
    # Our own time limits name the worker and what to do; they carry no errno.
    if isinstance(error, TimeoutError) and error.errno is None:
        return True
    return isinstance(error, _MENDABLE) or (isinstance(error, OSError) and error.errno in MENDABLE_ERRNOS)


def _innermost(error: BaseException) -> BaseException:
    """What a worker raised: Ray re-raises it as a child of its class, with the worker's traceback as the message."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _show(console: Console, error: BaseException) -> None:
    lines = (str(error) or type(error).__name__).splitlines()
    if len(lines) > _SCREEN_LINES:
        lines = [*lines[:_SCREEN_LINES], f"... {len(lines) - _SCREEN_LINES} more lines: --debug shows them"]
    title = "This cannot run as it is"
    body = Text("\n".join(lines))
    if console.is_terminal:
        console.print(Panel(body, title=title, border_style="red", subtitle="--debug shows the traceback"))
    else:  # in a log, a frame around wrapped lines is in the way of grep
        console.print(Text(f"{title}:\n").append(body).append("\n(--debug shows the traceback)"), soft_wrap=True)


def _fail(console: Console, error: BaseException, outputs: Outputs) -> NoReturn:
    traceback.print_exception(error)
    sys.stderr.flush()
    ray_logs = Path(tempfile.gettempdir()) / "ray" / "session_latest" / "logs"
    logs = f" Logs of the workers: {ray_logs}." if ray_logs.is_dir() else ""
    message = f"This should not happen: {type(error).__name__}. {_saved(outputs)}{logs}"
    console.print(Text(f"{message} `pacore-rl doctor` checks this machine.", style="red"), soft_wrap=True)
    raise typer.Exit(1) from None


def _saved(outputs: Outputs) -> str:
    written = outputs.written()
    if not written:
        return "Nothing had been written yet."
    return f"What was written so far lies in {', '.join(str(path) for path in written)}."
