"""Checkpoints on disk: whole or not at all, the last few and the best kept, damage noticed."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pacore_rl.checkpoints.compatibility import changed_settings, check_data, data_fingerprints
from pacore_rl.checkpoints.files import WrittenFile, sync_and_hash
from pacore_rl.checkpoints.manifest import Checkpoint, latest_checkpoint, open_checkpoint, step_folders
from pacore_rl.checkpoints.rollouts import InFlight
from pacore_rl.checkpoints.store import CheckpointStore, Position
from pacore_rl.config import Config
from pacore_rl.types import PoolMessage, Problem, Turn, Verdict


class Written:
    """Workers that have written already."""

    def __init__(self, files: list[WrittenFile], error: Exception | None = None) -> None:
        self.files, self.error = files, error

    def result(self) -> list[WrittenFile]:
        if self.error is not None:
            raise self.error
        return self.files


def write_state(folder: Path) -> Written:
    path = folder / "state" / "numbers.bin"
    path.parent.mkdir()
    path.write_bytes(b"0123456789" * 100)
    return Written([sync_and_hash(path, folder)])


def at(step: int, score: float | None = None) -> Position:
    return Position(step=step, first_step=1, weight_version=step, in_flight=InFlight(), score=score)


@pytest.fixture
def store(tiny_config: Callable[..., Config]) -> CheckpointStore:
    return CheckpointStore(tiny_config(trainer={"keep_checkpoints": 2}), data={"data.problems": "a"})


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_the_last_few_are_kept_and_the_best(store: CheckpointStore) -> None:
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.5), (4, None), (5, 0.8)):
        store.begin(at(step, score), write_state)
    store.finish()
    assert names(store) == ["step_000002", "step_000004", "step_000005"]
    assert store.has(5) and not store.has(3)


def test_what_a_host_wrote_elsewhere_is_no_checkpoint(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacore_rl.checkpoints.store.SEEN_SECONDS", 0.1)

    def write_elsewhere(folder: Path) -> Written:
        written = write_state(folder)
        (folder / "state" / "numbers.bin").unlink()  # on a disk of that host's own
        return written

    store.begin(at(1), write_state)
    store.begin(at(2), write_elsewhere)
    with pytest.raises(ValueError, match=r"state/numbers.bin has 0 bytes.*All hosts must share the run's folder"):
        store.finish()
    assert names(store) == ["step_000001"]


def test_what_is_seen_late_is_waited_for(store: CheckpointStore) -> None:
    def write_late(folder: Path) -> Written:
        written = write_state(folder)
        path, hidden = folder / "state" / "numbers.bin", folder.parent.parent / "late.bin"
        path.rename(hidden)
        threading.Timer(0.3, hidden.rename, (path,)).start()
        return written

    store.begin(at(1), write_late)
    store.finish()
    assert open_checkpoint(store.folder / "step_000001").manifest.step == 1


def test_zero_keeps_all(tiny_config: Callable[..., Config]) -> None:
    store = CheckpointStore(tiny_config(trainer={"keep_checkpoints": 0}), data={})
    for step in range(1, 6):
        store.begin(at(step), write_state)
    store.finish()
    assert len(names(store)) == 5


def test_a_manifest_comes_back_as_it_was(store: CheckpointStore) -> None:
    (store.config.run_dir / "metrics.jsonl").parent.mkdir(parents=True)
    (store.config.run_dir / "metrics.jsonl").write_bytes(b"x" * 17)
    store.begin(replace(at(3, 0.25), online_version=2, online_problems=("p",), num_equal_rewards=4), write_state)
    store.finish()
    checkpoint = open_checkpoint(store.folder / "step_000003")
    manifest = checkpoint.manifest
    assert (manifest.step, manifest.weight_version, manifest.score) == (3, 3, 0.25)
    assert (manifest.online_version, manifest.online_problems, manifest.num_equal_rewards) == (2, ("p",), 4)
    assert manifest.journal_bytes == {"metrics.jsonl": 17, "samples.jsonl": 0, "online_pool.jsonl": 0}
    assert [file.path for file in manifest.files] == ["state/numbers.bin"] and manifest.files[0].num_bytes == 1000
    assert changed_settings(checkpoint, store.config) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_checkpoint_is_skipped_with_a_line(store: CheckpointStore, damage: str) -> None:
    for step in (1, 2):
        store.begin(at(step), write_state)
    store.finish()
    path = store.folder / "step_000002" / "state" / "numbers.bin"
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "changed":
            path.write_bytes(path.read_bytes().replace(b"5", b"6", 1))
        case "gone":
            path.unlink()
        case _:
            (store.folder / "step_000002" / "manifest.json").write_text("{")
    said: list[str] = []
    found = latest_checkpoint(store.folder, said.append)
    assert found is not None and found.manifest.step == 1
    assert len(said) == 1 and "skipped" in said[0] and "step_000002" in said[0]


def test_what_a_crash_leaves_is_no_checkpoint_and_is_removed(store: CheckpointStore) -> None:
    store.begin(at(1), write_state)
    store.finish()
    (store.folder / ".step_000002.partial").mkdir()
    (store.folder / ".step_000002.partial" / "manifest.json").write_text("{}")
    assert step_folders(store.folder) == [store.folder / "step_000001"]
    store.clean()
    assert names(store) == ["step_000001"]


@pytest.mark.parametrize(("policy", "code"), [("stop", errno.ENOSPC), ("skip", errno.EFBIG), ("skip", errno.EIO)])
def test_a_full_disk_stops_the_run_or_skips_the_checkpoint(
    tiny_config: Callable[..., Config], policy: str, code: int
) -> None:
    said: list[str] = []
    store = CheckpointStore(tiny_config(surviving={"on_disk_full": policy}), data={}, say=said.append)
    store.begin(at(1), write_state)
    store.begin(at(2), lambda _: Written([], OSError(code, "no")))
    if policy == "stop" or code == errno.EIO:  # a broken disk is not a full one
        with pytest.raises(OSError, match="no"):
            store.finish()
    else:
        store.finish()
        assert store.num_skipped == 1 and "a checkpoint was left out" in said[0]
    assert names(store) == ["step_000001"]  # nothing half-written
    store.begin(at(3), write_state)
    store.finish()
    assert store.has(3)


def test_a_failure_in_the_background_is_heard_without_waiting(store: CheckpointStore) -> None:
    store.begin(at(1), lambda _: Written([], RuntimeError("worker gone")))
    with pytest.raises(RuntimeError, match="worker gone"):
        for _ in range(1_000_000):
            store.check()


def test_settings_that_must_not_change_are_refused_by_name_and_others_listed(store: CheckpointStore) -> None:
    store.begin(at(1), write_state)
    store.finish()
    checkpoint = open_checkpoint(store.folder / "step_000001")
    config = store.config
    assert changed_settings(
        checkpoint,
        config.model_copy(update={"actor": config.actor.model_copy(update={"num_ranks": 4, "learning_rate": 2e-3})}),
    ) == [
        "actor.learning_rate: 0.001 -> 0.002",
        "actor.num_ranks: 1 -> 4",
    ]
    other = config.model_copy(
        update={
            "run": config.run.model_copy(update={"seed": 5}),
            "ppo": config.ppo.model_copy(update={"responses_per_problem": 8}),
        }
    )
    with pytest.raises(ValueError, match=r"(?s)ppo.responses_per_problem: 4 -> 8.*run.seed: 0 -> 5.*start a new run"):
        changed_settings(checkpoint, other)


def test_other_problems_or_messages_are_refused(store: CheckpointStore) -> None:
    problem = Problem(id="p", conversation=(Turn(role="user", content="1+1"),), ground_truth="2")
    right = Verdict(reward=1.0, correct=True, outcome="scored", reason="equal")
    message = PoolMessage(problem_id="p", text="2", finish="stopped", verdict=right, num_tokens=1, model="m")
    fingerprints = data_fingerprints([problem], {"p": (message,)})
    store.data = fingerprints
    store.begin(at(1), write_state)
    store.finish()
    checkpoint = open_checkpoint(store.folder / "step_000001")
    check_data(checkpoint, fingerprints)
    unlucky = replace(message, verdict=replace(right, reward=0.0, correct=False, outcome="sandbox_error"))
    check_data(checkpoint, data_fingerprints([problem], {"p": (unlucky,)}))  # scored anew: the draws are the same
    with pytest.raises(ValueError, match=r"content of data.pool is no longer"):
        check_data(checkpoint, data_fingerprints([problem], {"p": (replace(message, text="3"),)}))
    with pytest.raises(ValueError, match=r"content of data.problems is no longer"):
        check_data(checkpoint, data_fingerprints([replace(problem, ground_truth="3")], {"p": (message,)}))


def test_a_manifest_of_another_release_is_not_guessed_at(store: CheckpointStore) -> None:
    store.begin(at(1), write_state)
    store.finish()
    path = store.folder / "step_000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(ValueError, match="its schema is not 2"):
        open_checkpoint(path.parent)
    assert isinstance(latest_checkpoint(store.folder, lambda _: None), Checkpoint | None)
