"""The smallest cluster that a recipe fits, and the settings that would mend a plan that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pacore_rl.config import Config
from pacore_rl.planning.placement import plan_placement
from pacore_rl.planning.plan import Hardware, Plan, make_plan
from pacore_rl.planning.shapes import ModelShape
from pacore_rl.planning.workload import Workload
from pacore_rl.settings import plain

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Learner ranks that a search tries; any number that gives each a row is possible."""
PARALLEL = (1, 2, 4, 8, 16)
"""Sequence- and tensor-parallel sizes that a search tries; an engine's no larger than a host."""

Settings = Mapping[str, Any]


def changed(config: Config, settings: Settings) -> Config | None:
    """The configuration with other values of dotted keys; None where it would not be one, or could not be placed."""
    tree = config.model_dump()
    for key, value in settings.items():
        section, name = key.split(".")
        tree[section][name] = value
    try:
        there = Config.model_validate(tree)
        plan_placement(there, kind="cuda")
    except ValueError:
        return None
    return there


def as_overrides(settings: Settings) -> tuple[str, ...]:
    """``KEY=VALUE``, as the command line takes them."""
    return tuple(f"{key}={plain(value)}" for key, value in settings.items())


def smallest_cluster(
    config: Config, hardware: Hardware, work: Workload, shape: ModelShape
) -> tuple[Plan, Settings] | None:
    """The plan of the fewest GPUs on which the recipe fits, and its parallel sizes; None where no number is enough.

    Only the sizes that a cluster decides are searched (ranks, sequence and tensor parallelism, engines); what the
    recipe says of stages, offloading and micro-batches stays. Engines with GPUs of their own are searched first; the
    two learners together, for they share hosts.
    """
    boundless = replace(hardware, num_gpus=None)

    def first(candidates: Iterable[Settings], wanted: frozenset[str], base: Settings) -> Settings | None:
        for candidate in candidates:
            config_there = changed(config, {**base, **candidate})
            if config_there is None:
                continue
            plan = make_plan(config_there, boundless, work, shape)
            if not wanted & {shortfall.where for shortfall in plan.shortfalls}:
                return candidate
        return None

    if config.rollout.placement == "colocated":
        found = first(_colocated_sizes(shape), frozenset({"GPU", "engine", "KV cache", "host"}), {})
    else:
        found = {}
        for candidates, wanted in (
            (_engine_sizes(shape), frozenset({"engine", "KV cache"})),
            (_learner_pairs(shape), frozenset({"actor", "critic", "host"})),
        ):
            own = first(candidates, wanted, found)
            if own is None:
                return None
            found = {**found, **own}
    if found is None:
        return None
    there = changed(config, found)
    assert there is not None
    return make_plan(there, hardware, work, shape), found


def mend(plan: Plan) -> Settings:
    """Settings with which everything would fit on the same GPUs, as few of a fixed list as it takes; empty if none do.

    The list goes from what costs nothing to what costs time. A setting is kept if it lessens what is missing; at the
    end those that turned out to be needless are dropped.
    """
    chosen: dict[str, Any] = {}
    best = _missing(plan)
    for settings in _remedies(plan):
        if best == 0:
            break
        there = _replan(plan, {**chosen, **settings})
        if there is not None and _missing(there) < best:
            chosen, best = {**chosen, **settings}, _missing(there)
    if best > 0:
        return {}
    for key in list(chosen):
        without = {name: value for name, value in chosen.items() if name != key}
        there = _replan(plan, without)
        if there is not None and there.fits:
            chosen = without
    return chosen


def _replan(plan: Plan, settings: Settings) -> Plan | None:
    config = changed(plan.config, settings)
    return None if config is None else make_plan(config, plan.hardware, plan.work, plan.shape)


def _missing(plan: Plan) -> float:
    """How far the plan is from fitting: the sum of the shares by which needs exceed what is given."""
    return sum((shortfall.needed - shortfall.given) / max(shortfall.needed, 1) for shortfall in plan.shortfalls)


def _remedies(plan: Plan) -> Iterator[Settings]:
    config = plan.config
    stages = config.rollout.pipeline_parallel
    for sizes in PARALLEL[1:]:
        whole = sizes * stages <= plan.hardware.gpus_per_host
        larger = config.rollout.num_workers >= sizes > config.rollout.tensor_parallel
        if larger and whole and _splits(plan.shape, sizes):
            # The same GPUs, fewer and larger engines.
            workers = config.rollout.num_workers * config.rollout.tensor_parallel // sizes
            yield {"rollout.tensor_parallel": sizes, "rollout.num_workers": max(1, workers)}
    short = {shortfall.where for shortfall in plan.shortfalls}
    roles = [role for role in ("actor", "critic") if {role, "GPU", "host", "cluster"} & short]
    for role in roles:
        learner = config.actor if role == "actor" else config.critic
        yield {f"{role}.gradient_checkpointing": True}
        if learner.num_ranks > 1:
            yield {f"{role}.zero_stage": 3}
        yield {f"{role}.mlp_tile_tokens": 4096}
        yield {f"{role}.logprob_chunk_tokens": 1024}
        for tokens in (16_384, 8192, 4096):
            if tokens < learner.micro_batch_tokens:
                yield {f"{role}.micro_batch_tokens": tokens}
        for sizes in PARALLEL:
            if sizes > learner.sequence_parallel and sizes <= learner.num_ranks and _splits(plan.shape, sizes):
                yield {f"{role}.sequence_parallel": sizes}
        yield {f"{role}.offload_checkpoints": True}
        for ranks in RANKS:
            if ranks > learner.num_ranks and (plan.hardware.num_gpus is None or ranks <= plan.hardware.num_gpus):
                yield _other_ranks(config, role, ranks)
        yield {f"{role}.offload_optimizer": True}
        if learner.zero_stage == 3:
            yield {f"{role}.offload_parameters": True}
    yield {"rollout.gpu_memory_utilization": 0.9}
    size = config.rollout.tensor_parallel * stages
    if size > plan.hardware.gpus_per_host:
        for sizes in reversed(PARALLEL):
            if sizes * stages <= plan.hardware.gpus_per_host and _splits(plan.shape, sizes):
                workers = max(1, config.rollout.num_workers * config.rollout.tensor_parallel // sizes)
                yield {"rollout.tensor_parallel": sizes, "rollout.num_workers": workers}
    if plan.hardware.num_gpus is not None and "cluster" in short:
        room = (plan.hardware.num_gpus - (plan.num_gpus - config.rollout.num_workers * size)) // size
        if config.rollout.placement == "colocated":
            yield _other_ranks(config, "actor", plan.hardware.num_gpus)
        elif room >= 1:
            yield {"rollout.num_workers": room}


def _other_ranks(config: Config, role: str, ranks: int) -> Settings:
    """Other ranks of a learner; colocated, where sizes are equal, of the other and the engines too."""
    if config.rollout.placement == "separate":
        return {f"{role}.num_ranks": ranks}
    size = config.rollout.tensor_parallel * config.rollout.pipeline_parallel
    return {"actor.num_ranks": ranks, "critic.num_ranks": ranks, "rollout.num_workers": max(1, ranks // size)}


def _splits(shape: ModelShape, size: int) -> bool:
    """Whether heads can be shared out: query heads evenly, key heads evenly or each to several."""
    keys = shape.num_kv_heads
    return shape.num_heads % size == 0 and (keys % size == 0 or size % keys == 0)


def _learner_sizes(role: str, shape: ModelShape) -> Iterator[Settings]:
    for ranks in RANKS:
        for parallel in PARALLEL:
            if parallel <= ranks and _splits(shape, parallel):
                yield {f"{role}.num_ranks": ranks, f"{role}.sequence_parallel": parallel}


def _learner_pairs(shape: ModelShape) -> Iterator[Settings]:
    """Sizes of both learners, the fewest ranks in all first."""
    actors, critics = _learner_sizes("actor", shape), list(_learner_sizes("critic", shape))
    pairs = ({**actor, **critic} for actor in actors for critic in critics)
    yield from sorted(pairs, key=lambda pair: pair["actor.num_ranks"] + pair["critic.num_ranks"])


def _engine_sizes(shape: ModelShape) -> Iterator[Settings]:
    for size in PARALLEL:
        if _splits(shape, size):
            yield {"rollout.num_workers": 1, "rollout.tensor_parallel": size, "rollout.pipeline_parallel": 1}


def _colocated_sizes(shape: ModelShape) -> Iterator[Settings]:
    for learners in _learner_sizes("actor", shape):
        ranks, parallel = learners.values()
        for engine in _engine_sizes(shape):
            if engine["rollout.tensor_parallel"] <= ranks:
                yield {
                    **learners,
                    "critic.num_ranks": ranks,
                    "critic.sequence_parallel": parallel,
                    **engine,
                    "rollout.num_workers": ranks // engine["rollout.tensor_parallel"],
                }
