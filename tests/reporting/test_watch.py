"""The live report: what it answers, to whom, and where it listens."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import write_run
from starlette.testclient import TestClient

from pacore_rl.events import record_event
from pacore_rl.reporting.jsonl import JsonlSink
from pacore_rl.reporting.watch import check_folder, open_port, version, watching


def client_of(folder: Path, host: str = "127.0.0.1:8400") -> TestClient:
    return TestClient(watching(folder), base_url=f"http://{host}")


def test_data_is_sent_once_and_again_when_a_step_has_ended(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_steps=2)
    client = client_of(run)
    first = client.get("/data.json")
    assert first.status_code == 200 and first.json()["num_steps"] == 2
    known = {"If-None-Match": first.headers["ETag"]}
    assert client.get("/data.json", headers=known).status_code == 304
    sink = JsonlSink(run / "metrics.jsonl")
    sink.log(3, {"reward/mean": 1.0})
    sink.close()
    second = client.get("/data.json", headers=known)
    assert second.status_code == 200 and second.json()["num_steps"] == 3


def test_an_event_is_news_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_steps=2)
    before = version(run)
    record_event(run, "restart", step=1, cause="a learner died")
    assert version(run) != before
    data = client_of(run).get("/data.json").json()
    assert data["series"]["events/restart"] == [1.0, 0.0]
    assert data["events"][0]["details"] == "cause a learner died"


def test_the_page_is_live_and_says_in_a_header_too_what_it_may_do(tmp_path: Path) -> None:
    answer = client_of(write_run(tmp_path / "run")).get("/")
    assert 'data-live="true"' in answer.text
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_before_the_first_step_the_page_waits(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "metrics.jsonl").touch()
    check_folder(tmp_path)
    client = client_of(tmp_path)
    assert "has not reported a step yet" in client.get("/").text
    assert client.get("/data.json").status_code == 503


def test_a_request_under_another_name_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert client_of(run, "rebound.example").get("/data.json").status_code == 400
    assert client_of(run, "localhost:1").get("/data.json").status_code == 200


def test_it_listens_on_loopback_and_names_a_port_that_is_taken() -> None:
    with open_port(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ValueError, match=f"--port {port} cannot be opened on 127.0.0.1"):
            open_port(port)


def test_a_folder_that_no_run_writes_into_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the folder of a run"):
        check_folder(tmp_path)
