"""Metrics in Weights & Biases: offline unless logged in, and never in the way of the run.

Whatever wandb does not manage is said once, as a warning; the run goes on, with ``metrics.jsonl`` complete.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil

from pacore_rl.samples import Sample

_log = logging.getLogger(__name__)
RUN_ID = "run-id"
"""In the folder of wandb's files: what wandb knows the run by."""
INIT_TIMEOUT_SECONDS = 30.0
LOG_TIMEOUT_SECONDS = 30.0
"""A line takes a millisecond, unless wandb's service no longer reads what it is sent."""
FINISH_TIMEOUT_SECONDS = 60.0
"""Uploads that take longer are left to ``wandb sync``."""
SERVICE = "wandb-core"
"""The process that wandb writes and uploads with."""
TEARDOWN_TIMEOUT_SECONDS = 5.0


class WandbSink:
    """One wandb run, its files in ``folder / "wandb"``. A run that is gone on with stays one run there.

    wandb's steps only rise: lines of steps that a resumed run does over are left as they were first logged.

    ``mode`` is ``online``, ``offline``, or ``disabled`` where wandb could not start or failed on the way.
    """

    def __init__(self, *, project: str, name: str, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        self.mode = "online" if logged_in() else "offline"
        self._folder = folder
        self._run: Any = None
        try:
            self._start(project, name, config)
        except Exception as error:  # wandb's service, its network or its absence
            self._give_up("start", f"{type(error).__name__}: {error}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._send("log", step, lambda: dict(metrics))

    def log_samples(self, samples: Sequence[Sample]) -> None:
        """A table of the step's sampled responses, a row each, under ``samples``."""
        if samples:
            self._send("log a table", samples[0].step, lambda: {"samples": _table(samples)})

    def close(self) -> None:
        """Finish the run; an upload that outlasts ``FINISH_TIMEOUT_SECONDS`` is left behind, its files kept."""
        if self._run is not None:
            self._guarded("finish", self._run.finish, FINISH_TIMEOUT_SECONDS)
            self._run = None
        if self.mode == "disabled":
            _end_service()

    def _start(self, project: str, name: str, config: Mapping[str, Any] | None) -> None:
        import wandb  # here, so that whoever turns wandb off never loads it

        files = self._folder / "wandb"
        files.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(init_timeout=INIT_TIMEOUT_SECONDS, console="off", silent=True)
        self._run = wandb.init(
            project=project,
            name=name,
            dir=str(self._folder),
            config=dict(config or {}),
            mode="online" if self.mode == "online" else "offline",
            id=_run_id(files / RUN_ID),
            resume="allow",
            settings=settings,
        )

    def _send(self, phase: str, step: int, content: Callable[[], dict[str, Any]]) -> None:
        if self.mode != "disabled":
            self._guarded(phase, lambda: self._run.log(content(), step=step), LOG_TIMEOUT_SECONDS)

    def _guarded(self, phase: str, action: Callable[[], object], limit_seconds: float) -> None:
        """Run a call of wandb in a thread, which is left behind where it hangs; where it fails, go on without wandb."""
        errors: list[Exception] = []

        def act() -> None:
            try:
                action()
            except Exception as error:  # wandb's service or its network; the metrics themselves are safe elsewhere
                errors.append(error)

        thread = threading.Thread(target=act, name="wandb", daemon=True)
        thread.start()
        thread.join(limit_seconds)
        if thread.is_alive():
            self._give_up(phase, f"it did not end within {limit_seconds:g} s")
            self._run = None  # nor would ``finish``
        elif errors:
            self._give_up(phase, f"{type(errors[0]).__name__}: {errors[0]}")

    def _give_up(self, phase: str, why: str) -> None:
        """Say so, the first time; ``close`` still finishes what wandb has."""
        if self.mode != "disabled":
            _log.warning(
                "wandb could not %s (%s); the run goes on without it, and metrics.jsonl is complete. What wandb has "
                "stays in %s: `wandb sync` sends it. Set logging.wandb_project=null to leave wandb out.",
                phase,
                why,
                self._folder / "wandb",
            )
        self.mode = "disabled"


def _end_service() -> None:
    """Kill the service of wandb: else this process waits for it when it exits, however long that takes."""
    for service in psutil.Process().children():
        with suppress(psutil.Error):
            if service.name() == SERVICE:
                for process in (*service.children(recursive=True), service):
                    process.kill()

    def forget() -> None:
        with suppress(Exception, SystemExit):  # it exits with what its service, which is gone, exited with
            import wandb

            wandb.teardown()

    thread = threading.Thread(target=forget, name="wandb-teardown", daemon=True)
    thread.start()
    thread.join(TEARDOWN_TIMEOUT_SECONDS)


def _run_id(path: Path) -> str:
    """The id kept in ``path``, or a new one kept there from now on."""
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def _table(samples: Sequence[Sample]) -> Any:
    import wandb

    columns: list[Any] = [
        "step",
        "problem",
        "question",
        "truth",
        "messages right",
        "messages",
        "response",
        "reward",
        "outcome",
    ]
    rows: list[Any] = [
        [
            sample.step,
            sample.problem_id,
            sample.question,
            sample.ground_truth,
            sum(message.correct for message in sample.messages),
            len(sample.messages),
            response.text,
            response.reward,
            response.outcome,
        ]
        for sample in samples
        for response in sample.responses
    ]
    return wandb.Table(columns=columns, data=rows)


def logged_in(environment: Mapping[str, str] | None = None) -> bool:
    """Whether wandb has a key, in ``WANDB_API_KEY`` or the netrc file, and ``WANDB_MODE`` does not say otherwise."""
    environment = os.environ if environment is None else environment
    if environment.get("WANDB_MODE", "online") != "online":
        return False
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(environment.get("NETRC", "~/.netrc")).expanduser()
    try:
        return path.is_file() and netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError) as error:
        _log.warning("%s cannot be read (%s); wandb stays offline", path, error)
        return False
