"""Problems, pools and models as the commands read them: checked before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pacore_rl.append_log import KeyedLog
from pacore_rl.config import Config, DataConfig, RewardConfig
from pacore_rl.problems import load_problems
from pacore_rl.reporting.progress import ProgressReport
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.registry import reward_of
from pacore_rl.rewards.scorer import open_scorer
from pacore_rl.synthesis.pools import load_messages, load_messages_of
from pacore_rl.training_sets import NOT_SCORED, TrainingSet, load_training_set, training_files
from pacore_rl.types import Finish, PoolMessage, Problem, Verdict

_SCORED_TOGETHER = 4096
MESSAGE_VERDICTS = "message_verdicts.jsonl"
"""In the run's folder: verdicts of messages that their set had none of."""


def load_checked_problems(path: Path, reward: RewardConfig) -> tuple[Problem, ...]:
    """Problems whose ground truth their own reward accepts.

    Raises:
        ValueError: the file is missing or corrupt, or a ground truth does not verify against itself.
    """
    problems = load_problems(path)
    if not problems:
        raise ValueError(f"{path} holds no problems; check the path, or loosen the filter that wrote it.")
    _check(problems, reward, path)
    return problems


def _check(problems: Sequence[Problem], reward: RewardConfig, path: Path) -> None:
    bad = check_ground_truths(problems, reward)
    if bad:
        listing = "\n".join(f"  {problem.id}: {problem.ground_truth[:80]!r}: {reason}" for problem, reason in bad[:8])
        raise ValueError(
            f"{len(bad)} of {len(problems)} problems in {path} have a ground truth that their reward cannot verify:\n"
            f"{listing}\nCorrect or remove them, or give them another reward."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What a run trains on."""

    problems: tuple[Problem, ...]
    pool: Mapping[str, Sequence[PoolMessage]]
    """By problem id; empty for plain RLVR."""
    new_verdicts: tuple[tuple[Sequence[str], Mapping[str, Any]], ...] = ()
    """Of messages that came without one, for ``keep_verdicts``."""


def data_files(data: DataConfig) -> list[Path]:
    """The files, or the folder, that a run's training data is read from."""
    if data.path is not None:
        return [data.path]
    return [path for path in (data.problems, data.pool) if path is not None]


def data_is_there(data: DataConfig) -> bool:
    """Whether all of it exists."""
    if data.path is not None:
        return bool(training_files(data.path))
    return all(path.exists() for path in data_files(data))


def read_problems(data: DataConfig) -> tuple[Problem, ...]:
    """The problems of a run without any check of their ground truths."""
    if data.path is not None:
        return load_training_set(data.path).problems
    assert data.problems is not None, "the configuration asks for one of the two"
    return load_problems(data.problems)


def read_messages(data: DataConfig, problem_ids: Collection[str]) -> Mapping[str, Sequence[PoolMessage]]:
    """The messages of some of its problems, unscored ones as they are; empty for plain RLVR."""
    if data.path is not None:
        messages = load_training_set(data.path).messages
        return {problem_id: messages.get(problem_id, ()) for problem_id in problem_ids}
    return load_messages(data.pool, problem_ids) if data.pool else {}


def load_training_data(config: Config) -> TrainingData:
    """Problems whose ground truths verify against themselves, and their scored messages.

    Raises:
        ValueError: a file is missing or corrupt, a ground truth cannot be verified, or a problem has no message.
    """
    data = config.data
    if data.path is None:
        assert data.problems is not None, "the configuration asks for one of the two"
        problems = load_checked_problems(data.problems, config.reward)
        return TrainingData(problems=problems, pool=load_pool(data.pool, problems) if data.pool else {})
    found = load_training_set(data.path)
    _check(found.problems, config.reward, data.path)
    without = [problem.id for problem in found.problems if problem.id not in found.messages]
    if without and config.synthesis.max_messages:
        raise ValueError(
            f"{len(without)} of {len(found.problems)} problems in {data.path} have no message (first: {without[0]}); "
            "write the set anew with `pacore-rl curate stage1`, or train without messages (synthesis.max_messages=0)."
        )
    return _scored(found, config)


def keep_verdicts(config: Config, data: TrainingData) -> None:
    """Put the verdicts of messages that came without one into the run's folder: its next start does not score them
    again. To be called by the one process that works in the folder."""
    KeyedLog.open(config.run_dir / MESSAGE_VERDICTS).put_all([(key, dict(value)) for key, value in data.new_verdicts])


def _scored(found: TrainingSet, config: Config) -> TrainingData:
    """The messages; those that came without a verdict are scored, as an answer of the model would be.

    Not kept are failures of ours, and verdicts of the user's own functions, which may have changed.
    """
    by_id = {problem.id: problem for problem in found.problems}
    bare = [
        (by_id[problem_id], message)
        for problem_id, messages in found.messages.items()
        for message in messages
        if message.verdict is NOT_SCORED
    ]
    if not bare:
        return TrainingData(problems=found.problems, pool=found.messages)
    kept = KeyedLog.open(config.run_dir / MESSAGE_VERDICTS)
    rules = config.reward.model_dump_json(exclude={"num_workers", "placement"})
    names = [config.reward.custom.name or problem.reward for problem, _ in bare]
    keys = [
        [name, _context(name, problem), problem.ground_truth, message.text, message.finish, rules]
        for name, (problem, message) in zip(names, bare, strict=True)
    ]
    new: list[tuple[Sequence[str], Mapping[str, Any]]] = []
    verdicts = [None if (value := kept.get(key)) is None else Verdict(**value) for key in keys]
    left = [number for number, verdict in enumerate(verdicts) if verdict is None]
    with open_scorer(config.reward) as scorer, ProgressReport("messages scored", len(left)) as report:
        for start in range(0, len(left), _SCORED_TOGETHER):
            batch = left[start : start + _SCORED_TOGETHER]
            items: list[tuple[Problem, str, Finish]] = [(p, m.text, m.finish) for p, m in (bare[i] for i in batch)]
            came = dict(zip(batch, scorer.score(items).result(), strict=True))
            for number, verdict in came.items():
                verdicts[number] = verdict
                if ":" not in names[number] and not verdict.outcome.endswith("_error"):
                    new.append((keys[number], asdict(verdict)))
            report.advance(len(batch))
    following = iter(verdicts)

    def scored(message: PoolMessage) -> PoolMessage:
        if message.verdict is not NOT_SCORED:
            return message
        verdict = next(following)
        assert verdict is not None, "every message was scored"
        return replace(message, verdict=verdict)

    pool = {problem_id: tuple(map(scored, messages)) for problem_id, messages in found.messages.items()}
    return TrainingData(problems=found.problems, pool=pool, new_verdicts=tuple(new))


def _context(reward: str, problem: Problem) -> str:
    context = reward_of(reward).context
    return "" if context is None else context(problem)


def load_pool(path: Path, problems: Sequence[Problem]) -> dict[str, tuple[PoolMessage, ...]]:
    """The pool of the problems, a file or a folder of shards, as a mapping by problem id.

    Raises:
        ValueError: the pool is missing or corrupt, or a problem has no message in it, or those of another question.
    """
    messages = load_messages_of(path, problems)
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
