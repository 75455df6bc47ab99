"""Where a worker runs, whether it still answers, and its end.

A process that is stopped, or caught in the kernel, is alive for Ray and dead for us: it does not answer. Every worker
therefore has a thread of its own for the question where it runs, and whoever does not answer in time is hung.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pacore_rl.failures import WorkerDied

CONTROL = "control"
"""Ray's concurrency group of what must be answered at once: a thread beside the one that runs the other commands."""

KILL_SECONDS = 30.0
CLOCK_SECONDS = 1.0
"""Two readings of when a process began differ by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """A worker's process."""

    host: str
    """Address of its node."""
    node_id: str
    pid: int
    begun: float
    """When the process began, in seconds since 1970: a pid alone may be another's by the time it is used."""
    num_steps: int = 0
    """Steps of an engine, or passes of a learner, so far: whoever has work and makes none is caught in one."""

    @classmethod
    def of_this_process(cls, num_steps: int = 0) -> Self:
        context = ray.get_runtime_context()
        return cls(
            host=ray.util.get_node_ip_address(),
            node_id=context.get_node_id(),
            pid=os.getpid(),
            begun=psutil.Process().create_time(),
            num_steps=num_steps,
        )


def locate(handle: Any) -> ray.ObjectRef[Any]:
    """Ask a worker where it runs."""
    return handle.whereabouts.options(concurrency_group=CONTROL).remote()


def names_of(role: str, handles: Sequence[Any], timeout_seconds: float) -> list[str]:
    """``<role> rank <N> on <host> (pid <P>)`` of each worker; the rank alone of one that does not say where it runs."""
    asked = [locate(handle) for handle in handles]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=timeout_seconds)
    names = [f"{role} rank {rank}" for rank in range(len(handles))]
    for reference in answered:
        with suppress(RayError):  # whoever asks it for more will be told
            where: Whereabouts = ray.get(reference, timeout=timeout_seconds)
            names[asked.index(reference)] += f" on {where.host} (pid {where.pid})"
    return names


def silent(handles: Sequence[Any], timeout_seconds: float) -> dict[int, str]:
    """Those of the workers that are dead or do not answer within the limit: position and what is wrong."""
    return roll_call(handles, timeout_seconds)[0]


def roll_call(handles: Sequence[Any], timeout_seconds: float) -> tuple[dict[int, str], dict[int, Whereabouts]]:
    """By position: what is wrong with workers that are dead or do not answer within the limit; where the others are."""
    asked = {locate(handle): number for number, handle in enumerate(handles)}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_seconds)
    wrong: dict[int, str] = {}
    places: dict[int, Whereabouts] = {}
    for reference, number in asked.items():
        if reference not in answered:
            wrong[number] = f"does not answer for {timeout_seconds:.0f} s (stopped, or hung)"
            continue
        try:
            places[number] = ray.get(reference, timeout=timeout_seconds)
        except RayActorError:
            wrong[number] = "is dead (killed, or out of memory)"
        except GetTimeoutError:
            wrong[number] = "answered, but its answer is lost"
    return wrong, places


def require_answers(
    handles: Sequence[Any], names: Sequence[str], doing: str, timeout_seconds: float, cause: Exception | None = None
) -> dict[int, Whereabouts]:
    """Raise ``WorkerDied`` where one of the workers is dead or hung; names, whereabouts and work are in its message.

    Returns where they are, by position.
    """
    wrong, places = roll_call(handles, timeout_seconds)
    if wrong:
        lost = "; ".join(f"{names[number]} {what}" for number, what in wrong.items())
        raise WorkerDied(f"{lost}, during {doing}. See Ray's logs of that worker.") from cause
    return places


def is_alive(node_id: str) -> bool:
    """Whether a node of the cluster is there."""
    alive: Mapping[str, bool] = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
    return alive.get(node_id, False)


def end(handle: Any, where: Whereabouts | None) -> None:
    """Kill a worker, be it stopped or hung: Ray asks a process to end itself, which such a one cannot.

    Its children first: once it is gone, nobody knows which they were.
    """
    if where is not None and is_alive(where.node_id):  # else it went with its node
        if where.node_id == ray.get_runtime_context().get_node_id():
            kill_family(where.pid, where.begun)
        else:
            there = NodeAffinitySchedulingStrategy(node_id=where.node_id, soft=False)
            remote: Any = ray.remote(kill_family).options(num_cpus=0, scheduling_strategy=there)
            killing = remote.remote(where.pid, where.begun)
            ray.wait([killing], timeout=KILL_SECONDS)
    with suppress(RayActorError, ValueError):
        ray.kill(handle)


def kill_family(pid: int, begun: float) -> None:
    """Kill a process of this machine and its children: a rank of an engine, caught in a collective, keeps its GPU."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - begun) > CLOCK_SECONDS:
            return  # another's
        family = [*process.children(recursive=True), process]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
