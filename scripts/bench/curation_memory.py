"""Memory of curation's controller at the size of the paper's raw pool: 700,000 problems, 24 messages each.

    python scripts/bench/curation_memory.py [--problems 700000] [--near-problems 700000]

Measured in this process, as memory that is its own (USS), each part after the one before it:

    problems        a problem file of that many, read by ``load_problems``
    pool counts     what ``ShardedPool`` holds of 24 messages a problem, shard by shard as ``count_shard`` gives it; the
                    messages themselves stay on disk, and are not written here
    stage 1         its selection over these counts
    near-duplicates the index of ``NearDuplicates`` over --near-problems statements, without the rest of its step

Statements are words drawn at random, as long as those of DAPO-Math-17k (233 characters on average). The other side is
a pool whose messages are in memory, as ``MessagePool`` holds them: measured on one shard, and multiplied. ``ratio`` is
the sharded pool's bytes for a problem over that. Target: at most a tenth, and 8 GiB in all.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

from data_curation.duplicates import NearDuplicates
from data_curation.records import Candidate
from data_curation.stages import select_stage1
from pacore_rl.problems import load_problems, save_problems
from pacore_rl.spread import Processes, in_chunks
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.pool_shards import MESSAGES_PER_SHARD, Count, Counts, ShardedPool, count_shard, shard_paths
from pacore_rl.types import PoolMessage, Problem, Turn, Verdict

T = TypeVar("T")
R = TypeVar("R")

MESSAGES = 24
STATEMENT_CHARACTERS = 233
MESSAGE_CHARACTERS = 1_200
TARGET_RATIO = 0.1
TARGET_GIB = 8.0
GIB = 1 << 30
_WORDS = [hashlib.sha256(bytes([i, j])).hexdigest()[: 2 + (i + j) % 9] for i in range(40) for j in range(50)]


def statement(rng: random.Random) -> str:
    num_words = max(12, round(rng.lognormvariate(0, 0.5) * STATEMENT_CHARACTERS / 7.6))
    return " ".join(rng.choices(_WORDS, k=num_words))


def problems(num: int) -> Iterator[Problem]:
    rng = random.Random(0)
    for number in range(num):
        id = hashlib.blake2b(str(number).encode(), digest_size=8).hexdigest()
        yield Problem(id=id, conversation=(Turn(role="user", content=statement(rng)),), ground_truth=str(number))


def shard_counts(ids: list[str], rng: random.Random) -> Counts:
    """What ``count_shard`` gives of a shard with every message of these problems."""
    counts = Counts()
    counts.by_model["model"] = {
        id: Count(
            num_scored=MESSAGES,
            num_correct=rng.randrange(MESSAGES + 1),
            num_tokens=MESSAGES * 30_000 + rng.randrange(10_000),
            next_sample=MESSAGES,
            ids=array("Q", [rng.getrandbits(64) for _ in range(MESSAGES)]),
            question=rng.getrandbits(64),
        )
        for id in ids
    }
    return counts


def messages(id: str, rng: random.Random) -> list[PoolMessage]:
    question = f"{rng.getrandbits(64):016x}"
    return [
        PoolMessage(
            problem_id=id,
            text=" ".join(rng.choices(_WORDS, k=MESSAGE_CHARACTERS // 7)),
            finish="stopped",
            verdict=Verdict(reward=0.0, correct=False, outcome="scored", reason="another number", answer="12"),
            num_tokens=30_000,
            model="model",
            question=question,
        )
        for _ in range(MESSAGES)
    ]


class Gauge:
    """Memory of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self.now()

    def now(self) -> int:
        gc.collect()
        return self._process.memory_full_info().uss

    def since(self) -> int:
        """Bytes since the last call."""
        now = self.now()
        grown, self._before = now - self._before, now
        return grown


def write_problems(task: tuple[Path, int]) -> None:
    path, num = task
    save_problems(path, tuple(problems(num)))


def write_shard(folder: Path) -> None:
    rng, pool = random.Random(1), ShardedPool.open(folder)
    for number in range(MESSAGES_PER_SHARD // MESSAGES):
        pool.append(messages(f"{number:016x}", rng))


def one_shard(folder: Path) -> dict[str, float]:
    """A shard, by problem: its bytes, the memory of its messages in a ``MessagePool``, and the time to count it."""
    (shard,) = shard_paths(folder)
    num, gauge = MESSAGES_PER_SHARD // MESSAGES, Gauge()
    held = MessagePool.open(shard)
    grown, started = gauge.since(), time.perf_counter()
    count_shard(shard)
    assert held.num_messages == num * MESSAGES
    return {
        "bytes_on_disk": shard.stat().st_size / num,
        "count_seconds": time.perf_counter() - started,
        "bytes_in_memory": grown / num,
    }


def apart(function: Callable[[T], R], argument: T) -> R:
    """In a process of its own: memory that it frees would hide what is held here afterwards."""
    return next(Processes(num_workers=1).map(function, [argument]))


def near_duplicates(num: int, gauge: Gauge) -> dict[str, float]:
    index, started = NearDuplicates(similarity=0.85), time.perf_counter()
    for chunk in in_chunks(problems(num), 5_000):
        index([Candidate(problem=problem) for problem in chunk])
    return {"near_gib": gauge.since() / GIB, "near_seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=700_000)
    parser.add_argument("--near-problems", type=int, default=700_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, shards = Path(folder) / "problems.jsonl", Path(folder) / "pool"
        apart(write_problems, (path, options.problems))
        apart(write_shard, shards)
        shard = apart(one_shard, shards)
        gauge = Gauge()
        loaded = load_problems(path)
        parts = {"problems_gib": gauge.since() / GIB}
    rng, pool = random.Random(2), ShardedPool(Path(folder), MESSAGES_PER_SHARD)
    for ids in in_chunks((problem.id for problem in loaded), MESSAGES_PER_SHARD // MESSAGES):
        pool.take(shard_counts(ids, rng))
    parts["counts_gib"] = gauge.since() / GIB
    kept, report = select_stage1(loaded, pool)
    parts["stage1_gib"] = gauge.since() / GIB
    assert report.num_problems == options.problems
    near = near_duplicates(options.near_problems, gauge)
    num_shards = options.problems * MESSAGES / MESSAGES_PER_SHARD
    counts_bytes = parts["counts_gib"] * GIB / options.problems
    ratio, total = counts_bytes / shard["bytes_in_memory"], sum(parts.values())
    near_total = near["near_gib"] * options.problems / max(1, options.near_problems)
    print(
        json.dumps(
            {
                "bench": "curation_memory",
                "ratio": round(ratio, 4),
                "target": TARGET_RATIO,
                "pools_and_stage1_gib": round(total, 2),
                "duplicates_gib": round(near_total, 2),
                "target_gib": TARGET_GIB,
                "met": ratio <= TARGET_RATIO and max(total, near_total) <= TARGET_GIB,
                "problems": options.problems,
                "near_problems": options.near_problems,
                "kept": len(kept),
                "bytes_a_problem": {"counts": round(counts_bytes), "messages": round(shard["bytes_in_memory"])},
                "messages_in_memory_gib": round(shard["bytes_in_memory"] * options.problems / GIB, 1),
                "pool_on_disk_gb": round(shard["bytes_on_disk"] * options.problems / 1e9, 1),
                "count_core_minutes": round(shard["count_seconds"] * num_shards / 60, 1),
            }
            | {name: round(value, 2) for name, value in (parts | near).items()}
        )
    )


if __name__ == "__main__":
    main()
