"""Where workers run: the one place that knows whether a run uses CPUs or GPUs.

Everything else in the code asks a ``Device`` for its torch name, its collective backend or the Ray options of a
worker, and never looks at the hardware itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pacore_rl.config import Config
from pacore_rl.planning.placement import DeviceKind, PlacementPlan, Seats, Slot, seat

WorkerKind = Literal["engine", "actor", "critic"]

PROBE_SECONDS = 120.0
"""Longest time for a task that asks a bundle which GPU it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Reserved hardware and who sits where. It stays in the controller."""

    group: PlacementGroup
    plan: PlacementPlan
    seats: Seats


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The kind of hardware that a run's workers compute on."""

    kind: DeviceKind
    cpu_threads: int | None
    """Threads of one worker process; None: its share of the host's cores (GPUs only)."""
    placement: Placement | None = None
    """What is reserved for the workers; None lets Ray choose."""

    @property
    def collective_backend(self) -> Literal["gloo", "nccl"]:
        return "nccl" if self.kind == "cuda" else "gloo"

    @property
    def deepspeed_accelerator(self) -> str:
        """Value of DS_ACCELERATOR."""
        return self.kind

    def dtype(self, wanted: str) -> torch.dtype:
        """The compute type behind ``model.dtype``: auto is bfloat16 on GPUs and float32 on CPUs."""
        if wanted == "auto":
            wanted = "bfloat16" if self.kind == "cuda" else "float32"
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted]

    def ray_options(self, kind: WorkerKind = "actor", number: int = 0) -> dict[str, Any]:
        """Options of ``ray.remote`` for one worker: its seat, its share of the hardware and a clean environment.

        Args:
            number: of the engine, or rank of the learner.
        """
        environment = dict(self.environment())
        options: dict[str, Any] = {"num_cpus": 1, "runtime_env": {"env_vars": environment}}
        if self.placement is None:
            return options | ({"num_gpus": 1} if self.kind == "cuda" else {})
        seats, plan = self.placement.seats, self.placement.plan
        slots = seats.engines[number] if kind == "engine" else (getattr(seats, kind)[number],)
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            placement_group=self.placement.group, placement_group_bundle_index=slots[0].bundle
        )
        if self.kind == "cpu":
            return options
        if kind != "engine":
            return options | {"num_gpus": plan.learner_gpus}
        # An engine's processes are vLLM's children, which Ray does not know. The engine's GPUs are those of its
        # bundles, which nobody else can have; its actor claims none and is told their names.
        environment |= {
            "CUDA_VISIBLE_DEVICES": ",".join(slot.gpu for slot in slots),
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        }
        return options | {"num_gpus": 0}

    def environment(self) -> Mapping[str, str]:
        """Environment variables of every worker process.

        One thread pool a process: on shared cores several pools fight, and a fixed number of threads keeps
        floating-point sums, and so whole runs, repeatable.
        """
        shared = {"DS_ACCELERATOR": self.deepspeed_accelerator, "TOKENIZERS_PARALLELISM": "false"}
        if self.kind == "cuda":
            return shared
        threads = str(self.cpu_threads)
        return shared | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}


def share_of_cores() -> int:
    """Threads of a learner process of this node, each of whose GPUs may have two: an actor's and a critic's."""
    here = ray.get_runtime_context().get_node_id()
    num_gpus = next(int(node["Resources"].get("GPU", 1)) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, len(os.sched_getaffinity(0)) // (2 * num_gpus))


def choose_kind(config: Config, *, num_gpus: int, where: str) -> DeviceKind:
    """What ``run.device`` asks for; auto takes GPUs where there are any.

    Args:
        num_gpus: of this machine, or of the cluster that was joined.
        where: words for whose they are.

    Raises:
        ValueError: cuda is asked for and there is no GPU.
    """
    wanted = config.run.device
    if wanted == "cuda" and not num_gpus:
        raise ValueError(
            f"run.device=cuda, but {where} has no GPU that can be used; install the GPU lock on a machine with one, "
            "join a cluster that has GPUs with cluster.address, or set run.device=cpu."
        )
    return "cuda" if wanted == "cuda" or (wanted == "auto" and num_gpus) else "cpu"


def take_seats(plan: PlacementPlan, group: PlacementGroup) -> Seats:
    """Look where the bundles of a placement group that is ready lie, and share them out.

    Raises:
        ValueError: see ``seat``.
    """
    node_of_bundle: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
    gpus = [""] * plan.num_slots
    if plan.kind == "cuda":

        def visible_gpu() -> str:
            """The one GPU that Ray lets this task see, by the name that CUDA_VISIBLE_DEVICES takes."""
            (gpu,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
            return str(gpu)

        ask = ray.remote(visible_gpu)  # local, so that it travels whole: its process need not import this module
        answers = [
            ask.options(
                num_cpus=0,
                num_gpus=1,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=bundle
                ),
            ).remote()
            for bundle in range(plan.num_slots)
        ]
        gpus = ray.get(answers, timeout=PROBE_SECONDS)
    return seat(
        plan,
        [Slot(bundle=bundle, node=node_of_bundle[bundle], gpu=gpus[bundle]) for bundle in range(plan.num_slots)],
    )
