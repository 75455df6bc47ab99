"""Every case of ``maths_cases`` gets its right verdict; math-verify alone errs where the cases say so."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from maths_cases import CASES, RESPONSES, Case
from reward_helpers import boxed, problem

from pacore_rl.config_rewards import RewardConfig
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Verdict

NUM_PLAIN = 60
"""Of the answers on which plain math-verify errs, as many are tried: it is slow."""
Verdicts = dict[tuple[str, str], Verdict]


@pytest.fixture(scope="module")
def patient() -> Iterator[LocalScorer]:
    """Of these answers none may take long, but the machine may: which of them end in time is no question here."""
    scorer = LocalScorer(RewardConfig(timeout_seconds=30), "</think>")
    yield scorer
    scorer.close()


@pytest.fixture(scope="module")
def verdicts(patient: LocalScorer) -> Verdicts:
    """All of them, asked at once."""
    keys = [(case.ground_truth, answer) for case in CASES for answer in (*case.right, *case.wrong)]
    items = [(problem(ground_truth), boxed(answer), "stopped") for ground_truth, answer in keys]
    return dict(zip(keys, patient.score(items).result(), strict=True))  # type: ignore[arg-type]


def test_there_are_many() -> None:
    assert sum(len(case.right) for case in CASES) >= 400
    assert sum(len(case.wrong) for case in CASES) >= 400


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.topic}-{case.ground_truth[:24]}")
def test_case(case: Case, verdicts: Verdicts) -> None:
    misjudged = {
        answer: verdict.reason
        for answers, reward in ((case.right, 1.0), (case.wrong, 0.0))
        for answer in answers
        for verdict in [verdicts[case.ground_truth, answer]]
        if (verdict.reward, verdict.correct, verdict.outcome) != (reward, reward == 1.0, "scored")
    }
    assert not misjudged


@pytest.mark.parametrize(("response", "ground_truth", "reward", "outcome"), RESPONSES)
def test_response(patient: LocalScorer, response: str, ground_truth: str, reward: float, outcome: str) -> None:
    verdict = patient.score([(problem(ground_truth), response, "stopped")]).result()[0]
    assert (verdict.reward, verdict.outcome) == (reward, outcome), verdict.reason


def test_plain_math_verify_errs_where_the_cases_say_so() -> None:
    """In a process of its own: its time limits are signals, which want a main thread."""
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def _plain_verdict(ground_truth: str, answer: str) -> bool:
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]

    return bool(verify(parse(f"\\boxed{{{ground_truth.strip('$')}}}"), parse(f"So the answer is \\boxed{{{answer}}}.")))


def _main() -> int:
    logging.disable(logging.CRITICAL)
    listed = [(case, answer) for case in CASES for answer in case.plain_errs_on]
    sampled = random.Random(0).sample(listed, min(len(listed), NUM_PLAIN))
    wrongly_listed = [
        (case.ground_truth, answer)
        for case, answer in sampled
        if _plain_verdict(case.ground_truth, answer) == (answer in case.right)
    ]
    print(*wrongly_listed, sep="\n")
    return len(wrongly_listed)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(_main())
