"""Speed of decontamination at 100,000 synthetic problems against 5,000 evaluation items, and whether leaks are found.

Planted are verbatim copies, copies with other digits, and 64 words of an evaluation item within a longer text; all must
be found, and none of 1,000 clean problems that resemble them lost. The other side of the ratio is the plain way, sets
of masked texts and n-grams as texts, on a share of the problems, in the same run.

    python scripts/bench/decontamination.py [--problems 100000] [--evaluation 5000]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Sequence

from data_curation.decontamination import build_index
from data_curation.normal_text import masked_words, normal_words
from pacore_rl.types import Problem, Turn

PAPER_PROBLEMS = 717_000
"""695k + 8.4k + 13.4k (Appendix C)."""
TARGET_SECONDS = 600.0
"""For the paper's number: minutes."""
_WORDS = 20_000
_TOGETHER = 5000
_PLAIN_SHARE = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--evaluation", type=int, default=5000)
    parser.add_argument("--size", type=int, default=64, help="words in a row")
    arguments = parser.parse_args()
    rng = random.Random(0)
    vocabulary = [_word(rng) for _ in range(_WORDS)]
    evaluation = [_text(rng, vocabulary, rng.randint(80, 200)) for _ in range(arguments.evaluation)]
    planted, clean = plant(rng, vocabulary, evaluation, arguments.size)
    filler = [
        _text(rng, vocabulary, rng.randint(30, 160)) for _ in range(arguments.problems - len(planted) - len(clean))
    ]
    texts = planted + clean + filler

    started = time.perf_counter()
    index = build_index([_problem(i, text) for i, text in enumerate(evaluation)], size=arguments.size)
    build_seconds = time.perf_counter() - started
    started = time.perf_counter()
    found: list[str | None] = []
    for start in range(0, len(texts), _TOGETHER):
        found += index.find(texts[start : start + _TOGETHER])
    seconds = time.perf_counter() - started
    plain_seconds = _plain(evaluation, texts[::_PLAIN_SHARE], arguments.size) * _PLAIN_SHARE

    rate = len(texts) / seconds
    num_found = sum(reason is not None for reason in found[: len(planted)])
    num_lost = sum(reason is not None for reason in found[len(planted) :])
    projected = PAPER_PROBLEMS / rate + build_seconds
    met = projected <= TARGET_SECONDS and num_found == len(planted) and num_lost == 0
    print(f"index of {len(evaluation):,} items: {build_seconds:.2f} s, {index.num_bytes / 1e6:.1f} MB")
    print(f"{len(texts):,} problems: {seconds:.1f} s, {rate:,.0f} a second; {PAPER_PROBLEMS:,}: {projected:.0f} s")
    print(f"planted leaks found: {num_found} of {len(planted)}; clean problems lost: {num_lost}")
    result = {
        "bench": "decontamination",
        "ratio": round(plain_seconds / seconds, 2),
        "target": f"{PAPER_PROBLEMS} problems in {TARGET_SECONDS:.0f} s, every leak found, no clean problem lost",
        "met": met,
        "problems": len(texts),
        "evaluation_items": len(evaluation),
        "problems_per_second": round(rate),
        "projected_seconds": round(projected, 1),
        "build_seconds": round(build_seconds, 2),
        "plain_seconds": round(plain_seconds, 1),
        "index_megabytes": round(index.num_bytes / 1e6, 1),
        "planted": len(planted),
        "found": num_found,
        "clean_lost": num_lost,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(result))


def plant(
    rng: random.Random, vocabulary: Sequence[str], evaluation: Sequence[str], size: int, *, num_each: int = 100
) -> tuple[list[str], list[str]]:
    """Leaks of three kinds, ``num_each`` of each, and ten times as many clean texts that resemble evaluation items."""
    leaks: list[str] = []
    for text in rng.sample(list(evaluation), num_each):
        leaks.append(text.upper().replace("$", " "))
        leaks.append("".join(rng.choice("123456789") if sign.isdigit() else sign for sign in text))
        words = text.split(" ")
        start = rng.randrange(len(words) - size)
        inside = " ".join(words[start : start + size + 1])
        leaks.append(f"{_text(rng, vocabulary, 40)} {inside} {_text(rng, vocabulary, 40)}")
    clean: list[str] = []
    for text in rng.choices(list(evaluation), k=10 * num_each):
        words = text.split(" ")
        for i in range(rng.randrange(size // 2), len(words), size // 2):  # a word changed in every half window
            words[i] = rng.choice(vocabulary) + "x"
        clean.append(" ".join(words))
    return leaks, clean


def _plain(evaluation: Sequence[str], texts: Sequence[str], size: int) -> float:
    """Seconds of the same two checks the plain way: masked texts and n-grams as texts, in sets."""
    masked = {" ".join(masked_words(normal_words(text))) for text in evaluation}
    grams = {gram for text in evaluation for gram in _grams(normal_words(text), size)}
    started = time.perf_counter()
    for text in texts:
        words = normal_words(text)
        _ = " ".join(masked_words(words)) in masked or any(gram in grams for gram in _grams(words, size))
    return time.perf_counter() - started


def _grams(words: Sequence[str], size: int) -> list[str]:
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def _problem(number: int, text: str) -> Problem:
    return Problem(id=f"evaluation-{number}", conversation=(Turn(role="user", content=text),), ground_truth="1")


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 9)))


def _text(rng: random.Random, vocabulary: Sequence[str], num: int) -> str:
    words = rng.choices(vocabulary, k=num)
    for i in range(0, num, 9):
        words[i] = str(rng.randint(2, 9999))
    return " ".join(words)


if __name__ == "__main__":
    main()
