"""The cluster of a run: Ray, the placement of its workers, and ``RayEngine``, which the training loop drives.

The controller decides and the workers obey: commands go from here to rollout and learner workers, and never back.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray
import torch
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import placement_group, remove_placement_group

from pacore_rl.checkpoints.files import WrittenFile
from pacore_rl.config import Config
from pacore_rl.engine import weight_sync
from pacore_rl.engine.address import check_authentication, join
from pacore_rl.engine.agreement import check_agreement
from pacore_rl.engine.layout import check_layout
from pacore_rl.engine.learner import ActorGroup, CriticGroup, start_actor, start_critic
from pacore_rl.engine.placement import Device, Placement, choose_kind, take_seats
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.turns import GuardedGenerator, RayHardware, Turns
from pacore_rl.interfaces import Pending, StreamingGenerator
from pacore_rl.machine import num_cores
from pacore_rl.planning.placement import PlacementPlan, check_fits, plan_placement

logger = logging.getLogger(__name__)

Workers = Literal["rollout", "all"]

RESERVE_SECONDS = 60.0
"""A cluster that has the hardware, but gives it to others for this long, is too busy for the run."""

NODE_POLL_SECONDS = 5.0


@contextmanager
def ray_cluster(config: Config, *, learners: bool, wait_seconds: float = 0.0) -> Iterator[PlacementPlan]:
    """Join the cluster of ``cluster.address``, or start a private one here and stop it on the way out.

    Yields what the run will reserve there. A private cluster offers a logical CPU to each worker, however few the cores
    are: workers share them.

    Args:
        wait_seconds: for nodes that may come back, before a cluster is too small.

    Raises:
        ValueError: there is no cluster at the address, or too little hardware for the run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A thread that still waits for a worker when the cluster is gone must not start another one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    on_terminate = signal.getsignal(signal.SIGTERM)
    plan = None
    if config.cluster.address is None:
        check_authentication()
        plan = _start_private(config, learners=learners)
    else:
        join(config.cluster.address, namespace=f"pacore-{config.run.name}")
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler ends the process where it stands; ours unwinds, so that nothing is left half-done.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield plan if plan is not None else plan_on_cluster(config, learners=learners, wait_seconds=wait_seconds)
    finally:
        ray.shutdown()


def plan_on_cluster(config: Config, *, learners: bool, wait_seconds: float = 0.0) -> PlacementPlan:
    """The plan of a run on the cluster that was joined.

    Raises:
        ValueError: too little hardware for the run, for ``wait_seconds``.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return _plan_on_nodes(config, learners=learners)
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(min(NODE_POLL_SECONDS, wait_seconds))


def _plan_on_nodes(config: Config, *, learners: bool) -> PlacementPlan:
    nodes = {
        f"node {node['NodeManagerAddress']} ({node['NodeID'][:6]})": node["Resources"]
        for node in ray.nodes()
        if node["Alive"]
    }
    num_gpus = int(sum(resources.get("GPU", 0.0) for resources in nodes.values()))
    plan = plan_placement(
        config, kind=choose_kind(config, num_gpus=num_gpus, where="the cluster that was joined"), learners=learners
    )
    check_fits(plan, nodes)
    return plan


def _start_private(config: Config, *, learners: bool) -> PlacementPlan:
    num_gpus = torch.cuda.device_count()
    plan = plan_placement(config, kind=choose_kind(config, num_gpus=num_gpus, where="this machine"), learners=learners)
    scoring = (config.reward.num_workers or num_cores()) if config.reward.placement == "ray" else 0
    num_cpus = max(int(plan.num_slots * plan.bundle["CPU"]) + 1 + scoring, os.cpu_count() or 1)
    check_fits(plan, {"this machine": {"CPU": num_cpus, "GPU": num_gpus}})
    ray.init(
        address="local",
        namespace=f"pacore-{uuid.uuid4().hex[:8]}",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=512 * 1024**2 if plan.kind == "cpu" else None,
    )
    return plan


@contextmanager
def reserve(plan: PlacementPlan, *, timeout_seconds: float = RESERVE_SECONDS) -> Iterator[Placement]:
    """Hold one bundle of the hardware per slot, all or nothing, for the length of a ``with`` block.

    Raises:
        ValueError: the cluster has it, but not to give.
    """
    group = placement_group([plan.bundle] * plan.num_slots, strategy="PACK")
    try:
        try:
            ray.get(group.ready(), timeout=timeout_seconds)
        except GetTimeoutError as error:
            free = {name: ray.available_resources().get(name, 0.0) for name in plan.bundle}
            raise ValueError(
                f"This run wants {plan.arithmetic()}, {plan.bundle} for each. The cluster has them, but in "
                f"{timeout_seconds:.0f} s only {free} were free: others use the rest. Wait for them, or lower these "
                "settings."
            ) from error
        yield Placement(group=group, plan=plan, seats=take_seats(plan, group))
    finally:
        remove_placement_group(group)


@dataclass(frozen=True, slots=True)
class Both:
    """Files that actor and critic write at the same time; a ``Pending``."""

    actor: Pending[list[WrittenFile]]
    critic: Pending[list[WrittenFile]]

    def result(self) -> list[WrittenFile]:
        return [*self.actor.result(), *self.critic.result()]


@dataclass(slots=True)
class RayEngine:
    """Rollout workers on vLLM, and, unless it was opened for inference only, DeepSpeed learners beside them."""

    config: Config
    rollout: RolloutGroup
    learners: tuple[ActorGroup, CriticGroup] | None
    turns: Turns | None = None
    """Who has the hardware; None where each has its own."""
    learners_share_gpus: bool = False

    @property
    def generator(self) -> StreamingGenerator:
        return self.rollout if self.turns is None else GuardedGenerator(group=self.rollout, turns=self.turns)

    @property
    def actor(self) -> ActorGroup:
        assert self.learners is not None, "this engine was opened without learners"
        return self.learners[0]

    @property
    def critic(self) -> CriticGroup:
        assert self.learners is not None, "this engine was opened without learners"
        return self.learners[1]

    def turn_to(self, work: Literal["generation", "learning"]) -> None:
        """Give the hardware to generation or to learning; nothing to do where each has its own."""
        if self.turns is not None:
            self.turns.turn_to(work)

    def sync_weights(self, version: int) -> None:
        """Send the actor's weights to every rollout worker, which from then on reports ``version``."""
        if self.turns is not None:
            self.turns.sync(version)
        else:
            self.rollout.replace_silent()  # one that was lost while the learners worked costs no step
            weight_sync.sync(self.rollout, self.actor.handles, version)

    def snapshot(self) -> None:
        """Copy the state of all learners to their hosts, both groups at once; between an update and a sync."""
        for pending in [learner.snapshot() for learner in (self.actor, self.critic)]:
            pending.result()

    def write_snapshot(self, folder: Path) -> Pending[list[WrittenFile]]:
        """Write the latest snapshot into ``folder``, beside whatever is commanded meanwhile."""
        return Both(self.actor.write_snapshot(folder), self.critic.write_snapshot(folder))

    def load_state(self, folder: Path, version: int) -> None:
        """Go on from what ``write_snapshot`` wrote, with learners of any layout; the engines get the actor's weights.

        Raises:
            ValueError: the state is of another model.
        """
        self.turn_to("learning")
        for pending in [learner.load_state(folder) for learner in (self.actor, self.critic)]:
            pending.result()
        self.sync_weights(version)

    def close(self) -> None:
        """Stop every worker of this engine. Safe to call twice."""
        for group in (self.rollout, *(self.learners or ())):
            group.close()


@contextmanager
def open_engine(
    config: Config, *, workers: Workers = "all", model_path: str | None = None, wait_seconds: float = 0.0
) -> Iterator[RayEngine]:
    """A running engine for the length of a ``with`` block; nothing it started outlives the block.

    Args:
        workers: ``rollout`` leaves the learners out (pools, curation, evaluation).
        model_path: weights to serve instead of ``model.path``.
        wait_seconds: for hardware of a cluster that may come back, before it is too small.

    Raises:
        ValueError: what the configuration asks for is not there, or engine and trainer disagree about the model.
    """
    if workers == "all":
        check_layout(config)
    with (
        ray_cluster(config, learners=workers == "all", wait_seconds=wait_seconds) as plan,
        reserve(plan, timeout_seconds=max(RESERVE_SECONDS, wait_seconds)) as placement,
    ):
        threads = config.cluster.cpu_threads_per_worker or (1 if plan.kind == "cpu" else None)
        device = Device(kind=plan.kind, cpu_threads=threads, placement=placement)
        started: list[RolloutGroup | ActorGroup | CriticGroup] = []
        try:
            if workers == "rollout":
                rollout = RolloutGroup.start(config, device, model_path)
                started.append(rollout)
                yield RayEngine(config=config, rollout=rollout, learners=None)
            else:
                engine = _start_all(config, device, model_path, started)
                check_agreement(engine, config, device.dtype(config.model.dtype))
                yield engine
        finally:
            for group in started:
                group.close()


def _start_all(
    config: Config,
    device: Device,
    model_path: str | None,
    started: list[RolloutGroup | ActorGroup | CriticGroup],
) -> RayEngine:
    """Engines and learners, connected. Each group is in ``started`` from its first process on."""
    weight_sync.choose_backend(config.rollout, device)  # refuses what cannot work before anything starts
    colocated = device.placement is not None and device.placement.plan.colocated

    def start_learners() -> tuple[ActorGroup, CriticGroup]:
        started.append(actor := start_actor(config, device))
        started.append(critic := start_critic(config, device))
        return actor, critic

    # Separate: all load at once. Colocated: an engine measures the free memory of its GPU and takes its share, so it
    # comes first, and sleeps while the learners load.
    learners = None if colocated else start_learners()
    rollout = RolloutGroup.start(config, device, model_path)
    started.append(rollout)
    if learners is None:
        rollout.wait(rollout.call_all("sleep"), "going to sleep")
        learners = start_learners()
    for learner in learners:
        learner.wait_ready()
        learner.require_folder(config.run_dir)
    weight_sync.connect(rollout, learners[0].handles, device=device)
    actor = learners[0]
    if colocated:  # an engine's GPUs are the learners' too: none can start while the others generate
        rollout.replaceable = False
    else:
        rollout.send_to = lambda worker: weight_sync.send_to(rollout, actor.handles, worker, device=device)
    turns = Turns(RayHardware(config=config, rollout=rollout, learners=learners)) if colocated else None
    share_gpus = colocated and device.kind == "cuda"
    return RayEngine(config=config, rollout=rollout, learners=learners, turns=turns, learners_share_gpus=share_gpus)
