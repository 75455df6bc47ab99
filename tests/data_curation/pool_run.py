"""A pool run that is cheap enough to be killed many times: python pool_run.py FOLDER. Also what the tests fake."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_curation.pools import fill_pool
from data_curation.proposals import Ask, Proposal
from pacore_rl.config import Config
from pacore_rl.synthesis.pool_shards import ShardedPool
from pacore_rl.types import Finish, Problem, Turn, Verdict

SIZE = 6
NUM_PROBLEMS = 60
MESSAGES_PER_SHARD = 100
PROBLEMS = tuple(
    Problem(id=f"p{i}", conversation=(Turn(role="user", content=f"question {i}"),), ground_truth="1")
    for i in range(NUM_PROBLEMS)
)
CONFIG = Config.model_validate({"model": {"path": "none"}, "data": {"problems": "none", "pool": "none"}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """Writes what its seed and the sample's index say, and answers asks in an order of its own."""

    seconds: float = 0.0
    """Between two answers."""

    def propose(self, asks: Sequence[Ask]) -> Iterator[tuple[int, tuple[Proposal, ...]]]:
        for index in sorted(range(len(asks)), key=lambda index: hashlib.sha256(f"{index}".encode()).digest()):
            time.sleep(self.seconds)
            ask = asks[index]
            yield (
                index,
                tuple(proposal(ask.seed, i) for i in range(ask.first_sample, ask.first_sample + ask.num_samples)),
            )


def proposal(seed: int, sample: int) -> Proposal:
    digest = hashlib.sha256(f"{seed}|{sample}".encode()).hexdigest()
    return Proposal(text=f"<think>{digest}</think>answer {digest[:8]} é", finish="stopped", num_tokens=len(digest))


@dataclass(frozen=True, slots=True)
class Done:
    verdicts: list[Verdict]

    def result(self) -> list[Verdict]:
        return self.verdicts


class ByHash:
    """A scorer: right or wrong by the message, and never twice in the same time."""

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Done:
        correct = [hashlib.sha256(message.encode()).digest()[0] < 128 for _, message, _ in items]
        return Done(
            [
                Verdict(reward=float(one), correct=one, outcome="scored", reason="", seconds=time.perf_counter())
                for one in correct
            ]
        )


def run(folder: Path, *, seconds: float = 0.0) -> ShardedPool:
    pool = ShardedPool.open(folder, messages_per_shard=MESSAGES_PER_SHARD)
    fill_pool(
        pool,
        PROBLEMS,
        size=SIZE,
        model="m",
        proposer=Scripted(seconds=seconds),
        scorer=ByHash(),
        config=CONFIG,
        problems_per_wave=16,
    )
    return pool


if __name__ == "__main__":
    print("ready", flush=True)
    run(Path(sys.argv[1]), seconds=0.01)
