"""Cost of a test in the sandbox, beside a bare subprocess in the same run; and how long a step's programs take.

    python scripts/bench/sandbox.py [--seconds 3]
    python scripts/bench/sandbox.py --step [--problems 16 --responses 64 --tests 20]

The first reports ms per test and tests per second and core at 1, 10 and 50 tests a submission. The second scores a
whole step of which a tenth of the programs loop for ever, on all cores. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pacore_rl.config import RewardConfig
from pacore_rl.machine import num_cores
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.grading import grade
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import TestCase, TestSuite
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Finish, Problem, Turn

TARGET_MS = 10.0
SOURCE = "a, b = map(int, input().split())\nprint(a + b)\n"
COUNTS = (1, 10, 50)
BUSY = 0.9
"""Share of the cores' time that a step's scoring should use."""


def suite(num_tests: int, offset: int = 0) -> TestSuite:
    cases = (TestCase(input=f"{n + offset} {n}\n", output=f"{2 * n + offset}\n") for n in range(num_tests))
    return TestSuite(tests=tuple(cases))


def ms_per_test(run: Callable[[], None], num_tests: int, seconds: float) -> float:
    """The median over runs, so that a moment in which the machine did something else does not count."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return 1000 * sorted(times)[len(times) // 2] / num_tests


def in_sandbox(backend: Backend, num_tests: int) -> Callable[[], None]:
    tests, program = suite(num_tests), Program(language="python", source=SOURCE)

    def run() -> None:
        graded = grade(program, tests, backend)
        assert graded.passed == num_tests, graded.reason

    return run


def idle_core_seconds() -> float:
    """CPU time that this machine's cores have spent idle since it started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def in_bare_processes(num_tests: int) -> Callable[[], None]:
    command = [sys.executable, "-I", "-S", "-c", SOURCE]

    def run() -> None:
        for case in suite(num_tests).tests:
            ran = subprocess.run(command, input=case.input.encode(), capture_output=True, check=True)
            assert ran.stdout.decode() == case.output

    return run


def bench_tests(seconds: float) -> dict[str, object]:
    backend = choose_backend()
    in_sandbox(backend, 1)()
    measured: dict[int, tuple[float, float]] = {}
    for count in COUNTS:
        sandboxed = ms_per_test(in_sandbox(backend, count), count, seconds)
        bare = ms_per_test(in_bare_processes(count), count, seconds)
        measured[count] = sandboxed, bare
        print(
            f"{count:3d} tests a submission: {sandboxed:7.2f} ms a test ({1000 / sandboxed:5.0f} tests/s and core) in "
            f"{backend}, {bare:7.2f} ms in bare subprocesses",
            flush=True,
        )
    sandboxed, bare = measured[COUNTS[-1]]
    return {
        "bench": "sandbox",
        "backend": backend,
        "ms_per_test": round(sandboxed, 2),
        "ms_per_test_by_count": {str(count): round(pair[0], 2) for count, pair in measured.items()},
        "bare_ms_per_test": round(bare, 2),
        "bare_ms_per_test_by_count": {str(count): round(pair[1], 2) for count, pair in measured.items()},
        "tests_per_second_by_count": {str(count): round(1000 / pair[0], 1) for count, pair in measured.items()},
        "ratio": round(sandboxed / bare, 3),
        "load_average": round(os.getloadavg()[0], 1),
        "target": f"< {TARGET_MS:g} ms a test at {COUNTS[-1]}",
        "met": sandboxed < TARGET_MS,
    }


def bench_step(num_problems: int, num_responses: int, num_tests: int) -> dict[str, object]:
    backend = choose_backend()
    turns = (Turn(role="user", content="?"),)
    problems = [
        Problem(id=f"p{n}", conversation=turns, ground_truth=suite(num_tests, n).to_json(), reward="code")
        for n in range(num_problems)
    ]
    items: list[tuple[Problem, str, Finish]] = []
    for problem in problems:
        for number in range(num_responses):
            loops = "while True: pass\n" if number % 10 == 0 else ""
            # A comment tells the programs apart: equal ones would be scored once.
            items.append((problem, f"```python\n# {number}\n{SOURCE}{loops}```", "stopped"))
    config = RewardConfig(num_workers=num_cores(), code_test_seconds=1.0, code_submission_seconds=20.0)
    scorer = LocalScorer(config, "")
    try:
        scorer.score([(problems[0], f"```python\n{SOURCE}```", "stopped")]).result()  # the probe and the stage
        started, idle = time.perf_counter(), idle_core_seconds()
        verdicts = scorer.score(items).result()
        seconds, idle = time.perf_counter() - started, idle_core_seconds() - idle
    finally:
        scorer.close()
    num_right = sum(verdict.correct for verdict in verdicts)
    num_looping = sum(number % 10 == 0 for number in range(num_responses)) * num_problems
    failures = sum(verdict.outcome == "sandbox_error" for verdict in verdicts)
    looping_seconds = sorted(verdict.seconds for verdict in verdicts if not verdict.correct)
    busy = 1 - idle / (seconds * (os.cpu_count() or 1))
    print(f"{len(items)} programs, {num_looping} of them looping, {num_tests} tests each: {seconds:.1f} s", flush=True)
    return {
        "bench": "sandbox_step",
        "backend": backend,
        "num_cores": num_cores(),
        "num_programs": len(items),
        "num_looping": num_looping,
        "seconds": round(seconds, 1),
        "ratio": round(busy, 3),
        "busy_share_of_cores": round(busy, 3),
        "longest_looping_seconds": round(looping_seconds[-1], 1) if looping_seconds else 0.0,
        "median_looping_seconds": round(looping_seconds[len(looping_seconds) // 2], 1) if looping_seconds else 0.0,
        "num_failed_by_us": failures,
        "load_average": round(os.getloadavg()[0], 1),
        "target": f"right ones right, looping ones stopped by their budget, no failure of ours, cores > {BUSY:g} busy",
        "met": num_right == len(items) - num_looping and failures == 0 and busy > BUSY,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--step", action="store_true", help="score a whole step instead")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--tests", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.step:
        result = bench_step(arguments.problems, arguments.responses, arguments.tests)
    else:
        result = bench_tests(arguments.seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
