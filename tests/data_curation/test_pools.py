from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pool_run
import pytest
from pool_run import CONFIG, NUM_PROBLEMS, PROBLEMS, SIZE, ByHash, Scripted, run

from data_curation.pools import fill_pool
from data_curation.proposals import Ask, Proposal
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.pool_shards import ShardedPool, shard_paths
from pacore_rl.synthesis.pools import load_messages, load_messages_of, open_pool, require_same_problems
from pacore_rl.types import Finish, PoolMessage, Problem, Turn, Verdict

NUM_MESSAGES = NUM_PROBLEMS * SIZE
ROOT = Path(__file__).resolve().parents[2]


def records(folder: Path) -> list[bytes]:
    """Every record on disk, in one order: what a copy, a loss or a change would show in."""
    return sorted(line for shard in shard_paths(folder) for line in shard.read_bytes().splitlines(keepends=True))


def size_bytes(folder: Path) -> int:
    return sum(shard.stat().st_size for shard in shard_paths(folder))


def test_killed_at_five_random_moments_and_resumed_equals_a_run_that_was_not(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    whole_bytes = size_bytes(tmp_path / "whole")
    rng, killed = random.Random(0), tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for share in [*sorted(rng.uniform(0.02, 0.8) for _ in range(5)), None]:
        process = subprocess.Popen(
            [sys.executable, pool_run.__file__, str(killed)], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        if share is not None:
            while size_bytes(killed) < share * whole_bytes and process.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))  # about as long as one problem takes, its write included
            process.send_signal(signal.SIGKILL)
        process.stdout.close()
        assert process.wait(60) == (0 if share is None else -signal.SIGKILL)
        assert share is None or size_bytes(killed) < whole_bytes
    assert records(killed) == records(tmp_path / "whole")
    assert len(set(records(killed))) == NUM_MESSAGES
    assert len(shard_paths(killed)) == 4


@pytest.mark.parametrize("seed", range(4))
def test_a_truncated_last_shard_is_redone_and_said(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "pool")
    whole, last = records(tmp_path / "pool"), shard_paths(tmp_path / "pool")[-1]
    content = last.read_bytes()
    cut = random.Random(seed).randrange(1, len(content))
    last.write_bytes(content[:cut])
    with caplog.at_level(logging.WARNING):
        pool = run(tmp_path / "pool")
    is_torn = content[cut - 1 : cut] != b"\n"
    assert (f"{last} ended in a torn record" in caplog.text) == is_torn
    assert records(tmp_path / "pool") == whole and pool.num_messages == NUM_MESSAGES


def test_a_lost_last_shard_is_made_again(tmp_path: Path) -> None:
    run(tmp_path / "pool")
    whole = records(tmp_path / "pool")
    shard_paths(tmp_path / "pool")[-1].unlink()
    run(tmp_path / "pool")
    assert records(tmp_path / "pool") == whole


def test_a_complete_pool_asks_for_nothing(tmp_path: Path) -> None:
    run(tmp_path / "pool")

    class Silent:
        def propose(self, asks: Sequence[Ask]) -> Iterator[tuple[int, tuple[Proposal, ...]]]:
            raise AssertionError(f"{len(asks)} asks")

    pool = ShardedPool.open(tmp_path / "pool")
    fill_pool(pool, PROBLEMS, size=SIZE, model="m", proposer=Silent(), scorer=ByHash(), config=CONFIG)


def test_a_wider_pool_begins_with_the_narrower_one(tmp_path: Path) -> None:
    for name, sizes in (("at once", (9,)), ("in steps", (2, 5, 9))):
        pool = ShardedPool.open(tmp_path / name)
        for size in sizes:
            fill_pool(pool, PROBLEMS[:5], size=size, model="m", proposer=Scripted(), scorer=ByHash(), config=CONFIG)
    assert records(tmp_path / "at once") == records(tmp_path / "in steps")


def test_a_file_and_a_folder_hold_the_same_pool(tmp_path: Path) -> None:
    for path in (tmp_path / "pool.jsonl", tmp_path / "pool"):
        fill_pool(open_pool(path), PROBLEMS[:9], size=4, model="m", proposer=Scripted(), scorer=ByHash(), config=CONFIG)
    file, folder = open_pool(tmp_path / "pool.jsonl"), open_pool(tmp_path / "pool", must_exist=True)
    assert isinstance(file, MessagePool) and isinstance(folder, ShardedPool)
    ids = [problem.id for problem in PROBLEMS[:9]]
    assert load_messages(file.path, ids) == load_messages(folder.path, ids)
    for problem_id in ids:
        assert file.message_accuracy(problem_id) == folder.message_accuracy(problem_id)
        assert folder.num_scored(problem_id) == folder.num_written(problem_id, "m") == 4
    assert folder.num_tokens == 9 * 4 * 64 and set(folder.problem_ids) == set(ids)
    # An existing pool file becomes a shard by its name alone.
    (tmp_path / "moved").mkdir()
    file.path.rename(tmp_path / "moved" / "shard-000000.jsonl")
    assert load_messages(tmp_path / "moved", ids) == load_messages(folder.path, ids)


@pytest.mark.parametrize("name", ["pool.jsonl", "pool"])
@pytest.mark.parametrize(
    "change", [{"ground_truth": "another"}, {"conversation": (Turn(role="user", content="another?"),)}]
)
def test_messages_of_a_problem_that_has_changed_are_refused(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    path = tmp_path / name
    fill_pool(open_pool(path), PROBLEMS[:9], size=4, model="m", proposer=Scripted(), scorer=ByHash(), config=CONFIG)
    require_same_problems(open_pool(path), PROBLEMS[:9])
    assert len(load_messages_of(path, PROBLEMS[:9])["p1"]) == 4
    changed = [*PROBLEMS[:1], replace(PROBLEMS[1], **change), *PROBLEMS[2:9]]
    for check in (lambda: require_same_problems(open_pool(path), changed), lambda: load_messages_of(path, changed)):
        with pytest.raises(ValueError, match=r"messages of 1 problems in .* \(first: p1\)\. Give what has"):
            check()
    # Removed, as it advises, they are written anew.
    for file in [path] if path.is_file() else shard_paths(path):
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(line for line in lines if b'"problem_id":"p1"' not in line))
    fill_pool(open_pool(path), changed, size=4, model="m", proposer=Scripted(), scorer=ByHash(), config=CONFIG)
    assert {message.question for message in load_messages_of(path, changed)["p1"]} == {changed[1].fingerprint}


def test_messages_that_note_no_question_are_taken_as_they_are(tmp_path: Path) -> None:
    """Of releases that noted none, and of other sources."""
    verdict = Verdict(reward=1.0, correct=True, outcome="scored", reason="right")
    message = PoolMessage(problem_id="p0", text="1", finish="stopped", verdict=verdict, num_tokens=1, model="m")
    for path in (tmp_path / "pool.jsonl", tmp_path / "pool"):
        open_pool(path).append([message])
        require_same_problems(open_pool(path), PROBLEMS[:1])
        assert load_messages_of(path, PROBLEMS[:1]) == {"p0": (message,)}


def test_what_could_not_be_scored_is_asked_for_again_with_fresh_samples(tmp_path: Path) -> None:
    class Broken(ByHash):
        def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> pool_run.Done:
            right = super().score(items).verdicts
            return pool_run.Done([replace(one, outcome="sandbox_error") for one in right[:1]] + right[1:])

    pool = ShardedPool.open(tmp_path / "pool")
    for scorer in (Broken(), ByHash()):
        fill_pool(pool, PROBLEMS[:1], size=3, model="m", proposer=Scripted(), scorer=scorer, config=CONFIG)
    texts = [message.text for message in pool.messages(["p0"])["p0"]]
    assert len(texts) == len(set(texts)) == 4 and pool.num_scored("p0") == 3


def test_a_failed_write_ends_the_run_and_keeps_what_is_there(tmp_path: Path) -> None:
    class Full(ShardedPool):
        """A disk that takes three problems."""

        num_written_problems = 0

        def append(self, messages: Sequence[object]) -> None:
            if self.num_written_problems == 3:
                raise OSError(28, "No space left on device")
            self.num_written_problems += 1
            super().append(messages)  # pyright: ignore[reportArgumentType]

    proposer = Scripted(seconds=0.005)
    with pytest.raises(OSError, match="No space left"):
        fill_pool(
            Full.open(tmp_path / "pool"), PROBLEMS, size=2, model="m", proposer=proposer, scorer=ByHash(), config=CONFIG
        )
    assert ShardedPool.open(tmp_path / "pool").num_messages == 6


def test_a_failed_scoring_ends_the_run(tmp_path: Path) -> None:
    class Closed:
        def result(self) -> list[Verdict]:
            raise RuntimeError("the scorer was closed")

    class Away:
        def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Closed:
            return Closed()

    with pytest.raises(RuntimeError, match="was closed"):
        fill_pool(
            ShardedPool.open(tmp_path / "pool"),
            PROBLEMS,
            size=2,
            model="m",
            proposer=Scripted(),
            scorer=Away(),
            config=CONFIG,
        )


def test_folders_that_are_no_pool(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="generate it with `pacore-rl curate pools`"):
        ShardedPool.open(tmp_path, must_exist=True)
    with pytest.raises(ValueError, match="generate it with"):
        load_messages(tmp_path, ["p0"])
    run(tmp_path / "pool")
    shards = shard_paths(tmp_path / "pool")
    copy = tmp_path / "pool" / "shard-000004.jsonl"
    copy.write_bytes(shards[0].read_bytes())
    with pytest.raises(ValueError, match="two shards hold the same message"):
        ShardedPool.open(tmp_path / "pool")
    copy.unlink()
    shards[1].write_bytes(shards[1].read_bytes().replace(b"answer", b"anzwer", 1))
    with pytest.raises(ValueError, match=r"shard-000001.jsonl is damaged at line 1: its content does not match"):
        ShardedPool.open(tmp_path / "pool")
    shards[1].unlink()
    with pytest.raises(ValueError, match=r"has no shard-000001\.jsonl, but shard-000002\.jsonl"):
        ShardedPool.open(tmp_path / "pool")


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first, second = ShardedPool.open(tmp_path / "pool"), ShardedPool.open(tmp_path / "pool")
    fill_pool(first, PROBLEMS[:1], size=2, model="m", proposer=Scripted(), scorer=ByHash(), config=CONFIG)
    with pytest.raises(ValueError, match="another process has changed"):
        fill_pool(second, PROBLEMS[:1], size=2, model="m", proposer=Scripted(), scorer=ByHash(), config=CONFIG)
    assert ShardedPool.open(tmp_path / "pool").num_messages == 2
