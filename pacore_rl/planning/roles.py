"""What one process of a role needs, part by part: a rank of the actor or the critic, or one GPU of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pacore_rl.config import Config, LearnerConfig
from pacore_rl.planning import formulas as f
from pacore_rl.planning.shapes import ModelShape
from pacore_rl.planning.workload import Packed, Workload, largest_passes

Learner = Literal["actor", "critic"]

KEPT_BETWEEN_STEPS: Mapping[int, tuple[str, ...]] = {
    1: ("weights", "optimizer"),
    2: ("weights", "optimizer"),
    3: ("weights", "optimizer", "gradients"),
}
"""Parts of a learner's GPU memory by ZeRO stage that wait in the host's while colocated engines work. [code]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One line of the sum."""

    name: str
    gpu: int = 0
    """Bytes on the process's GPU."""
    host: int = 0
    """Bytes in its host's memory."""
    how: str = ""
    """The sum, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """One role: what each of its processes holds at its peak."""

    name: str
    processes: int
    """Ranks, or GPUs of all engines; on CPUs, engines."""
    parameters: int
    """Of the whole model."""
    trainable: int
    parts: tuple[Part, ...]
    loading: Part | None = None
    """Everything that a rank holds while it starts, where that can be more than at work."""
    first: Part | None = None
    """What rank 0 alone holds beside its share of the above."""
    asleep: int = 0
    """Bytes that a process moves to its host's memory while others use its GPU."""
    cache_tokens: int = 0
    """Engines: tokens that the KV cache of one engine holds."""
    rows_at_once: int = 1
    """Learners: rows of one forward pass."""

    @property
    def gpu(self) -> int:
        """Bytes at the peak."""
        return sum(part.gpu for part in self.parts)

    @property
    def host(self) -> int:
        """Bytes at the peak: at work, or while it loads."""
        return self.host_at_work if self.loading is None else max(self.host_at_work, self.loading.host)

    @property
    def host_at_work(self) -> int:
        return sum(part.host for part in self.parts)

    @property
    def host_of_first(self) -> int:
        return self.first.host if self.first is not None else 0


def learner_role(role: Learner, config: Config, shape: ModelShape, work: Workload, *, cpu: bool) -> RolePlan:
    """A rank of the actor or the critic while it updates."""
    learner = config.learner(role)
    minibatches = config.minibatches(role)
    parameters = shape.policy_parameters if role == "actor" else shape.critic_parameters
    trainable = parameters
    if learner.lora is not None:
        trainable = f.lora_parameters(shape, learner.lora.rank) + (shape.hidden_size + 1 if role == "critic" else 0)
        parameters += f.lora_parameters(shape, learner.lora.rank)
    itemsize = _itemsize(config, cpu=cpu)
    state = _state_parts(learner, shape, parameters, trainable, itemsize=itemsize, cpu=cpu)
    passes = largest_passes(config, learner, work, minibatches=minibatches, cpu=cpu)
    everything = largest_passes(config, learner, work, minibatches=1, cpu=cpu)
    candidates = [_batch_parts(role, learner, shape, batch, everything, itemsize=itemsize, cpu=cpu) for batch in passes]
    parts = [
        _runtime(cpu=cpu, cpu_bytes=f.CPU_LEARNER_RUNTIME),
        *state,
        *max(candidates, key=lambda parts: sum(part.gpu for part in parts)),
    ]
    kept = f.optimizer(trainable, ranks=learner.num_ranks)
    parts.append(Part(name="checkpoint", host=kept, how="a copy of the optimizer, until it is written"))
    if role == "actor" and not cpu:
        bucket = f.sync_buckets(shape, itemsize=itemsize, bucket_bytes=config.rollout.sync_bucket_mib * f.MIB)
        parts.append(Part(name="weight sync", gpu=bucket, how="a bucket, or the embedding alone"))
    return RolePlan(
        name=role,
        processes=learner.num_ranks,
        parameters=parameters,
        trainable=trainable,
        parts=tuple(_on(part, cpu=cpu) for part in parts),
        loading=None if cpu else _loading(learner, shape, parameters, itemsize=itemsize),
        first=_whole_weights(role, shape, itemsize=itemsize),
        asleep=sum(part.gpu for part in state if part.name in KEPT_BETWEEN_STEPS[learner.zero_stage]),
        rows_at_once=everything[0].rows,
    )


def _whole_weights(role: Learner, shape: ModelShape, *, itemsize: int) -> Part:
    """Rank 0's copy of all weights, adapters merged, until a checkpoint is written (``engine.learner_state``). [code]

    Experts' gates are stacked in memory and apart in the file: what is written is a copy of them.
    """
    parameters = shape.policy_parameters if role == "actor" else shape.critic_parameters
    apart = shape.num_layers * shape.gate_parameters if shape.num_experts else 0
    return Part(
        name="checkpoint, rank 0",
        host=itemsize * (parameters + apart),
        how=f"beside the above: a copy of all weights ({count_words(parameters)} x {itemsize} B)"
        + (f", and of experts' gates apart ({count_words(apart)})" if apart else ""),
    )


def _loading(learner: LearnerConfig, shape: ModelShape, parameters: int, *, itemsize: int) -> Part | None:
    """What a rank's start costs beyond its work: nothing, but for experts.

    The file of weights is mapped into memory, where all ranks of a host share its pages and the kernel may drop them;
    under ZeRO-3 weight after weight goes to the GPU and is cut up there. Experts, a tensor each in the file, are copied
    into one in the memory of every rank. [code]
    """
    if not shape.num_experts:
        return None
    kept = f.weights(parameters, itemsize=itemsize, zero_stage=learner.zero_stage, ranks=learner.num_ranks)
    return Part(
        name="loading",
        host=f.GPU_PROCESS_HOST + itemsize * parameters + (kept if learner.offload_parameters else 0),
        how=f"before the above: experts being stacked ({count_words(parameters)} x {itemsize} B)",
    )


def _state_parts(
    learner: LearnerConfig, shape: ModelShape, parameters: int, trainable: int, *, itemsize: int, cpu: bool
) -> list[Part]:
    """Weights, optimizer and gradients with the buffers that move them."""
    ranks, stage = learner.num_ranks, f.deepspeed_stage(learner.zero_stage, bfloat16=itemsize == 2)
    over = f" / {ranks}" if ranks > 1 else ""
    held = f.weights(parameters, itemsize=itemsize, zero_stage=stage, ranks=ranks)
    adam = f.optimizer(trainable, ranks=ranks)
    grads = f.gradients(trainable, zero_stage=stage, ranks=ranks)
    copies = f.step_gradients(trainable, zero_stage=stage, ranks=ranks, offloaded=learner.offload_optimizer)
    sent = 4 if learner.sequence_parallel > 1 else itemsize
    buckets = f.collectives(trainable, itemsize=sent, zero_stage=stage, ranks=ranks, overlap=not cpu)
    whole = f.gathered(shape, parameters, itemsize=itemsize, zero_stage=stage)
    largest = 0 if learner.lora is not None else shape.largest_parameter
    reduced = f.reduction(trainable, largest, itemsize=itemsize, sent=sent, zero_stage=stage)
    parts = [
        Part(
            name="weights",
            **_placed(held, learner.offload_parameters),
            how=f"{count_words(parameters)} x {itemsize} B{over if stage == 3 else ''}",
        ),
        Part(
            name="optimizer",
            **_placed(adam, learner.offload_optimizer),
            how=f"{count_words(trainable)} x 12 B{over} (fp32 weights and two moments)",
        ),
        Part(
            name="gradients",
            **_placed(grads, learner.offload_optimizer and f.gradients_on_host(stage, bfloat16=itemsize == 2)),
            how=f"{count_words(trainable)} x 4 B{over if stage >= 2 else ''} (they add up in fp32)",
        ),
        Part(name="step", **_placed(copies, learner.offload_optimizer), how="fp32 gradients that are stepped"),
        Part(
            name="collectives",
            gpu=buckets + reduced + whole,
            how="buckets" + (", what is reduced, gathered weights" if whole else ""),
        ),
    ]
    if learner.offload_optimizer and stage < 3:
        there, here = f.offload_buffers(trainable, largest, itemsize=itemsize, zero_stage=stage, ranks=ranks)
        parts.append(Part(name="offload", gpu=there, host=here, how="buffers of the largest weight, stepped weights"))
    return parts


def _batch_parts(
    role: Learner,
    learner: LearnerConfig,
    shape: ModelShape,
    batch: Packed,
    everything: tuple[Packed, ...],
    *,
    itemsize: int,
    cpu: bool,
) -> list[Part]:
    """What grows with the tokens that a rank packs. ``everything``: of the passes without gradients, over all rows."""
    checkpointing = not cpu if learner.gradient_checkpointing is None else learner.gradient_checkpointing
    tiles = learner.mlp_tile_tokens
    layer = _layer(shape, batch, itemsize=itemsize, tiles=tiles)
    kept = f.activations(
        shape,
        layer,
        batch.tokens,
        itemsize=itemsize,
        checkpointing=checkpointing,
        offloaded=learner.offload_checkpoints,
        gradients=layer if cpu else _gradients(shape, batch, layer, itemsize=itemsize, tiles=tiles),
    )
    # Without gradients nothing is kept, but mini-batches do not cut the batch: one layer of it is alive.
    kept = max(kept, *(_layer(shape, whole, itemsize=itemsize, tiles=tiles) for whole in everything))
    slots = max(batch.query_slots, batch.key_slots)
    how = f"{batch.tokens:,} tokens, " + (f"{slots:,} slots in attention, " if slots > batch.tokens else "")
    how += f"{'layer inputs and one layer' if checkpointing else f'{shape.num_layers} layers'}"
    how += ", one layer's gradients" + (f", MLP in tiles of {tiles:,}" if tiles else "")
    waiting = f.checkpoints_on_host(shape, batch.tokens, itemsize=itemsize) if learner.offload_checkpoints else 0
    parts = [
        Part(name="activations", gpu=kept, host=waiting, how=how),
        Part(name="last states", gpu=f.final_states(shape, batch.tokens, itemsize=itemsize), how="final norm, actions"),
    ]
    if role == "actor":
        chunk = min(learner.logprob_chunk_tokens, max(whole.tokens for whole in everything))
        head = f.head_gradient(shape, itemsize=itemsize) if learner.lora is None else 0
        parts.append(
            Part(
                name="logits chunk",
                gpu=f.logits(shape, chunk_tokens=chunk) + head,
                how=f"{chunk:,} x {shape.vocab_size:,} words x 8 B" + (", the head's gradient" if head else ""),
            )
        )
    return parts


def _layer(shape: ModelShape, batch: Packed, *, itemsize: int, tiles: int) -> int:
    return f.layer_activations(
        shape,
        batch.tokens,
        itemsize=itemsize,
        query_slots=batch.query_slots,
        key_slots=batch.key_slots,
        mask_elements=batch.mask_elements,
        mlp_tile_tokens=tiles,
    )


def _gradients(shape: ModelShape, batch: Packed, layer: int, *, itemsize: int, tiles: int) -> int:
    """Gradients of one ``layer``: at the MLP's turn as much as its tensors, at attention's what a kernel on GPUs takes
    in the place of the MLP's tensors, which are gone by then."""
    gone = f.mlp_activations(shape, batch.tokens, itemsize=itemsize, tile_tokens=tiles)
    return max(layer, f.attention_gradients(shape, batch.query_slots, itemsize=itemsize) - gone)


def engine_role(config: Config, shape: ModelShape, *, gpu_memory: int | None) -> RolePlan:
    """One GPU of an engine, or on CPUs one engine."""
    rollout, cpu = config.rollout, gpu_memory is None
    itemsize = _itemsize(config, cpu=cpu)
    size = 1 if cpu else rollout.tensor_parallel * rollout.pipeline_parallel
    held = itemsize * shape.policy_parameters // size
    weights = Part(
        name="weights",
        gpu=held,
        how=f"{count_words(shape.policy_parameters)} x {itemsize} B" + f" / {size}" * (size > 1),
    )
    token = f.kv_token(
        shape,
        itemsize=itemsize,
        tensor_parallel=1 if cpu else rollout.tensor_parallel,
        pipeline_parallel=1 if cpu else rollout.pipeline_parallel,
    )
    step_tokens = f.ENGINE_STEP_TOKENS
    work = f.engine_workspace(
        shape,
        itemsize=itemsize,
        sequences=rollout.max_concurrent_sequences,
        step_tokens=step_tokens,
        eager=rollout.enforce_eager,
    )
    bucket = f.sync_buckets(shape, itemsize=itemsize, bucket_bytes=rollout.sync_bucket_mib * f.MIB)
    fixed = [_runtime(cpu=cpu, cpu_bytes=f.CPU_ENGINE_RUNTIME), weights]
    if cpu:
        cache = int(rollout.kv_cache_gib * f.GIB)
        told = f"rollout.kv_cache_gib={rollout.kv_cache_gib:g}"
    else:
        fixed.append(Part(name="one step", gpu=work, how=f"{rollout.max_concurrent_sequences} sequences"))
        cache = int(rollout.gpu_memory_utilization * (gpu_memory or 0)) - sum(part.gpu for part in fixed)
        told = f"{rollout.gpu_memory_utilization:g} of the GPU less the above; {token / f.KIB:,.0f} KiB a token"
    parts = [
        *fixed,
        Part(name="KV cache", gpu=max(0, cache), how=told),
        Part(name="weight sync", gpu=0 if cpu else bucket, how="a bucket, or the embedding alone"),
    ]
    if not cpu:
        parts = [_with_host(part, f.GPU_PROCESS_HOST if part.name == "runtime" else 0) for part in parts]
    return RolePlan(
        name="engine",
        processes=rollout.num_workers * size,
        parameters=shape.policy_parameters,
        trainable=0,
        parts=tuple(_on(part, cpu=cpu) for part in parts if part.gpu or part.host or part.name == "KV cache"),
        cache_tokens=max(0, cache) // token,
    )


def _runtime(*, cpu: bool, cpu_bytes: int) -> Part:
    if cpu:
        return Part(name="runtime", host=cpu_bytes, how="libraries")
    return Part(name="runtime", gpu=f.GPU_RUNTIME, host=f.GPU_PROCESS_HOST, how="CUDA, NCCL, libraries (estimate)")


def _with_host(part: Part, host: int) -> Part:
    return Part(name=part.name, gpu=part.gpu, host=max(part.host, host), how=part.how)


def _on(part: Part, *, cpu: bool) -> Part:
    """On CPUs everything is in the host's memory."""
    return Part(name=part.name, host=part.gpu + part.host, how=part.how) if cpu else part


def _placed(amount: int, offloaded: bool) -> dict[str, int]:
    return {"host": amount} if offloaded else {"gpu": amount}


def _itemsize(config: Config, *, cpu: bool) -> int:
    """Bytes of a weight; ``model.dtype`` auto is bf16 on GPUs and fp32 on CPUs."""
    dtype = config.model.dtype
    return 4 if dtype == "float32" or (dtype == "auto" and cpu) else 2


def count_words(parameters: int) -> str:
    """``8.19B``, ``0.66M``."""
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e8 else f"{parameters / 1e6:.2f}M"
