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
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pacore_rl.samples import Sample

_log = logging.getLogger(__name__)
RUN_ID = "run-id"
"""In the folder of wandb's files: what wandb knows the run by."""
INIT_TIMEOUT_SECONDS = 30.0
FINISH_TIMEOUT_SECONDS = 60.0
"""Uploads that take longer are left to ``wandb sync``."""


class WandbSink:
    """One wandb run, its files in ``folder / "wandb"``. A run that is gone on with stays one run there.

    wandb's steps only rise: lines of steps that a resumed run does over are left as they were first logged.

    ``mode`` is ``online``, ``offline``, or ``disabled`` where wandb could not start.
    """

    def __init__(self, *, project: str, name: str, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        self.mode = "online" if logged_in() else "offline"
        self._folder = folder
        self._run: Any = None
        self._guarded("start", lambda: self._start(project, name, config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._guarded("log", lambda: self._run.log(dict(metrics), step=step))

    def log_samples(self, samples: Sequence[Sample]) -> None:
        """A table of the step's sampled responses, a row each, under ``samples``."""
        if self._run is not None and samples:
            self._guarded("log a table", lambda: self._run.log({"samples": _table(samples)}, step=samples[0].step))

    def close(self) -> None:
        """Finish the run; an upload that outlasts ``FINISH_TIMEOUT_SECONDS`` is left behind, its files kept."""
        if self._run is None:
            return
        finishing = threading.Thread(target=lambda: self._guarded("finish", self._run.finish), daemon=True)
        finishing.start()
        finishing.join(FINISH_TIMEOUT_SECONDS)
        if finishing.is_alive():
            _log.warning(
                "wandb was still uploading after %.0f s; its files are in %s: `wandb sync` sends the rest",
                FINISH_TIMEOUT_SECONDS,
                self._folder / "wandb",
            )
        self._run = None

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

    def _guarded(self, phase: str, action: Callable[[], object]) -> None:
        """Run a call of wandb; where wandb or its network fails, say so and go on without it."""
        try:
            action()
        except (
            Exception
        ) as error:  # wandb's service, its network or its absence; the metrics themselves are safe elsewhere
            self.mode, self._run = "disabled", None
            _log.warning(
                "wandb could not %s (%s: %s); the run goes on without it, and metrics.jsonl is complete. "
                "Set logging.wandb_project=null to leave wandb out.",
                phase,
                type(error).__name__,
                error,
            )


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
