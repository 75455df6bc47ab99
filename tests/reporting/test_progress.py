from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich.console import Console

from pacore_rl.reporting import progress
from pacore_rl.reporting.progress import ProgressReport, WatchedGenerator
from pacore_rl.types import GenerationRequest, Sampling, Trajectory


def test_in_a_log_there_is_a_line_now_and_then_with_the_time_left() -> None:
    text = StringIO()
    now = 100.0

    def clock() -> float:
        return now

    report = ProgressReport("messages", 40, Console(file=text, width=80), clock=clock)
    for _ in range(40):  # one message a second
        now += 1.0
        report.advance(1)
    lines = [line.strip() for line in text.getvalue().splitlines()]
    assert lines == ["messages 15/40  left 0:25", "messages 30/40  left 0:10"]
    assert progress.LINE_SECONDS == 15.0


@dataclass
class Echo:
    weight_version: int = 4
    context_window_tokens: int = 99

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        for index, request in enumerate(requests):
            yield index, (None,) * request.num_samples  # pyright: ignore[reportReturnType]


def test_a_watched_generator_is_counted_and_its_total_grows_with_what_is_asked() -> None:
    asked: Any = [GenerationRequest(prompt_ids=None, num_samples=n, seed=0) for n in (2, 3)]  # pyright: ignore[reportArgumentType]
    sampling = Sampling(max_response_tokens=1)
    report = ProgressReport("responses", 4, Console(file=StringIO()))
    watched = WatchedGenerator(generator=Echo(), report=report)
    assert [index for index, _ in watched.generate(asked, sampling)] == [0, 1]
    assert (report.done, report.total) == (5, 5)
    list(watched.generate(asked[:1], sampling))
    assert (report.done, report.total) == (7, 7)
    assert (watched.weight_version, watched.context_window_tokens) == (4, 99)


def test_a_note_is_shown_beside_before_anything_is_done() -> None:
    text = StringIO()
    now = 100.0
    report = ProgressReport(
        "problems", 2, Console(file=text, width=80), clock=lambda: now, note=lambda: "1,200 tokens/s"
    )
    for _ in range(20):
        now += 1.0
        report.advance(0)
    report.advance(1)
    assert [line.strip() for line in text.getvalue().splitlines()] == ["problems 0/2  1,200 tokens/s"]
