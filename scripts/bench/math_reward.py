"""Verifications per second and core of mathematical answers, ours beside plain math-verify, alternating in one run.

    python scripts/bench/math_reward.py [--data FOLDER] [--answers 400] [--rounds 3]

Answers are those of real problem files under FOLDER (``*.jsonl`` and ``*.jsonl.gz`` with ``answer``), or those of the
tests' cases. Each ground truth meets itself in another spelling and the answers of seven others, as the distinct
answers to one problem do in training. Both sides run in one process on the same pairs, taking turns at being first,
after a round that does not count (the parser's tables fill for thousands of answers). Seconds are CPU time. The target
is a ratio of 2.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pacore_rl.rewards import maths
from pacore_rl.rewards.checker_process import WARM_UP, answer_question
from pacore_rl.types import Verdict

TARGET = 2.0
CPU_SECONDS = 2.0
ANSWERS_PER_PROBLEM = 8
"""The responses to one problem come together; distinct ones, since equal ones are judged once."""
CASES = Path(__file__).parents[2] / "tests" / "rewards"

Pair = tuple[str, str]
"""An answer and a ground truth."""


def ours(answer: str, ground_truth: str) -> bool:
    """What a scorer's thread and its checker do, without the socket between them."""
    settled = maths.settle(f"So the answer is \\boxed{{{answer}}}.", ground_truth)
    if isinstance(settled, Verdict):
        return settled.correct
    question = {"answer": settled.answer, "ground_truth": settled.ground_truth, "cpu_seconds": CPU_SECONDS}
    return answer_question(question)["outcome"] == "equal"


def plain(answer: str, ground_truth: str) -> bool:
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]

    return bool(verify(parse(f"\\boxed{{{ground_truth}}}"), parse(f"So the answer is \\boxed{{{answer}}}.")))


def read_pairs(folder: Path | None, count: int, rng: random.Random) -> tuple[list[Pair], str]:
    truths = _real_answers(folder) if folder is not None and folder.is_dir() else []
    if not truths:
        sys.path.insert(0, str(CASES))
        from maths_cases import CASES as cases  # type: ignore[import-not-found]

        pairs = [(answer, case.ground_truth) for case in cases for answer in (*case.right, *case.wrong)]
        return rng.sample(pairs, min(count, len(pairs))), "tests/rewards/maths_cases.py"
    pairs: list[Pair] = []
    while len(pairs) < count:
        truth = rng.choice(truths)
        pairs += [(_respelled(truth), truth), *((rng.choice(truths), truth) for _ in range(ANSWERS_PER_PROBLEM - 1))]
    return pairs, str(folder)


def _real_answers(folder: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(folder.rglob("*.jsonl*")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            found += [str(record["answer"]) for record in map(json.loads, lines) if record.get("answer")]
    return found


def _respelled(truth: str) -> str:
    """As a model may write it: with display fractions and spaces around signs."""
    return truth.replace("\\frac", "\\dfrac").replace("+", " + ").replace(",", ", ")


def measured(verify: Callable[[str, str], bool], pairs: list[Pair], seconds: list[float]) -> int:
    """Appends the CPU seconds of each pair; returns the number of yeses."""
    yeses = 0
    for pair in pairs:
        started = time.process_time()
        yeses += verify(*pair)
        seconds.append(time.process_time() - started)
    return yeses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of problem files; without it, the tests' cases")
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    pairs, origin = read_pairs(options.data, options.answers, random.Random(0))
    for pair in WARM_UP:
        ours(*pair)
        plain(*pair)
    size = -(-len(pairs) // (options.rounds + 1))
    for pair in pairs[:size]:
        ours(*pair)
        plain(*pair)
    pairs = pairs[size:]
    our_seconds: list[float] = []
    plain_seconds: list[float] = []
    yeses = [0, 0]
    ratios: list[float] = []
    for start in range(0, len(pairs), size):  # alternating: a change of the machine's speed meets both
        part = pairs[start : start + size]
        sides = [(0, ours, our_seconds), (1, plain, plain_seconds)]
        for side, verify, seconds in sides if len(ratios) % 2 == 0 else reversed(sides):  # the parser's tables warm up
            yeses[side] += measured(verify, part, seconds)
        ratios.append(sum(plain_seconds[start:]) / sum(our_seconds[start:]))
        print(f"{len(part)} pairs: {sum(our_seconds[start:]):.2f} s ours, {sum(plain_seconds[start:]):.2f} s plain")
    ratio = sum(plain_seconds) / sum(our_seconds)
    result = {
        "bench": "math_reward",
        "ratio": round(ratio, 2),
        "target": TARGET,
        "met": ratio >= TARGET,
        "ratio_of_rounds": [round(part, 2) for part in ratios],
        "verifications_per_second_per_core": {
            "ours": round(len(pairs) / sum(our_seconds)),
            "plain": round(len(pairs) / sum(plain_seconds)),
        },
        "p99_ms": {
            name: round(1000 * statistics.quantiles(seconds, n=100)[98], 1)
            for name, seconds in (("ours", our_seconds), ("plain", plain_seconds))
        },
        "yeses": {"ours": yeses[0], "plain": yeses[1]},
        "answers": len(pairs),
        "origin": Path(origin).name,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
