"""The real wandb, offline: no account, no network."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import SAMPLES_OF_EVERY_KIND

from pacore_rl.reporting.jsonl import read_metrics
from pacore_rl.reporting.wandb_sink import WandbSink, logged_in

ROOT = Path(__file__).resolve().parents[2]
STRUCK = """
import sys
import time
from pathlib import Path

import psutil

from pacore_rl.reporting import wandb_sink
from pacore_rl.reporting.jsonl import JsonlSink

wandb_sink.LOG_TIMEOUT_SECONDS, wandb_sink.FINISH_TIMEOUT_SECONDS = 1.0, 2.0
signal, folder, num_metrics = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
wandb = wandb_sink.WandbSink(project="test", name="run", folder=folder)
sinks = [JsonlSink(folder / "metrics.jsonl"), wandb]
service = next(one for one in psutil.Process().children() if one.name() == wandb_sink.SERVICE)
for step in range(1, 6):
    for sink in sinks:
        sink.log(step, {f"area/{number}": float(step) for number in range(num_metrics)})
    if step == 2:
        service.send_signal(signal)
        time.sleep(0.5)
for sink in (*sinks, wandb):
    sink.close()
service.wait(5)
print("ended")
"""
"""Five steps of metrics; the wandb service gets a signal after the second."""


@pytest.fixture(autouse=True)
def _not_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_offline_run_is_written_into_the_run_folder(tmp_path: Path) -> None:
    sink = WandbSink(project="test", name="run", folder=tmp_path / "run", config={"seed": 1})
    assert sink.mode == "offline"
    sink.log(1, {"reward/mean": 0.5})
    sink.close()
    sink.close()
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert next(offline.glob("run-*.wandb")).stat().st_size > 0


def test_a_run_that_is_gone_on_with_stays_one_run(tmp_path: Path) -> None:
    for step in (1, 2):
        sink = WandbSink(project="test", name="run", folder=tmp_path / "run")
        sink.log(step, {"reward/mean": 0.5})
        sink.close()
        assert sink.mode == "offline", "nothing went wrong on the way"
    parts = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert len({part.name for part in parts}) == 1


def test_samples_become_a_table_of_the_step(tmp_path: Path) -> None:
    sink = WandbSink(project="test", name="run", folder=tmp_path / "run")
    sink.log(2, {"reward/mean": 0.5})
    sink.log_samples([one for one in SAMPLES_OF_EVERY_KIND if one.step == 2])
    sink.log_samples([])
    sink.close()
    assert sink.mode == "offline", "nothing went wrong on the way"
    (table,) = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/samples_*.table.json")
    written = json.loads(table.read_text())
    assert written["columns"][:2] == ["step", "problem"]
    assert [row[1] for row in written["data"]] == ["emergent", "long"]


def test_what_wandb_cannot_do_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        sink = WandbSink(project="test", name="run", folder=tmp_path / "run")
    assert sink.mode == "disabled"
    assert "the run goes on without it" in caplog.text and "logging.wandb_project=null" in caplog.text
    sink.log(1, {"reward/mean": 0.5})
    sink.log_samples(SAMPLES_OF_EVERY_KIND[:1])
    sink.close()


@pytest.mark.parametrize(
    ("struck", "num_metrics", "told"),
    [
        pytest.param(signal.SIGKILL, 1, "could not log (", id="log raises"),
        # More than a socket holds: nobody reads it at the other end.
        pytest.param(signal.SIGSTOP, 50_000, "could not log (it did not end within 1 s)", id="log hangs"),
        pytest.param(signal.SIGSTOP, 1, "could not finish (it did not end within 2 s)", id="finish hangs"),
    ],
)
def test_a_service_of_wandbs_that_fails_on_the_way_is_told_once_and_the_run_ends_as_ever(
    tmp_path: Path, struck: signal.Signals, num_metrics: int, told: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STRUCK, str(int(struck)), str(tmp_path), str(num_metrics)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == 0 and ended.stdout == "ended\n", ended.stderr
    assert ended.stderr.count("wandb could not") == 1 and told in ended.stderr
    assert "wandb sync" in ended.stderr and "Traceback" not in ended.stderr
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_one_line_that_wandb_refuses_is_told_once_and_the_run_of_wandbs_is_still_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = WandbSink(project="test", name="run", folder=tmp_path / "run")
    sink.log(1, {"reward/mean": 0.5})
    with caplog.at_level(logging.WARNING):
        for step in (2, 3):
            sink.log(step, {7: 0.5})  # pyright: ignore[reportArgumentType]
        sink.log_samples(SAMPLES_OF_EVERY_KIND[:1])
        run = sink._run
        sink.close()
        sink.close()
    assert sink.mode == "disabled" and caplog.text.count("WARNING") == 1
    assert "could not log (TypeError" in caplog.text and run._is_finished


class TestLogin:
    def test_a_key_in_the_environment(self) -> None:
        assert logged_in({"WANDB_API_KEY": "k"})
        assert not logged_in({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"})

    def test_a_netrc_entry_for_the_host(self, tmp_path: Path) -> None:
        path = tmp_path / "netrc"
        path.write_text("machine api.wandb.ai login user password k\n")
        assert logged_in({"NETRC": str(path)})
        assert not logged_in({"NETRC": str(path), "WANDB_BASE_URL": "https://wandb.example.org"})

    def test_nothing_or_an_unreadable_netrc(self, tmp_path: Path) -> None:
        assert not logged_in({"NETRC": str(tmp_path / "none")})
        path = tmp_path / "netrc"
        path.write_text("machine\n")
        assert not logged_in({"NETRC": str(path)})
