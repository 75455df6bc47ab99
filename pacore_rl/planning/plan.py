"""A recipe's plan: what every role needs on its GPUs and hosts, part by part, and where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pacore_rl.config import Config
from pacore_rl.planning.formulas import GIB, GPU_RUNTIME, LEARNER_SHARE, SLEEPING_ENGINE
from pacore_rl.planning.placement import PlacementPlan, plan_placement
from pacore_rl.planning.roles import RolePlan, engine_role, learner_role
from pacore_rl.planning.shapes import ModelShape, model_shape
from pacore_rl.planning.workload import Workload, assumed_workload

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a plan is checked against."""

    gpu_memory: int | None
    """Bytes of one GPU; None: no GPU is there, or none is asked about."""
    gpus_per_host: int = 8
    host_memory: int | None = None
    """Bytes of one host; None: shown, not judged."""
    num_gpus: int | None = None
    """GPUs of the cluster; None: as many as it takes."""

    @property
    def kind(self) -> Kind:
        return "cpu" if self.gpu_memory is None else "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """One thing that does not fit."""

    where: str
    """``actor``, ``critic``, ``engine``, ``KV cache``, ``window``, ``GPU``, ``host`` or ``cluster``."""
    needed: float
    given: float
    unit: str

    def __str__(self) -> str:
        digits = 1 if "GiB" in self.unit else 0
        return f"{self.where}: {self.needed:,.{digits}f} {self.unit} needed, {self.given:,.{digits}f} given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Of one step, and how many the engines hold at a time."""

    rows: int
    prompt: int
    response: int
    step: int
    """Generated tokens, every response at its longest."""
    cache_per_engine: int
    """Tokens that the KV cache of one engine holds."""
    full_sequences: float
    """Rows at full length that all engines hold at once."""
    learner_passes: int
    """Forward passes of one actor rank for one pass over a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that ``pacore-rl plan`` shows."""

    config: Config
    shape: ModelShape
    hardware: Hardware
    work: Workload
    roles: tuple[RolePlan, RolePlan, RolePlan]
    """Actor, critic, engine."""
    tokens: Tokens
    gpu_peak: int
    """Bytes on the fullest GPU: a role of its own, or all that take turns."""
    host_peak: int
    """Bytes on the fullest host."""
    placement: PlacementPlan
    shortfalls: tuple[Shortfall, ...]

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    @property
    def num_gpus(self) -> int:
        return self.placement.num_slots if self.hardware.kind == "cuda" else 0

    @property
    def num_hosts(self) -> int | None:
        """None: an engine is larger than a host."""
        if self.hardware.kind == "cpu":
            return 1
        per_host = self.hardware.gpus_per_host
        return self.placement.hosts(per_host) if self.placement.slots_per_engine <= per_host else None


def make_plan(
    config: Config, hardware: Hardware, work: Workload | None = None, shape: ModelShape | None = None
) -> Plan:
    """The plan of a run on this hardware.

    Args:
        work: lengths of prompts and responses; by default assumed (see ``assumed_workload``).
        shape: of the model; by default that of ``model.path``.

    Raises:
        ValueError: the model's shape is not known, or colocated sizes differ.
    """
    shape = shape or model_shape(config.model.path)
    work = work or assumed_workload(config)
    cpu = hardware.kind == "cpu"
    actor = learner_role("actor", config, shape, work, cpu=cpu)
    critic = learner_role("critic", config, shape, work, cpu=cpu)
    engine = engine_role(config, shape, gpu_memory=hardware.gpu_memory)
    placement = plan_placement(config, kind=hardware.kind)
    roles = (actor, critic, engine)
    gpu_peak = 0 if cpu else (_together(roles) if _colocated(config) else max(role.gpu for role in roles))
    host_peak = _host_peak(config, hardware, roles)
    return Plan(
        config=config,
        shape=shape,
        hardware=hardware,
        work=work,
        roles=roles,
        tokens=_tokens(config, work, actor, engine),
        gpu_peak=gpu_peak,
        host_peak=host_peak,
        placement=placement,
        shortfalls=(
            *_memory_shortfalls(config, hardware, roles, host_peak),
            *_token_shortfalls(config, shape, engine),
            *_cluster_shortfalls(hardware, placement),
        ),
    )


def _colocated(config: Config) -> bool:
    return config.rollout.placement == "colocated"


def _together(roles: tuple[RolePlan, RolePlan, RolePlan]) -> int:
    """Bytes on a GPU that all roles share: the learners at work beside a sleeping engine, or the engine at work beside
    what the learners' processes leave there."""
    actor, critic, engine = roles
    return max(actor.gpu + critic.gpu + SLEEPING_ENGINE, engine.gpu + 2 * GPU_RUNTIME)


def _host_peak(config: Config, hardware: Hardware, roles: tuple[RolePlan, RolePlan, RolePlan]) -> int:
    """Bytes on the fullest host, while learners load or while a checkpoint is written.

    Where roles have their own GPUs: as many processes as it has GPUs, the costliest first; their first ranks are among
    them. Colocated learners load side by side; later those that sleep are in the host's memory, while a sleeping engine
    drops its weights.
    """
    if hardware.kind == "cpu":
        return sum(role.processes * role.host + role.host_of_first for role in roles)
    per_host = hardware.gpus_per_host
    loading, firsts = [_host_loading(role) for role in roles], [role.host_of_first for role in roles]
    if not _colocated(config):
        at_work = [role.host_at_work for role in roles]
        counts = [role.processes for role in roles]
        return max(_fill(per_host, counts, loading, (0, 0, 0)), _fill(per_host, counts, at_work, firsts))
    here = min(roles[0].processes, per_host)
    sleeping = sum(role.host_at_work + role.asleep for role in roles)
    return max(here * sum(loading), here * sleeping + sum(firsts))


def _host_loading(role: RolePlan) -> int:
    return role.host_at_work if role.loading is None else role.loading.host


def _fill(places: int, counts: Sequence[int], each: Sequence[int], once: Sequence[int]) -> int:
    """Bytes of a host with this many places: ``counts`` processes of each role, the costliest first."""
    total = 0
    for size, count, first in sorted(zip(each, counts, once, strict=True), reverse=True):
        here = min(count, places)
        total += here * size + (first if here else 0)
        places -= here
    return total


def _tokens(config: Config, work: Workload, actor: RolePlan, engine: RolePlan) -> Tokens:
    rows = config.ppo.rows_per_step
    groups = config.actor.num_ranks // config.actor.sequence_parallel
    return Tokens(
        rows=rows,
        prompt=work.longest_prompt,
        response=work.response,
        step=rows * work.response,
        cache_per_engine=engine.cache_tokens,
        full_sequences=config.rollout.num_workers * engine.cache_tokens / work.longest_row,
        learner_passes=-(-rows // (groups * actor.rows_at_once)),
    )


def _memory_shortfalls(
    config: Config, hardware: Hardware, roles: tuple[RolePlan, RolePlan, RolePlan], host_peak: int
) -> list[Shortfall]:
    found: list[Shortfall] = []
    limit = hardware.gpu_memory
    if limit is not None:
        needs = {"GPU": _together(roles)} if _colocated(config) else {role.name: role.gpu for role in roles}
        shares = {where: int(limit * (1.0 if where == "engine" else LEARNER_SHARE)) for where in needs}
        found += [
            Shortfall(where=where, needed=need / GIB, given=shares[where] / GIB, unit="GiB per GPU")
            for where, need in needs.items()
            if need > shares[where]
        ]
    if hardware.host_memory is not None and host_peak > hardware.host_memory:
        given = hardware.host_memory / GIB
        found.append(Shortfall(where="host", needed=host_peak / GIB, given=given, unit="GiB per host"))
    return found


def _token_shortfalls(config: Config, shape: ModelShape, engine: RolePlan) -> list[Shortfall]:
    window = config.model.context_window_tokens
    given = {
        "KV cache": (engine.cache_tokens, "tokens (one full window)"),
        "window": (shape.positions(config.model.rope_scaling), "positions of the model (model.rope_scaling)"),
    }
    return [
        Shortfall(where=where, needed=window, given=max(0, tokens), unit=unit)
        for where, (tokens, unit) in given.items()
        if tokens < window
    ]


def _cluster_shortfalls(hardware: Hardware, placement: PlacementPlan) -> list[Shortfall]:
    """GPUs, and whole engines on each host: an engine does not span two."""
    if hardware.kind == "cpu":
        return []
    size, per_host, given = placement.slots_per_engine, hardware.gpus_per_host, hardware.num_gpus
    if size > per_host:
        return [Shortfall(where="engine", needed=size, given=per_host, unit="GPUs of one host")]
    if given is None:
        return []
    if placement.num_slots > given:
        return [Shortfall(where="cluster", needed=placement.num_slots, given=given, unit="GPUs")]
    whole = given // per_host * (per_host // size) + given % per_host // size
    if placement.num_engines > whole:
        unit = f"engines of {size} GPUs, each within a host,"
        return [Shortfall(where="cluster", needed=placement.num_engines, given=whole, unit=unit)]
    return []
