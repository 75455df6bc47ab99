"""A recipe's plan: what every role needs on its GPUs and hosts, part by part, and where it does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pacore_rl.config import Config
from pacore_rl.planning.formulas import GIB, GPU_RUNTIME, LEARNER_SHARE, SLEEPING_ENGINE
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
    """``actor``, ``critic``, ``engine``, ``GPU``, ``host`` or ``cluster``."""
    needed: float
    given: float
    unit: str

    def __str__(self) -> str:
        return f"{self.where}: {self.needed:,.1f} {self.unit} needed, {self.given:,.1f} given"


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
    num_gpus: int
    gpu_sum: str
    """How ``num_gpus`` comes about."""
    shortfalls: tuple[Shortfall, ...]

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    @property
    def num_hosts(self) -> int:
        return -(-self.num_gpus // self.hardware.gpus_per_host) if self.num_gpus else 1


def make_plan(
    config: Config, hardware: Hardware, work: Workload | None = None, shape: ModelShape | None = None
) -> Plan:
    """The plan of a run on this hardware.

    Args:
        work: lengths of prompts and responses; by default assumed (see ``assumed_workload``).
        shape: of the model; by default that of ``model.path``.

    Raises:
        ValueError: the model's shape is not known.
    """
    shape = shape or model_shape(config.model.path)
    work = work or assumed_workload(config)
    cpu = hardware.kind == "cpu"
    actor = learner_role("actor", config, shape, work, cpu=cpu)
    critic = learner_role("critic", config, shape, work, cpu=cpu)
    engine = engine_role(config, shape, gpu_memory=hardware.gpu_memory)
    num_gpus, gpu_sum = (0, "no GPU") if cpu else count_gpus(config)
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
        num_gpus=num_gpus,
        gpu_sum=gpu_sum,
        shortfalls=_shortfalls(config, hardware, work, roles, num_gpus, host_peak),
    )


def count_gpus(config: Config) -> tuple[int, str]:
    """GPUs of a run and the sum behind them; where all are colocated, the larger of learners and engines."""
    rollout = config.rollout
    size = rollout.tensor_parallel * rollout.pipeline_parallel
    engines = rollout.num_workers * size
    told = f"{rollout.num_workers} engine{'s' * (rollout.num_workers != 1)} x {size} = {engines}"
    actor, critic = config.actor.num_ranks, config.critic.num_ranks
    if _colocated(config):
        total = max(actor, critic, engines)
        return total, f"max({actor} actor ranks, {critic} critic ranks, {told}) = {total} GPUs, taking turns"
    total = actor + critic + engines
    return total, f"{actor} actor ranks + {critic} critic ranks + ({told}) = {total} GPUs"


def _colocated(config: Config) -> bool:
    return config.rollout.placement == "colocated"


def _together(roles: tuple[RolePlan, RolePlan, RolePlan]) -> int:
    """Bytes on a GPU that all roles share: the learners at work beside a sleeping engine, or the engine at work beside
    what the learners' processes leave there."""
    actor, critic, engine = roles
    return max(actor.gpu + critic.gpu + SLEEPING_ENGINE, engine.gpu + 2 * GPU_RUNTIME)


def _host_peak(config: Config, hardware: Hardware, roles: tuple[RolePlan, RolePlan, RolePlan]) -> int:
    """Bytes on the fullest host: as many processes of the costliest role as fit on it; where roles share GPUs, all."""
    if hardware.kind == "cpu":
        return sum(role.processes * role.host for role in roles)
    per_host = hardware.gpus_per_host
    shares = [min(role.processes, per_host) * role.host for role in roles]
    asleep = [min(role.processes, per_host) * role.asleep for role in roles]
    if not _colocated(config):
        return max(shares)
    actor, critic, engine = shares
    return actor + critic + engine + max(asleep[0] + asleep[1], asleep[2])


def _tokens(config: Config, work: Workload, actor: RolePlan, engine: RolePlan) -> Tokens:
    rows = config.ppo.rows_per_step
    longest = min(work.longest_row, config.model.context_window_tokens)
    groups = config.actor.num_ranks // config.actor.sequence_parallel
    return Tokens(
        rows=rows,
        prompt=work.longest_prompt,
        response=work.response,
        step=rows * work.response,
        cache_per_engine=engine.cache_tokens,
        full_sequences=config.rollout.num_workers * engine.cache_tokens / longest,
        learner_passes=-(-rows // (groups * actor.rows_at_once)),
    )


def _shortfalls(
    config: Config,
    hardware: Hardware,
    work: Workload,
    roles: tuple[RolePlan, RolePlan, RolePlan],
    num_gpus: int,
    host_peak: int,
) -> tuple[Shortfall, ...]:
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
    cache = roles[2].cache_tokens
    if cache < config.model.context_window_tokens:
        window = config.model.context_window_tokens
        found.append(Shortfall(where="KV cache", needed=window, given=max(0, cache), unit="tokens (one full window)"))
    if hardware.host_memory is not None and host_peak > hardware.host_memory:
        given = hardware.host_memory / GIB
        found.append(Shortfall(where="host", needed=host_peak / GIB, given=given, unit="GiB per host"))
    if hardware.num_gpus is not None and num_gpus > hardware.num_gpus:
        found.append(Shortfall(where="cluster", needed=num_gpus, given=hardware.num_gpus, unit="GPUs"))
    return tuple(found)
