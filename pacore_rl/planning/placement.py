"""Who works on which hardware: arithmetic on a configuration, done before anything starts. Loads no Ray.

A slot is one GPU; on CPUs, room for one process. With two engines of two GPUs each:

    separate     slots 0..7    engine 0  engine 0 | engine 1  engine 1 | actor 0  actor 1 | critic 0  critic 1

    colocated    slots 0..3    engine 0  engine 0 | engine 1  engine 1
                               actor 0   actor 1    actor 2   actor 3
                               critic 0  critic 1   critic 2  critic 3

Ray reserves one bundle of a placement group for each slot. Which node a bundle lands on is known only afterwards, so
``plan_placement`` and ``check_fits`` count, and ``seat`` shares out what was reserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pacore_rl.config import Config

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPlan:
    """The hardware that a run asks for."""

    kind: DeviceKind
    colocated: bool
    """Engines and learners share their slots and take turns."""
    num_engines: int
    slots_per_engine: int
    """Tensor-parallel times pipeline-parallel size; these slots lie in one node."""
    num_actor_ranks: int
    num_critic_ranks: int
    """Both 0 where a run only generates."""

    @property
    def num_engine_slots(self) -> int:
        return self.num_engines * self.slots_per_engine

    @property
    def num_slots(self) -> int:
        if self.colocated:
            return self.num_engine_slots
        return self.num_engine_slots + self.num_actor_ranks + self.num_critic_ranks

    @property
    def learner_gpus(self) -> float:
        """Ray's GPU share of one learner rank: actor and critic halve a GPU where they are colocated.

        Engines claim none: vLLM is told the GPUs of its slots by name, which their bundles have reserved.
        """
        if self.kind == "cpu":
            return 0.0
        return 0.5 if self.colocated else 1.0

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for one slot: a CPU for each process that starts there."""
        processes = 3.0 if self.colocated else 1.0
        return {"CPU": processes} | ({"GPU": 1.0} if self.kind == "cuda" else {})

    @property
    def unit(self) -> str:
        return "GPUs" if self.kind == "cuda" else "CPU processes"

    def arithmetic(self) -> str:
        """One line that says what is needed, and which settings say so."""
        engines = (
            f"rollout.num_workers={self.num_engines} x tensor_parallel x pipeline_parallel={self.slots_per_engine} "
            f"= {self.num_engine_slots}"
        )
        if not self.num_actor_ranks:
            return f"{self.num_slots} {self.unit}: {engines}"
        learners = f"actor.num_ranks={self.num_actor_ranks}, critic.num_ranks={self.num_critic_ranks}"
        joint = "shared with" if self.colocated else "and"
        return f"{self.num_slots} {self.unit}: {engines}, {joint} {learners}"

    def hosts(self, slots_per_host: int) -> int:
        """The fewest hosts of ``slots_per_host`` that hold it, every engine within one of them.

        Engines must fit a host at all: ``slots_per_engine`` is at most ``slots_per_host``.
        """
        whole_engines = slots_per_host // self.slots_per_engine
        return max(-(-self.num_slots // slots_per_host), -(-self.num_engines // whole_engines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One reserved bundle."""

    bundle: int
    """Its index in the placement group."""
    node: str
    gpu: str = ""
    """As CUDA_VISIBLE_DEVICES names it on that node; empty on CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """The slots of every worker: who was given what."""

    engines: tuple[tuple[Slot, ...], ...]
    """By engine; its processes in rank order. The engine's Ray actor sits in the first."""
    actor: tuple[Slot, ...]
    critic: tuple[Slot, ...]
    """By rank."""


def plan_placement(config: Config, *, kind: DeviceKind, learners: bool = True) -> PlacementPlan:
    """The plan behind ``rollout.*``, ``actor.num_ranks`` and ``critic.num_ranks``.

    Args:
        kind: what the workers compute on.
        learners: False leaves them out (pools, curation, evaluation).

    Raises:
        ValueError: colocated sizes differ, so that some would wait for hardware that others do not give back; or a
            colocated learner has adapters, whose frozen weights would not leave the GPU.
    """
    rollout = config.rollout
    plan = PlacementPlan(
        kind=kind,
        colocated=learners and rollout.placement == "colocated",
        num_engines=rollout.num_workers,
        slots_per_engine=rollout.tensor_parallel * rollout.pipeline_parallel,
        num_actor_ranks=config.actor.num_ranks if learners else 0,
        num_critic_ranks=config.critic.num_ranks if learners else 0,
    )
    if plan.colocated and not plan.num_engine_slots == plan.num_actor_ranks == plan.num_critic_ranks:
        raise ValueError(
            "rollout.placement=colocated puts one actor rank, one critic rank and one process of an engine on every "
            f"GPU, but rollout.num_workers={rollout.num_workers} x rollout.tensor_parallel={rollout.tensor_parallel} x "
            f"rollout.pipeline_parallel={rollout.pipeline_parallel} = {plan.num_engine_slots}, "
            f"actor.num_ranks={plan.num_actor_ranks} and critic.num_ranks={plan.num_critic_ranks} differ. Make the "
            "three equal, or set rollout.placement=separate."
        )
    for name, learner in (("actor", config.actor), ("critic", config.critic)):
        # DeepSpeed moves what it trains; the frozen weights would stay beside the engine's cache.
        if plan.colocated and kind == "cuda" and learner.lora is not None and not learner.offload_parameters:
            raise ValueError(
                f"{name}.lora is set with rollout.placement=colocated: the frozen weights cannot leave the GPU while "
                "the engines generate. Set rollout.placement=separate (engines on GPUs of their own), or "
                f"{name}.offload_parameters=true with {name}.zero_stage=3."
            )
    return plan


def check_fits(plan: PlacementPlan, nodes: Mapping[str, Mapping[str, float]]) -> None:
    """Compare a plan with what the cluster has.

    Args:
        nodes: for each node its resources, as ``ray.nodes()`` names them (CPU, GPU).

    Raises:
        ValueError: too little in all, or no node that holds a whole engine.
    """
    slots = {
        node: int(min(resources.get(name, 0.0) // amount for name, amount in plan.bundle.items()))
        for node, resources in nodes.items()
    }
    offered = ", ".join(f"{node} {count}" for node, count in slots.items())
    if sum(slots.values()) < plan.num_slots:
        raise ValueError(
            f"This run wants {plan.arithmetic()}. The cluster offers {sum(slots.values())} ({offered}). Lower these "
            f"settings, {_share_hint(plan)}or join a larger cluster with cluster.address."
        )
    if sum(count // plan.slots_per_engine for count in slots.values()) < plan.num_engines:
        raise ValueError(
            f"This run wants {plan.num_engines} engine{'s' * (plan.num_engines != 1)} of {plan.slots_per_engine} "
            f"{plan.unit} (rollout.tensor_parallel x rollout.pipeline_parallel), each within one node. The nodes offer "
            f"{offered}. Lower rollout.tensor_parallel or rollout.pipeline_parallel, or use larger nodes."
        )


def seat(plan: PlacementPlan, slots: Sequence[Slot]) -> Seats:
    """Share out the reserved slots: whole engines node by node, then actor and critic ranks on what is left.

    Colocated ranks sit where the engines do: rank i in the slot of the i-th engine process.

    Raises:
        ValueError: the slots are spread over nodes so that some engine would straddle two.
    """
    assert len(slots) == plan.num_slots, f"{len(slots)} slots for a plan of {plan.num_slots}"
    free: dict[str, list[Slot]] = {}
    for slot in sorted(slots, key=lambda slot: (slot.node, slot.bundle)):
        free.setdefault(slot.node, []).append(slot)
    size = plan.slots_per_engine
    engines: list[tuple[Slot, ...]] = []
    for number in range(plan.num_engines):
        node = next((node for node, own in free.items() if len(own) >= size), None)
        if node is None:
            reserved = ", ".join(str(sum(slot.node == name for slot in slots)) for name in free)
            raise ValueError(
                f"engine {number} needs {size} {plan.unit} of one node, but the cluster gave this run {reserved} on "
                "its nodes: others use the rest. Wait for whole nodes, or lower rollout.tensor_parallel."
            )
        engines.append(tuple(free[node][:size]))
        free[node] = free[node][size:]
    if plan.colocated:
        shared = tuple(slot for engine in engines for slot in engine)
        return Seats(engines=tuple(engines), actor=shared, critic=shared)
    left = [slot for own in free.values() for slot in own]
    return Seats(
        engines=tuple(engines),
        actor=tuple(left[: plan.num_actor_ranks]),
        critic=tuple(left[plan.num_actor_ranks :]),
    )


def _share_hint(plan: PlacementPlan) -> str:
    return "" if plan.colocated or not plan.num_actor_ranks else "set rollout.placement=colocated, "
