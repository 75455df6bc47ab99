"""The controller's side of the learners: it commands the ranks and adds up what they say.

ExperienceBatch -> Ray's object store -> LearnerWorker 0..n-1 (each packs its share; DeepSpeed) -> sums -> metrics
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import ray

from pacore_rl.checkpoints.files import WrittenFile
from pacore_rl.config import Config
from pacore_rl.engine.learner_passes import Role, StepResult, learning_rate
from pacore_rl.engine.learner_worker import LearnerWorker
from pacore_rl.engine.pending import RayPending
from pacore_rl.engine.placement import Device
from pacore_rl.engine.whereabouts import CONTROL, Whereabouts, end, locate
from pacore_rl.interfaces import Pending
from pacore_rl.ppo.advantages import explained_variance
from pacore_rl.ppo.batch import Int64, scatter_flat
from pacore_rl.types import ExperienceBatch, Float32

T = TypeVar("T")

PASSES = ("log_probs", "values", "update")
"""Commands that go through micro-batches, and count them (``Whereabouts.num_steps``)."""
FILES = "files"
"""Ray's concurrency group of ``write_snapshot``: a thread beside the one that learns."""


class LearnerGroup:
    """The ranks of one learner. Made by ``start``, which returns while they are still loading."""

    def __init__(self, role: Role, config: Config, handles: Sequence[Any], ready: Sequence[Any]) -> None:
        self.role: Role = role
        self.config = config
        self.settings = config.learner(role)
        self.handles = list(handles)
        """Ray actors in rank order."""
        self._ready = list(ready)
        self.places: list[Whereabouts] = []
        """Of the ranks, once they are ready."""
        self._batch: ExperienceBatch | None = None
        self._tokens: Any = None

    @classmethod
    def start(cls, role: Role, config: Config, device: Device) -> Self:
        """Start one worker for each rank; returns at once."""
        settings = config.learner(role)
        remote: Any = ray.remote(concurrency_groups={CONTROL: 1, FILES: 1})  # pyright: ignore[reportCallIssue]
        worker: Any = remote(LearnerWorker)
        handles = [
            worker.options(**device.ray_options(role, rank)).remote(
                role=role, rank=rank, config=config, device=replace(device, placement=None)
            )
            for rank in range(settings.num_ranks)
        ]
        address = handles[0].rendezvous.remote()
        return cls(role, config, handles, [handle.start.remote(address) for handle in handles])

    def wait_ready(self) -> None:
        """Wait until every rank has loaded its model.

        Raises:
            TimeoutError: not within ``cluster.start_timeout_seconds``.
            ValueError: the model folder is not one.
        """
        self._pending(
            "start",
            self._ready,
            lambda _: None,
            timeout_seconds=self.config.cluster.start_timeout_seconds,
            limit_name="cluster.start_timeout_seconds",
        ).result()
        self.places = self._pending(
            "saying where it runs",
            [locate(handle) for handle in self.handles],
            lambda places: places,
            timeout_seconds=self.config.run.worker_timeout_seconds,
            limit_name="run.worker_timeout_seconds",
        ).result()

    def require_folder(self, folder: Path) -> None:
        """Raise ValueError where a rank on another host does not see what is written to ``folder`` here."""
        here = ray.get_runtime_context().get_node_id()
        if all(place.node_id == here for place in self.places):
            return
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder.absolute() / f".seen_{self.role}_{uuid.uuid4().hex[:8]}"
        mark.touch()
        try:
            seen: list[bool] = self._command("sees", [(mark,)] * len(self.handles), list).result()
        finally:
            mark.unlink()
        blind = [self.name_of(rank) for rank, sees in enumerate(seen) if not sees]
        if blind:
            raise ValueError(
                f"{', '.join(blind)} does not see {folder.absolute()} as it is on the controller's host: checkpoints "
                "would be in pieces. Set run.output_dir to a folder that all hosts share under one path."
            )

    def save(self, folder: Path) -> None:
        """Write the weights as a Hugging Face folder, tokenizer included; it appears whole or not at all."""
        self._command("save", [(folder.absolute(),)] * len(self.handles), lambda _: None).result()

    def snapshot(self) -> RayPending[None]:
        """Copy every rank's state to its host, for ``write_snapshot``."""
        return self._command("snapshot", [()] * len(self.handles), lambda _: None)

    def write_snapshot(self, folder: Path) -> RayPending[list[WrittenFile]]:
        """Write the latest snapshot into ``folder``, beside whatever the ranks are commanded meanwhile."""
        return self._pending(
            "write_snapshot",
            [
                handle.write_snapshot.options(concurrency_group=FILES).remote(folder.absolute())
                for handle in self.handles
            ],
            lambda per_rank: [file for files in per_rank for file in files],
            timeout_seconds=self.config.run.worker_timeout_seconds,
            limit_name="run.worker_timeout_seconds",
        )

    def load_state(self, folder: Path) -> RayPending[None]:
        """Go on from what ``write_snapshot`` wrote, in whatever layout."""
        return self._command("load_state", [(folder.absolute(),)] * len(self.handles), lambda _: None)

    def name_of(self, rank: int) -> str:
        """A rank and its host, for messages."""
        host = f" on {self.places[rank].host} (pid {self.places[rank].pid})" if self.places else ""
        return f"{self.role} rank {rank}{host}"

    def close(self) -> None:
        """End the ranks' processes. Safe to call twice."""
        for rank, handle in enumerate(self.handles):
            end(handle, self.places[rank] if self.places else None)
        self.handles.clear()

    def _shared(self, batch: ExperienceBatch) -> Any:
        """Reference to the batch's tokens in Ray's object store, where every rank of a host reads the same bytes.

        Put there once for all commands of a step to this learner, and freed with the next batch or ``_update``.
        """
        if self._batch is not batch:
            self._batch, self._tokens = batch, ray.put(batch.rows)
        return self._tokens

    def _update(
        self,
        batch: ExperienceBatch,
        old_A: Float32,
        targets_A: Float32,
        num_minibatches: int,
        step: int,
        combine: Callable[[list[StepResult], int], dict[str, float]],
    ) -> Pending[Mapping[str, float]]:
        """Command the update; ``combine`` gets every rank's results of every mini-batch, and the number of actions."""
        rate = learning_rate(self.config, self.role, step, num_minibatches)

        def finish(results: list[list[StepResult]]) -> dict[str, float]:
            flat = [result for rank in results for result in rank]
            grad_norm = sum(result.grad_norm for result in results[0]) / num_minibatches
            num_skipped = sum(result.skipped for result in results[0])
            skipped = {"skipped_minibatches": float(num_skipped)} if num_skipped else {}
            padding = sum(result.tokens.padding for result in flat)
            return (
                combine(flat, batch.num_actions)
                | skipped
                | {
                    "grad_norm": grad_norm,
                    "lr": rate,
                    "padding_share": padding / sum(result.tokens.computed for result in flat),
                    f"memory/{self.role}_gib": max(result.memory_gib for result in flat),
                }
            )

        arguments = (self._shared(batch), ray.put(old_A), ray.put(targets_A))
        pending = self._command("update", [arguments] * len(self.handles), finish, step=step)
        self._batch = self._tokens = None  # the command holds them until it is over
        return pending

    def _command(
        self, method: str, arguments: Sequence[tuple[Any, ...]], combine: Callable[[list[Any]], T], **shared: Any
    ) -> RayPending[T]:
        """Call ``method`` on every rank, each with its own arguments."""
        refs = [
            getattr(handle, method).remote(*own, **shared) for handle, own in zip(self.handles, arguments, strict=True)
        ]
        return self._pending(
            method,
            refs,
            combine,
            timeout_seconds=self.config.run.worker_timeout_seconds,
            limit_name="run.worker_timeout_seconds",
            stall_timeout_seconds=self.config.surviving.stall_timeout_seconds if method in PASSES else None,
        )

    def _pending(
        self,
        what: str,
        refs: Sequence[Any],
        combine: Callable[[list[Any]], T],
        *,
        timeout_seconds: float,
        limit_name: str,
        stall_timeout_seconds: float | None = None,
    ) -> RayPending[T]:
        return RayPending(
            what=what,
            workers=[self.name_of(rank) for rank in range(len(refs))],
            handles=self.handles if self.places else (),  # a process that only starts does not answer
            health_timeout_seconds=self.config.surviving.health_timeout_seconds,
            refs=refs,
            timeout_seconds=timeout_seconds,
            limit_name=limit_name,
            stall_timeout_seconds=stall_timeout_seconds,
            combine=combine,
        )


class ActorGroup(LearnerGroup):
    """The policy under training; implements ``interfaces.Actor``."""

    def log_probs(self, batch: ExperienceBatch) -> Pending[tuple[Float32, Float32]]:
        """Log-probability and entropy [A], [A] of every action token under the current weights."""

        def finish(shares: list[tuple[Int64, Float32, Float32]]) -> tuple[Float32, Float32]:
            log_probs_A = scatter_flat([(slots, own) for slots, own, _ in shares], batch.num_actions)
            return log_probs_A, scatter_flat([(slots, own) for slots, _, own in shares], batch.num_actions)

        return self._command("log_probs", [(self._shared(batch),)] * len(self.handles), finish)

    def update(
        self, batch: ExperienceBatch, old_log_probs_A: Float32, advantages_A: Float32, *, step: int
    ) -> Pending[Mapping[str, float]]:
        """One PPO pass over the batch in ``ppo.actor_minibatches`` optimizer steps.

        Metrics: loss, clip_share, approx_kl and ratio_mean (means over action tokens), ratio_max, grad_norm (mean over
        mini-batches, before clipping), lr (of the last) and padding_share (of the tokens that the ranks computed).
        """
        minibatches = self.config.minibatches(self.role)
        return self._update(
            batch,
            old_log_probs_A,
            advantages_A,
            minibatches,
            step,
            lambda results, num_actions: {
                "loss": total(results, "loss") / minibatches,
                "clip_share": total(results, "clipped") / num_actions,
                "approx_kl": total(results, "kl") / num_actions,
                "ratio_mean": total(results, "ratio") / num_actions,
                "ratio_max": max(result.ratio_max for result in results),
            },
        )


class CriticGroup(LearnerGroup):
    """The value function under training; implements ``interfaces.Critic``."""

    def values(self, batch: ExperienceBatch) -> Pending[Float32]:
        """Value [A] of the state before each action token."""
        return self._command(
            "values",
            [(self._shared(batch),)] * len(self.handles),
            lambda shares: scatter_flat(shares, batch.num_actions),
        )

    def update(
        self, batch: ExperienceBatch, old_values_A: Float32, returns_A: Float32, *, step: int
    ) -> Pending[Mapping[str, float]]:
        """One pass of value regression in ``ppo.critic_minibatches`` optimizer steps.

        Metrics: loss (mean over mini-batches), clip_share (of action tokens), explained_variance_before (of the values
        that the advantages used), grad_norm (mean, before clipping), lr and padding_share.
        """
        minibatches = self.config.minibatches(self.role)
        explained = explained_variance(old_values_A, returns_A)
        return self._update(
            batch,
            old_values_A,
            returns_A,
            minibatches,
            step,
            lambda results, num_actions: {
                "loss": total(results, "loss") / minibatches,
                "clip_share": total(results, "clipped") / num_actions,
                "explained_variance_before": explained,
            },
        )


def total(results: Sequence[StepResult], name: str) -> float:
    return sum(result.sums[name] for result in results)


def start_actor(config: Config, device: Device) -> ActorGroup:
    """Start the policy's ranks; ``wait_ready`` waits for them."""
    return ActorGroup.start("actor", config, device)


def start_critic(config: Config, device: Device) -> CriticGroup:
    """Start the critic's ranks; ``wait_ready`` waits for them."""
    return CriticGroup.start("critic", config, device)
