"""Steps of curation by themselves: how far a slow one is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from test_judge_filter import YES, candidate, judge

from data_curation import steps
from data_curation.records import Candidate, Progress, Sifted, unwatched
from data_curation.steps import filter_step, read_step
from pacore_rl.reporting.progress import ProgressReport


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(unit, done, total) of every report, as it advances."""
    seen: list[tuple[str, int, int]] = []

    class Watched(ProgressReport):
        def advance(self, num: int) -> None:
            super().advance(num)
            seen.append((self._unit, self.done, self.total))

    monkeypatch.setattr(steps, "ProgressReport", Watched)
    return seen


class Halting:
    """Looks at every second candidate only."""

    name = "halting"

    def __init__(self) -> None:
        self.on_progress: Progress = unwatched

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        num = len(candidates) // 2
        for done in range(1, num + 1):
            self.on_progress(done, num)
        return Sifted(kept=tuple(candidates), drops=())


def test_a_slow_filter_is_followed_within_its_parts(tmp_path: Path, reached: list[tuple[str, int, int]]) -> None:
    read = read_step(
        tmp_path, lambda: (candidate(f"p{number}") for number in range(6)), settings=None, records_per_part=4
    )
    reached.clear()
    filter_step(tmp_path, read, 2, Halting(), settings=None)
    unit = "halting: problems"
    assert reached == [(unit, 2, 6), (unit, 4, 6), (unit, 4, 6), (unit, 6, 6), (unit, 6, 6)]


def test_a_part_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """As the message about a damaged one advises."""

    def run() -> list[str]:
        records = [candidate(f"p{number}") for number in range(6)]
        read = read_step(tmp_path, lambda: iter(records), settings=None, records_per_part=2)
        return [one.id for one in filter_step(tmp_path, read, 2, Halting(), settings=None).candidates()]

    everything = run()
    assert len(everything) == 6
    for folder in ("1_read", "2_halting"):
        (part,) = tmp_path.glob(f"{folder}/part-*1.parquet")
        part.unlink()
        assert run() == everything and part.is_file()


def test_a_judge_tells_each_ballot(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    filter, _ = judge(tmp_path, lambda _prompt, _seed: YES)
    filter.on_progress = lambda done, total: told.append((done, total))
    filter([candidate("a"), candidate("b", reward="code"), candidate("c")])
    assert told == [(1, 2), (2, 2)]
