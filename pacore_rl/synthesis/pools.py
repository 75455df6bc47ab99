"""A pool at a path, whichever of its two kinds it is, and whether it belongs to the problems at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pacore_rl.spread import Spread
from pacore_rl.synthesis.message_pool import MessagePool, answer_another
from pacore_rl.synthesis.pool_shards import MESSAGES_PER_SHARD, Pool, ShardedPool, shard_paths
from pacore_rl.types import PoolMessage, Problem


def is_folder(path: Path) -> bool:
    """Whether a pool of this path is a folder of shards: it is one already, or its name has no ending."""
    return path.is_dir() or (not path.exists() and not path.suffix)


def open_pool(path: Path, *, must_exist: bool = False, spread: Spread | None = None) -> MessagePool | ShardedPool:
    """The pool at ``path``, a file or a folder. Raises ValueError as the two do."""
    if is_folder(path):
        return ShardedPool.open(path, must_exist=must_exist, spread=spread)
    return MessagePool.open(path, must_exist=must_exist)


def require_same_problems(pool: Pool, problems: Iterable[Problem]) -> None:
    """Raise ValueError where a problem has changed since its messages were written and scored."""
    _refuse_changed(pool.path, [problem.id for problem in problems if pool.has_others(problem)])


def load_messages_of(path: Path, problems: Sequence[Problem]) -> dict[str, tuple[PoolMessage, ...]]:
    """``load_messages`` of these problems; ValueError too where one has changed since."""
    messages = load_messages(path, [problem.id for problem in problems])
    _refuse_changed(path, [problem.id for problem in problems if answer_another(messages[problem.id], problem)])
    return messages


def _refuse_changed(path: Path, changed: Sequence[str]) -> None:
    if changed:
        raise ValueError(
            f"the messages of {len(changed):,} problems in {path} answer other questions than the problems ask now, or "
            f"were scored against other ground truths (first: {changed[0]}). Give what has changed a new id, or remove "
            "the lines with its problem_id from the pool; `pacore-rl pool` then writes its messages anew."
        )


def load_messages(path: Path, problem_ids: Collection[str]) -> dict[str, tuple[PoolMessage, ...]]:
    """Every message of these problems in the pool at ``path``, a file or a folder; () for a problem without any.

    Raises ValueError for a pool that is missing or damaged.
    """
    if is_folder(path):
        if not shard_paths(path):
            raise ValueError(
                f"no message pool at {path}; check the path, or generate it with `pacore-rl curate pools`."
            )
        return ShardedPool(path, MESSAGES_PER_SHARD).messages(problem_ids)
    pool = MessagePool.open(path, must_exist=True)
    return {problem_id: pool.messages(problem_id) for problem_id in problem_ids}
