"""The real wandb, offline: no account, no network."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from run_folders import SAMPLES_OF_EVERY_KIND

from pacore_rl.reporting.wandb_sink import WandbSink, logged_in


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
