from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacore_rl.spread import CHUNKS_AHEAD, InProcess, Processes, Spread, in_chunks, over_parts


def square(number: int) -> tuple[int, int]:
    if number == 13:
        raise ValueError("13 is refused")
    return number * number, os.getpid()


def copy(source: Path, target: Path) -> int:
    target.write_text(source.read_text().upper())
    return len(source.read_text())


def test_chunks() -> None:
    assert list(in_chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_chunks([], 2)) == []


@pytest.mark.parametrize("spread", [InProcess(), Processes(num_workers=2)])
def test_results_come_in_the_chunks_order_and_no_more_chunks_are_taken_than_needed(spread: Spread) -> None:
    taken: list[int] = []

    def chunks() -> Iterator[int]:
        for number in range(12):
            taken.append(number)
            yield number

    results = spread.map(square, chunks())
    assert next(results)[0] == 0
    assert len(taken) <= CHUNKS_AHEAD * spread.num_workers + 1
    rest = list(results)
    assert [result for result, _ in rest] == [number * number for number in range(1, 12)]
    assert (os.getpid() in {process for _, process in rest}) == isinstance(spread, InProcess)


@pytest.mark.parametrize("spread", [InProcess(), Processes(num_workers=2)])
def test_what_a_call_raises_is_raised(spread: Spread) -> None:
    with pytest.raises(ValueError, match="13 is refused"):
        list(spread.map(square, range(100)))


def test_parts_are_read_from_files_and_written_to_others(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name * 3)
    jobs = [(tmp_path / name, tmp_path / f"{name}.out") for name in "ab"]
    assert list(over_parts(Processes(num_workers=1))(copy, jobs)) == [3, 3]
    assert [target.read_text() for _, target in jobs] == ["AAA", "BBB"]
