"""The cluster of a run: Ray, the placement of its workers, and ``RayEngine``, which the training loop drives.

The controller decides and the workers obey: commands go from here to rollout and learner workers, and never back.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from pacore_rl.config import Config
from pacore_rl.engine import weight_sync
from pacore_rl.engine.layout import check_layout
from pacore_rl.engine.learner import ActorGroup, CriticGroup, start_actor, start_critic
from pacore_rl.engine.placement import Device, choose_device
from pacore_rl.engine.rollout import RolloutGroup

logger = logging.getLogger(__name__)

Workers = Literal["rollout", "all"]


@contextmanager
def ray_cluster(config: Config, device: Device, *, num_workers: int) -> Iterator[None]:
    """Join the cluster of ``cluster.address``, or start a private one here and stop it on the way out.

    A private cluster offers one logical CPU a worker, however few the cores are: workers share them.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    on_terminate = signal.getsignal(signal.SIGTERM)
    if config.cluster.address is None:
        ray.init(
            address="local",
            namespace=f"pacore-{uuid.uuid4().hex[:8]}",
            num_cpus=max(num_workers + 1, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=512 * 1024**2 if device.kind == "cpu" else None,
        )
    else:
        ray.init(address=config.cluster.address, namespace=f"pacore-{config.run.name}", log_to_driver=False)
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler ends the process where it stands; ours unwinds, so that nothing is left half-done.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        ray.shutdown()


def worker_counts(config: Config, workers: Workers) -> dict[str, int]:
    """Worker processes by kind."""
    rollout = {"rollout": config.rollout.num_workers}
    return (
        rollout
        if workers == "rollout"
        else rollout
        | {
            "actor": config.actor.num_ranks,
            "critic": config.critic.num_ranks,
        }
    )


def reserve(config: Config, device: Device, counts: dict[str, int]) -> PlacementGroup:
    """One bundle of the hardware per worker, all or nothing.

    Raises:
        ValueError: the cluster cannot hold all of them.
    """
    total = sum(counts.values())
    bundle = {"CPU": 1.0} | ({"GPU": 1.0} if device.kind == "cuda" else {})
    group = placement_group([bundle] * total, strategy="PACK")
    try:
        ray.get(group.ready(), timeout=min(60.0, config.cluster.start_timeout_seconds))
    except GetTimeoutError as error:
        remove_placement_group(group)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise ValueError(
            f"{total} workers ({kinds}) need {bundle} each; the cluster offers {ray.available_resources()}. "
            "Lower rollout.num_workers, actor.num_ranks or critic.num_ranks, or join a larger cluster with "
            "cluster.address."
        ) from error
    return group


@dataclass(slots=True)
class RayEngine:
    """Rollout workers on vLLM, and, unless it was opened for inference only, DeepSpeed learners beside them."""

    config: Config
    generator: RolloutGroup
    learners: tuple[ActorGroup, CriticGroup] | None

    @property
    def actor(self) -> ActorGroup:
        assert self.learners is not None, "this engine was opened without learners"
        return self.learners[0]

    @property
    def critic(self) -> CriticGroup:
        assert self.learners is not None, "this engine was opened without learners"
        return self.learners[1]

    def turn_to(self, work: Literal["generation", "learning"]) -> None:
        """Each has its own hardware, so there is nothing to hand over."""

    def sync_weights(self, version: int) -> None:
        """Send the actor's weights to every rollout worker, which from then on reports ``version``."""
        weight_sync.sync(self.generator, self.actor.handles, version)

    def close(self) -> None:
        """Stop every worker of this engine. Safe to call twice."""
        for group in (self.generator, *(self.learners or ())):
            group.close()


@contextmanager
def open_engine(config: Config, *, workers: Workers = "all", model_path: str | None = None) -> Iterator[RayEngine]:
    """A running engine for the length of a ``with`` block; nothing it started outlives the block.

    Args:
        workers: ``rollout`` leaves the learners out (pools, curation, evaluation).
        model_path: weights to serve instead of ``model.path``.
    """
    device = choose_device(config)
    if workers == "all":
        check_layout(config)
    counts = worker_counts(config, workers)
    with ray_cluster(config, device, num_workers=sum(counts.values())):
        group = reserve(config, device, counts)
        placed = replace(device, placement=group)
        started: list[RolloutGroup | ActorGroup | CriticGroup] = []
        try:
            learners = None
            if workers == "all":
                learners = (start_actor(config, placed), start_critic(config, placed))
                started.extend(learners)
            generator = RolloutGroup.start(config, placed, model_path)
            started.append(generator)
            if learners is not None:
                for learner in learners:
                    learner.wait_ready()
                weight_sync.connect(generator, learners[0].handles, device=device)
            yield RayEngine(config=config, generator=generator, learners=learners)
        finally:
            for worker_group in started:
                worker_group.close()
            remove_placement_group(group)
