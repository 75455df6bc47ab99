"""Every known right solution must pass every test, and every known wrong one must fail at least one.

    python scripts/check_known_solutions.py FOLDER [--files NAME ...] [--sample N] [--seconds S]

Reads JSON Lines of problems with ``tests`` and ``solutions: [{lang, verdict, code, check?}]``. A solution's label is
what happened when it was run on these tests (``check.verdict_here``), or what its jury said where the record marks its
tests as verified. Prints each surprise with its reason, and ends with 1 if there is one that ``EXCEPTIONS`` does not
name.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.machine import num_cores
from pacore_rl.rewards.code.grading import Budget, Grade, grade
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.shapes import suite_of_record
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import TestSuite

FILES = ("code_contests_py", "kattis_packages", "humaneval", "mbpp")
BUDGET = Budget(test_seconds=10.0, submission_seconds=600.0)
EXCEPTIONS: dict[str, str] = {}
"""Solutions by name, and why their label does not hold here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One solution with a label."""

    name: str
    program: Program
    suite: TestSuite
    is_right: bool


def known_solutions(path: Path) -> Iterator[Known]:
    """The labelled solutions of a file that can be run here: Python and C++, judged without a checker of their own."""
    lines = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with lines:
        for record in map(json.loads, lines):
            if record.get("verified") is False or record.get("kind") == "interactive":
                continue
            if str(record.get("checker", "")).startswith("custom"):
                continue
            suite = suite_of_record(record)
            assert suite is not None, record["id"]
            for number, solution in enumerate(record["solutions"]):
                is_right = _label(solution)
                language = {"python3": "python", "cpp": "cpp"}.get(solution["lang"])
                if is_right is None or language is None:
                    continue
                yield Known(
                    name=f"{record['id']}/{solution.get('name', number)}",
                    program=Program(language="cpp" if language == "cpp" else "python", source=solution["code"]),
                    suite=suite,
                    is_right=is_right,
                )


def _label(solution: dict[str, Any]) -> bool | None:
    """Whether it is right on these tests; None where nobody knows, or where it depends on the speed of the machine."""
    here = solution.get("check", {}).get("verdict_here")
    if here is None:
        return (
            True if solution["verdict"] == "accepted" and "check" not in solution and "model" not in solution else None
        )
    if "time_limit_exceeded" in (here, solution["verdict"]):
        return None
    return here == "accepted"


def judge(known: Known, backend: Any) -> tuple[Known, Grade, bool]:
    graded = grade(known.program, known.suite, backend, BUDGET)
    passed = graded.outcome != "failed" and graded.passed == graded.total
    return known, graded, graded.outcome != "failed" and passed == known.is_right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", nargs="*", default=FILES)
    parser.add_argument("--sample", type=int, default=0, help="take this many of each file, at random")
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no solution after this long")
    arguments = parser.parse_args()
    backend = choose_backend()
    started = time.monotonic()
    surprises: list[str] = []
    counts: Counter[str] = Counter()
    for name in arguments.files:
        path = next(iter(sorted(arguments.folder.glob(f"{name}.jsonl*"))), None)
        if path is None:
            raise SystemExit(f"there is no {name}.jsonl or {name}.jsonl.gz in {arguments.folder}")
        solutions = list(known_solutions(path))
        if arguments.sample:
            solutions = random.Random(0).sample(solutions, min(arguments.sample, len(solutions)))
        with ThreadPoolExecutor(num_cores()) as threads:
            for done in as_completed([threads.submit(judge, known, backend) for known in solutions]):
                known, graded, is_as_known = done.result()
                counts[f"{name} {known.program.language} {'right' if known.is_right else 'wrong'}"] += 1
                if not is_as_known:
                    excuse = EXCEPTIONS.get(known.name)
                    line = f"{known.name} ({'right' if known.is_right else 'wrong'}): {graded.outcome}, {graded.reason}"
                    print(f"excused, {excuse}: {line}" if excuse else f"SURPRISE {line}", flush=True)
                    surprises += [] if excuse else [known.name]
                if sum(counts.values()) % 25 == 0:
                    print(f"{sum(counts.values())} solutions, {time.monotonic() - started:.0f} s", flush=True)
                if time.monotonic() - started > arguments.seconds:
                    threads.shutdown(wait=False, cancel_futures=True)
                    break
    for key, number in sorted(counts.items()):
        print(f"{number:6d}  {key}")
    print(
        f"{len(surprises)} surprises, {sum(counts.values())} solutions, {backend}, {time.monotonic() - started:.0f} s"
    )
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
