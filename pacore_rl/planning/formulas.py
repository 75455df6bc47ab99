"""Every formula of a plan: bytes of a learner, of an engine and of a host. Units are bytes and tokens throughout.

Symbols: P parameters, H hidden size, Q and K widths of all query and all key heads, I inner size of the MLP, V words,
L layers, N ranks, b bytes of a weight (4 in fp32, 2 in bf16). Sources:

    [ZeRO]  Rajbhandari et al., arXiv 1910.02054: what each stage shards
    [Act]   Korthikanti et al., arXiv 2205.05198: counting what a layer keeps for its backward pass
    [Uly]   Jacobs et al., arXiv 2309.14509: sequence parallelism by all-to-all over heads
    [LoRA]  Hu et al., arXiv 2106.09685
    [PA]    Kwon et al., arXiv 2309.06180: paged KV cache
    [code]  pacore_rl/engine and the pinned DeepSpeed, transformers and vLLM, read

What no formula gives is a constant below. That of CPU learners was measured by ``scripts/bench/plan_memory.py``; the
others are estimates until they have been measured on a GPU, and are marked so.
"""

from __future__ import annotations

import math

from pacore_rl.planning.shapes import ModelShape

KIB, MIB, GIB = 2**10, 2**20, 2**30

CPU_LEARNER_RUNTIME = 510 * MIB
"""Resident before there is a batch: Python, torch, transformers, DeepSpeed and gloo. Measured, 2026-11-24."""
CPU_ENGINE_RUNTIME = 1 * GIB
"""The same of a process with vLLM in it. An estimate."""
GPU_RUNTIME = 2 * GIB
"""CUDA context, kernels, NCCL's buffers and what the allocator cannot give out. An estimate."""
GPU_PROCESS_HOST = 4 * GIB
"""Host memory of a process that drives a GPU: libraries, pinned buffers. An estimate."""
LEARNER_SHARE = 0.95
"""Share of a GPU that learners may fill; torch's allocator loses some of it to fragments. An estimate."""
CUDA_GRAPHS = 1 * GIB
"""Captured graphs of an engine that does not run eagerly. An estimate."""
SLEEPING_ENGINE = 2 * GIB
"""What stays on the GPU of an engine that sleeps: its CUDA context and communicators. An estimate."""

BUCKET_ELEMENTS = 500 * 2**20
"""Most elements of a gradient bucket (``engine.learner_worker``)."""
LIVE_ELEMENTS = 1_000_000_000
"""Parameters that DeepSpeed ZeRO-3 keeps gathered at most (``stage3_max_live_parameters``)."""
SUBGROUP_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO-3 steps at a time (``sub_group_size``)."""
ENGINE_STEP_TOKENS = 8192
"""Tokens of one engine step, as vLLM chooses for its server on H100 and H200. It takes 16,384 on GPUs of 160 GiB and
more, 2,048 on A100 and on smaller ones."""


# --- what learns ------------------------------------------------------------------------------------------------------


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Parameters of adapters on every linear layer but the head: rank x (inputs + outputs) each. [LoRA]

    Experts are left out, whose weights are no linear layers in transformers 5.
    """
    hidden, query, key = shape.hidden_size, shape.query_size, shape.kv_size
    widths = 2 * (hidden + query) + 2 * (hidden + key)
    if not shape.num_experts:
        widths += 3 * (hidden + shape.intermediate_size)
    return shape.num_layers * rank * widths


def deepspeed_stage(zero_stage: int, *, bfloat16: bool) -> int:
    """The stage that DeepSpeed is asked for: ZeRO-2 where the setting is ZeRO-1 in bfloat16.

    There, with gradients that add up in fp32, DeepSpeed switches to an optimizer of another kind, which steps on a
    gradient that is no number, cannot leave the GPU for colocated engines, and keeps its states where checkpoints do
    not look. ZeRO-2 comes to the same weights with less memory; it reduces gradients in every micro-batch. [code]
    """
    return 2 if zero_stage == 1 and bfloat16 else zero_stage


def weights(parameters: int, *, itemsize: int, zero_stage: int, ranks: int) -> int:
    """The weights that compute: b P, of which stage 3 gives each rank a share. [ZeRO]"""
    return math.ceil(itemsize * parameters / (ranks if zero_stage == 3 else 1))


def optimizer(trainable: int, *, ranks: int) -> int:
    """fp32 master weights and Adam's two moments: 12 bytes a parameter, sharded in every stage. [ZeRO]

    An fp32 model has the masters too: DeepSpeed steps a flat copy of its own partition. [code]
    """
    return math.ceil(12 * trainable / ranks)


def gradients(trainable: int, *, zero_stage: int, ranks: int) -> int:
    """Accumulated gradients: 4 P, of which stages 2 and 3 give each rank a share. [ZeRO]

    They add up in fp32 whatever the type of the weights (``engine.deepspeed_options``); under stage 1 every rank keeps
    all of them until it steps. [code]
    """
    return math.ceil(4 * trainable / (ranks if zero_stage >= 2 else 1))


def gradients_on_host(zero_stage: int, *, bfloat16: bool) -> bool:
    """Whether gradients add up in the host's memory where the optimizer is there. [code]

    Under stage 2 in bfloat16 they do not: DeepSpeed adds them up in an fp32 partition on the GPU
    (``stage_1_and_2.py``, ``_build_compact_grad_partition_buffer``) and moves their sum when it steps. In fp32 it adds
    them up on the host. Under stage 1 they stay with the weights.
    """
    return zero_stage == 3 or (zero_stage == 2 and not bfloat16)


def step_gradients(trainable: int, *, zero_stage: int, ranks: int, offloaded: bool = False) -> int:
    """The fp32 copy of a rank's gradients that the optimizer takes: 4 P / N. [code]

    Under stage 3 a group at a time, unless it is on the host, where every group keeps its own.
    """
    own = math.ceil(trainable / ranks)
    return 4 * (min(own, SUBGROUP_ELEMENTS) if zero_stage == 3 and not offloaded else own)


def offload_buffers(trainable: int, largest: int, *, itemsize: int, zero_stage: int, ranks: int) -> tuple[int, int]:
    """Bytes on GPU and host of what carries gradients and weights between them under stages 1 and 2. [code]

    A buffer of the ``largest`` trainable parameter (in elements) on each side, and on the host the stepped weights.
    """
    if zero_stage == 3:
        return 0, 0
    return itemsize * largest, itemsize * (largest + math.ceil(trainable / ranks))


def collectives(parameters: int, *, itemsize: int, zero_stage: int, ranks: int, overlap: bool) -> int:
    """Buffers of the collectives: the gradient bucket, two where communication overlaps under stages 1 and 2. [code]

    A single rank keeps its bucket too. ``itemsize``: of what is sent, 4 where ranks share sequences
    (``engine.deepspeed_options``).
    """
    bucket = min(math.ceil(parameters / MIB) * MIB, BUCKET_ELEMENTS)
    return itemsize * bucket * (2 if overlap and zero_stage < 3 else 1)


def reduction(trainable: int, largest: int, *, itemsize: int, sent: int, zero_stage: int) -> int:
    """What stage 3 takes beside its bucket while it reduces: a bucket in the order of the ranks, or a copy of the
    ``largest`` weight's gradients (in elements) where they are sent in another type and exceed a bucket. [code]

    DeepSpeed's ``coalesced_collectives.py``, ``reduce_scatter_coalesced``, and ``stage3.py``, ``__avg_scatter_grads``.
    """
    if zero_stage < 3:
        return 0
    bucket = min(trainable, BUCKET_ELEMENTS)
    return sent * (largest if sent != itemsize and largest > bucket else bucket)


def gathered(shape: ModelShape, parameters: int, *, itemsize: int, zero_stage: int) -> int:
    """Whole parameters that stage 3 holds while it computes: up to a limit, and the output head beside them. [code]"""
    if zero_stage < 3:
        return 0
    return itemsize * min(parameters, LIVE_ELEMENTS + shape.embedding_parameters)


# --- what a batch costs -----------------------------------------------------------------------------------------------


def layer_activations(
    shape: ModelShape,
    tokens: int,
    *,
    itemsize: int,
    query_slots: int,
    key_slots: int,
    mask_elements: int = 0,
    mlp_tile_tokens: int = 0,
) -> int:
    """What one layer keeps for its backward pass, by counting the tensors that autograd saves. [Act, code]

    ============  =========================================================  =======================================
    two norms     input in fp32, normalised, scaled                          2 H (4 + 2 b) a token
    q, k norms    projection in fp32, normalised                             (Q + K) (4 + b) a token
    attention     rows of queries and outputs; of keys and values            2 b Q a query slot; 2 b K a key slot
    its output    packed again for the output projection                     b Q a token
    MLP           gate, its silu, up, their product                          4 b I a token; with experts, each token's
                                                                             k experts and their inputs and outputs
    ============  =========================================================  =======================================

    Args:
        query_slots, key_slots: of the rows that attention lays out: a prompt that several rows share is repeated.
        mask_elements: queries x keys of masked rows; kept in fp32 (CPUs only; ``engine.document_attention``).
        mlp_tile_tokens: above 0, the MLP keeps its input and one tile.
    """
    hidden, query, key = shape.hidden_size, shape.query_size, shape.kv_size
    norms = 2 * hidden * (4 + 2 * itemsize) * tokens
    heads = (query + key) * (4 + itemsize) * tokens if shape.qk_norm else 0
    rows = 2 * itemsize * (query * query_slots + key * key_slots) + itemsize * query * tokens
    mlp = mlp_activations(shape, tokens, itemsize=itemsize, tile_tokens=mlp_tile_tokens)
    return norms + heads + rows + mlp + 4 * mask_elements


def mlp_activations(shape: ModelShape, tokens: int, *, itemsize: int, tile_tokens: int = 0) -> int:
    """The last line of ``layer_activations``."""
    token = 4 * itemsize * shape.intermediate_size
    if shape.num_experts:
        token = shape.experts_per_token * (token + 2 * itemsize * shape.hidden_size) + 8 * shape.num_experts
    return token * (min(tokens, tile_tokens) if tile_tokens else tokens)


def attention_gradients(shape: ModelShape, slots: int, *, itemsize: int) -> int:
    """What the backward pass of attention on GPUs holds at once, in rows: (4 + 4 b) Q + 2 b K a slot.

    Gradients of outputs and queries (b Q each), queries' again in fp32 while they add up, those of keys and values for
    every query head (2 b Q) and for every key head (2 b K). PyTorch's flash_api.cpp, ``mha_bwd``.
    """
    query, key = shape.query_size, shape.kv_size
    return ((4 + 4 * itemsize) * query + 2 * itemsize * key) * slots


def activations(
    shape: ModelShape,
    layer: int,
    tokens: int,
    *,
    itemsize: int,
    checkpointing: bool,
    offloaded: bool,
    gradients: int | None = None,
) -> int:
    """All layers' activations at the turn from forward to backward, and the gradients of one layer's. [Act]

    Without checkpointing L layers are kept; with it each layer's input (b H a token) and one layer, computed again.
    ``gradients`` of a layer's tensors: by default taken to be as large as the tensors.
    """
    inputs = 0 if offloaded else itemsize * shape.hidden_size * tokens * shape.num_layers
    kept = inputs + layer if checkpointing else shape.num_layers * layer
    return kept + (layer if gradients is None else gradients)


def checkpoints_on_host(shape: ModelShape, tokens: int, *, itemsize: int) -> int:
    """Layer inputs that wait in the host's memory: b H a token and layer."""
    return itemsize * shape.hidden_size * tokens * shape.num_layers


def logits(shape: ModelShape, *, chunk_tokens: int) -> int:
    """fp32 logits of one chunk and one temporary of their size (``ppo.log_probs``). [code]"""
    return 2 * 4 * chunk_tokens * shape.vocab_size


def head_gradient(shape: ModelShape, *, itemsize: int) -> int:
    """The output head's gradient, in the weight's type: b V H. [code]

    The backward pass writes it once, a block of the vocabulary at a time (``ppo.log_probs``).
    """
    return itemsize * shape.embedding_parameters


def final_states(shape: ModelShape, tokens: int, *, itemsize: int) -> int:
    """The last norm's tensors, and the states that predict actions, gathered, with their gradient. [code]"""
    return shape.hidden_size * tokens * (4 + 4 * itemsize)


# --- engines ----------------------------------------------------------------------------------------------------------


def kv_token(shape: ModelShape, *, itemsize: int, tensor_parallel: int, pipeline_parallel: int) -> int:
    """Cache of one token on one GPU: keys and values of its layers and heads; a head is not split. [PA]"""
    heads = max(1, math.ceil(shape.num_kv_heads / tensor_parallel))
    layers = math.ceil(shape.num_layers / pipeline_parallel)
    return 2 * layers * heads * shape.head_dim * itemsize


def engine_workspace(shape: ModelShape, *, itemsize: int, sequences: int, step_tokens: int, eager: bool) -> int:
    """One step's activations (a residual, a gate and an up projection), sampling (four fp32 copies of the logits of all
    sequences) and CUDA graphs. An estimate: vLLM measures its own when it starts.
    """
    inner = shape.intermediate_size * max(1, shape.experts_per_token)
    step = step_tokens * itemsize * (4 * shape.hidden_size + 3 * inner)
    return step + 4 * 4 * sequences * shape.vocab_size + (0 if eager else CUDA_GRAPHS)


def sync_buckets(shape: ModelShape, *, itemsize: int, bucket_bytes: int) -> int:
    """Whole parameters in flight while weights are sent; the largest (the embedding) goes alone. [code]"""
    return max(bucket_bytes, itemsize * shape.embedding_parameters)
