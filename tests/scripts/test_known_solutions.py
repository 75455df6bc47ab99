"""Known solutions of real problems get the verdict that they deserve: a sample here, all of them by the script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pacore_rl.rewards.code.probe import choose_backend

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("PACORE_DATA", REPOSITORY.parent / "shared" / "data")) / "code"
ADD = "a, b = map(int, input().split())\nprint(a + b)"
TESTS = [{"input": f"{n} 2\n", "output": f"{n + 2}\n"} for n in range(3)]


@pytest.fixture(autouse=True, scope="module")
def sandbox() -> None:
    try:
        choose_backend()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "scripts" / "check_known_solutions.py"
    command = [sys.executable, str(script), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=REPOSITORY, check=False)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no {DATA}; PACORE_DATA names another folder of data")
def test_a_sample_of_real_solutions() -> None:
    done = check(DATA, "--sample=6", "--skip-loops")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("0 surprises, 30 solutions, ")


def test_a_label_that_does_not_hold_is_a_surprise_until_it_is_explained(tmp_path: Path) -> None:
    solutions = [
        {"lang": "python3", "verdict": "accepted", "code": ADD},
        {"lang": "python3", "verdict": "wrong_answer", "code": ADD.replace("+", "*")},
        {"lang": "python3", "verdict": "wrong_answer", "code": ADD, "check": {"verdict_here": "accepted"}},
        {"lang": "python3", "verdict": "accepted", "code": "print(5)", "check": {"verdict_here": "accepted"}},
        {"lang": "java", "verdict": "accepted", "code": "not run"},
    ]
    (tmp_path / "toy.jsonl").write_text(json.dumps({"id": "sum", "tests": TESTS, "solutions": solutions}) + "\n")
    results, exceptions = tmp_path / "results.jsonl", tmp_path / "exceptions.json"
    settings = ("--files", "toy", f"--results={results}", f"--exceptions={exceptions}")

    first = check(tmp_path, *settings, "--limit=2", "--jobs=1")
    assert first.returncode == 1, "two are left over"
    assert len(results.read_text().splitlines()) == 2
    results.open("a").write('{"name": "sum/2')  # as a crash leaves it

    whole = check(tmp_path, *settings, "--write-exceptions")
    assert "SURPRISE toy python wrong, sum/2" in whole.stdout and "SURPRISE toy python right, sum/3" in whole.stdout
    assert whole.stdout.splitlines()[-1].startswith(
        "1 surprises, 4 solutions, 2 as labelled, 1 exceptions, 0 left over"
    )
    ((reason, names),) = json.loads(exceptions.read_text()).items()
    assert names == ["sum/2"] and "full data" in reason
    assert whole.returncode == 1, "nothing explains the other"
