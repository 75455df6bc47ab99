"""What ``pacore-rl infer`` shows while it works: tokens a second, open calls, and the time left."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from scripted_server import Script, in_thread

from pacore_rl.inference.batch import _Rate
from pacore_rl.inference.client import Client
from pacore_rl.inference.settings import Endpoint
from pacore_rl.reporting.progress import ProgressReport

REPOSITORY = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def idle_client() -> Client:
    return Client([Endpoint.of(f"http://127.0.0.1:{port}/v1") for port in (1, 2)])


def test_the_rate_is_of_the_latest_second_and_not_of_the_whole_run() -> None:
    client, clock = idle_client(), Clock()
    rate = _Rate(client, clock=clock)
    assert rate.note() == "0 tokens/s  0 calls open"

    def after(seconds: float, num_pieces: int) -> str:
        clock.now += seconds
        client.counters.num_pieces += num_pieces
        return rate.note().partition("  ")[0]

    assert after(0.5, 600) == "0 tokens/s"  # too short to judge by
    assert after(0.5, 600) == "1,200 tokens/s"  # 1,200 in one second
    assert after(0.25, 4_000) == "1,200 tokens/s"  # as before, until a second has passed
    assert after(1.75, 0) == "2,000 tokens/s"  # 4,000 in two; of the whole run it would be 1,733
    assert after(2.0, 100) == "50 tokens/s"
    assert after(10.0, 0) == "0 tokens/s"  # what came long ago counts no more


async def test_open_calls_are_those_of_all_endpoints() -> None:
    client = idle_client()
    rate = _Rate(client)
    first, second = client.replicas
    async with first.slots.slot(), second.slots.slot(), second.slots.slot():
        assert rate.note() == "0 tokens/s  3 calls open"
    assert rate.note() == "0 tokens/s  0 calls open"


def test_a_log_has_the_rate_and_the_time_left() -> None:
    client, clock, text = idle_client(), Clock(), StringIO()
    rate = _Rate(client, clock=clock)
    with ProgressReport("problems", 4, Console(file=text, width=100), clock=clock, note=rate.note) as report:
        for second in range(1, 41):  # 30 tokens a second, then 50; a problem ends after 16 s and after 24 s
            clock.now += 1.0
            client.counters.num_pieces += 30 if second <= 20 else 50
            report.advance(1 if second in (16, 24) else 0)
    lines = [line.strip() for line in text.getvalue().splitlines()]
    # A line every 15 s. After 30 s two of four are done: as long again is left. The rate is of the time between lines.
    assert lines == ["problems 0/4  30 tokens/s  0 calls open", "problems 2/4  left 0:30  43 tokens/s  0 calls open"]


def test_a_terminal_shows_it_while_no_problem_has_ended(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "a", "prompt": "1 + 1?"}\n{"id": "b", "prompt": "2 + 2?"}\n')

    def slow(request: dict[str, Any], number: int) -> Script:
        return Script(content="</think>" + "word " * 20, piece_seconds=0.05)  # 36 pieces at 20 a second

    with in_thread(slow) as server:
        command = [sys.executable, "-m", "pacore_rl", "infer", "q.jsonl", "--endpoint", server.url, "--level", "4"]
        ours, theirs = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "200"}
        process = subprocess.Popen(
            [*command, "-o", "a.jsonl"], cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end of a terminal whose process has gone
            while data := os.read(ours, 65_536):
                shown += data
        os.close(ours)
        assert process.wait(60) == 0, shown.decode(errors="replace")
    states = re.findall(
        r"problems .* (\d)/2 .* left \S+ (\d+) tokens/s +(\d) calls open", plain(shown.decode(errors="replace"))
    )
    before = [(int(rate), int(num_open)) for done, rate, num_open in states if done == "0"]
    assert max(num_open for _, num_open in before) == 8  # two problems of four samples
    assert 0 < max(rate for rate, _ in before) <= 8 * 20 * 1.1


def plain(text: str) -> str:
    """Without the sequences that colour it and move the cursor; every drawing of the bar on a line of its own."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r", "\n"))
