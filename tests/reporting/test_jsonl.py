from __future__ import annotations

import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest

from pacore_rl.cli.guard import MENDABLE_ERRNOS
from pacore_rl.reporting import JsonlSink, read_metrics
from pacore_rl.reporting.jsonl import cut_back, length


def test_a_line_a_step_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(1, {"reward/mean": 0.5, "reward/count": 3})
    assert json.loads(path.read_text()) == {"schema": 1, "step": 1, "reward/mean": 0.5, "reward/count": 3}
    sink.close()


def test_numbers_of_numpy_and_numbers_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(1, {"a": np.float64(0.5), "nan": math.nan, "up": math.inf, "down": -math.inf})
    sink.close()
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    (row,) = read_metrics(path)
    assert row["a"] == 0.5 and math.isnan(row["nan"]) and (row["up"], row["down"]) == (math.inf, -math.inf)


def test_a_metric_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="reward/mean is 'high'"):
        sink.log(1, {"reward/mean": "high"})  # pyright: ignore[reportArgumentType]
    sink.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "", "no half line"


@pytest.mark.parametrize("torn", ['{"schema": 1, "st', "x" * 200_000])
def test_a_line_torn_by_a_crash_is_removed_when_the_run_resumes(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(1, {"a": 1.0})
    sink.close()
    with path.open("a") as file:
        file.write(torn)
    sink = JsonlSink(path)
    sink.log(2, {"a": 2.0})
    sink.close()
    assert [(row["step"], row["a"]) for row in read_metrics(path)] == [(1, 1.0), (2, 2.0)]


def test_a_file_of_nothing_but_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"schema"')
    JsonlSink(path).close()
    assert path.read_bytes() == b""


def test_a_step_told_twice_keeps_the_latest_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(2, {"a": 1.0})
    sink.log(1, {"a": 0.0})
    sink.log(2, {"a": 3.0, "heldout/synthesis": 0.5})
    sink.close()
    assert read_metrics(path) == [{"step": 1, "a": 0.0}, {"step": 2, "a": 3.0, "heldout/synthesis": 0.5}]


@pytest.mark.parametrize(
    "line", ["no json", '{"schema": 2, "step": 1}', '{"schema": 1}', "[1]", '{"schema": 1, "step": 1, "a": "x"}']
)
def test_what_is_no_metrics_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"schema": 1, "step": 1, "a": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match="line 2 is not a line of metrics"):
        read_metrics(path)


def test_lines_past_a_checkpoint_are_cut_and_missing_ones_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    for step in (1, 2):
        sink.log(step, {"a": 1.0})
    at_two = length(path)
    sink.log(3, {"a": 1.0})
    cut_back(path, at_two)
    sink.log(3, {"a": 2.0})  # the sink of a restarted run stays open
    sink.close()
    assert [(row["step"], row["a"]) for row in read_metrics(path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]
    cut_back(path, length(path))
    with pytest.raises(ValueError, match="lines are missing"):
        cut_back(path, 10_000)


@pytest.mark.parametrize("room", [10, 0])
def test_a_line_that_finds_no_room_is_an_error_and_not_a_shorter_line(tmp_path: Path, room: int) -> None:
    """A limit on the size of files stands for a full disk: the system writes what fits, then says no."""
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(1, {"a": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length(path) + room, hard))
    try:
        with pytest.raises(OSError, match="--resume auto") as raised:
            sink.log(2, {"a": 2.0})
        assert raised.value.filename == str(path) and raised.value.errno in MENDABLE_ERRNOS
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sink.close()
    JsonlSink(path).close()  # opens the file as a resumed run does
    assert [row["step"] for row in read_metrics(path)] == [1]
