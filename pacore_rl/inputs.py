"""Problems, pools and models as the commands read them: checked before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pacore_rl.config import RewardConfig
from pacore_rl.problems import load_problems
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.synthesis.pool_shards import load_messages
from pacore_rl.types import PoolMessage, Problem


def load_checked_problems(path: Path, reward: RewardConfig) -> tuple[Problem, ...]:
    """Problems whose ground truth their own reward accepts.

    Raises:
        ValueError: the file is missing or corrupt, or a ground truth does not verify against itself.
    """
    problems = load_problems(path)
    if not problems:
        raise ValueError(f"{path} holds no problems; check the path, or loosen the filter that wrote it.")
    bad = check_ground_truths(problems, reward)
    if bad:
        listing = "\n".join(f"  {problem.id}: {problem.ground_truth[:80]!r}: {reason}" for problem, reason in bad[:8])
        raise ValueError(
            f"{len(bad)} of {len(problems)} problems in {path} have a ground truth that their reward cannot verify:\n"
            f"{listing}\nCorrect or remove them, or give them another reward."
        )
    return problems


def load_pool(path: Path, problems: Sequence[Problem]) -> dict[str, tuple[PoolMessage, ...]]:
    """The pool of the problems, a file or a folder of shards, as a mapping by problem id.

    Raises:
        ValueError: the pool is missing or corrupt, or a problem has no message in it.
    """
    messages = load_messages(path, [problem.id for problem in problems])
    without = [problem_id for problem_id, found in messages.items() if not found]
    if without:
        raise ValueError(
            f"{len(without)} of {len(problems)} problems have no message in {path} (first: {without[0]}); run "
            f"`pacore-rl pool` on the same problem file with --out {path}, which adds what is missing."
        )
    return messages


def fingerprint(model_path: str) -> str:
    """A short name of the weights: the folder's name and a hash of its weight files.

    A hub id names itself.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        return model_path
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        digest.update(file.name.encode() + str(file.stat().st_size).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"{folder.name}-{digest.hexdigest()[:12]}"
