"""Settings of the machinery: learners on DeepSpeed, engines on vLLM, workers on Ray."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pacore_rl.config_base import Count, Positive, Section


class LoraConfig(Section):
    """Low-rank adapters (peft): only they and the critic's head learn."""

    rank: Positive = 32
    """Inner size of an adapter."""
    alpha: float = Field(default=64.0, gt=0)
    """An adapter's output is scaled by alpha / rank."""
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers that get one; null: all but the heads. Experts of a mixture, stacked, get none."""


class LearnerConfig(Section):
    """One DeepSpeed model: the actor or the critic."""

    learning_rate: float = Field(gt=0)
    """Of Adam, after the warm-up."""
    warmup_steps: Count = 50
    """Optimizer steps of linear warm-up, constant afterwards. An iteration has one for each mini-batch."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's two moments."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the weights (AdamW)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient of the whole model is scaled down to this L2 norm."""
    zero_stage: Literal[1, 2, 3] = 2
    """What DeepSpeed shards over the ranks: 1 optimizer state (as 2 in bfloat16), 2 gradients too, 3 weights too."""
    num_ranks: Positive = 1
    """Processes; one GPU each, or one CPU thread pool each."""
    sequence_parallel: Positive = 1
    """Ranks that share each sequence (Ulysses); num_ranks / sequence_parallel groups share out the rows."""
    offload_optimizer: bool = False
    """Keep Adam's moments and the fp32 weights in the host's memory."""
    offload_parameters: bool = False
    """Keep the weights in the host's memory too; needs zero_stage 3."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    micro_batch_tokens: Positive = 32_768
    """Tokens (prompts included) of one rank in a forward pass; a row that exceeds those of its group goes alone. Rows
    that share prompts have at most eight times as many with the prompts counted in each, as attention lays them out."""
    logprob_chunk_tokens: Positive = 1024
    """Log-probs are computed this many tokens at a time, so that nothing of size tokens x vocabulary is alive."""
    gradient_checkpointing: bool | None = None
    """Keep a layer's input only and compute the rest again in the backward pass; null does so on GPUs."""
    offload_checkpoints: bool = False
    """Keep those layer inputs in the host's memory; needs gradient_checkpointing."""
    fused_kernels: bool = False
    """Norms, rotary positions and gated MLPs in one kernel each, by Liger; for GPUs."""
    mlp_tile_tokens: Count = 0
    """Compute the MLP of a layer this many tokens at a time, and again in the backward pass; 0: all at once."""


class ActorConfig(LearnerConfig):
    """The policy."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Of Adam, after the warm-up (Open-Reasoner-Zero's)."""


class CriticConfig(LearnerConfig):
    """The value function, started from the policy's weights with a fresh scalar head, or from a saved critic."""

    path: str | None = None
    """A saved critic to go on with; null starts from the policy's weights with a fresh head."""

    learning_rate: float = Field(default=5e-6, gt=0)
    """Of Adam, after the warm-up (Open-Reasoner-Zero's)."""


class RolloutConfig(Section):
    """The vLLM engines."""

    num_workers: Positive = 1
    """Engines (data parallel); requests are shared out among them."""
    placement: Literal["separate", "colocated"] = "separate"
    """separate: engines and learners each have their own GPUs; colocated: they take turns on the same ones."""
    tensor_parallel: Positive = 1
    """Processes that share each layer of one engine."""
    pipeline_parallel: Positive = 1
    """Processes that share the layers of one engine out."""
    routing: Literal["auto", "static", "dynamic"] = "auto"
    """dynamic: an engine gets its next response when it has room, the one with the fewest outstanding tokens first;
    static: all are shared out at once, so that runs repeat digit for digit. auto: static on CPUs."""
    max_concurrent_sequences: Positive = 256
    """vLLM's max_num_seqs."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory of the KV cache of one engine on CPU."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that an engine takes."""
    enforce_eager: bool = True
    """Leave out CUDA graphs and compilation: a faster start, slower tokens."""
    weight_transfer: Literal["auto", "gloo", "nccl", "ipc"] = "auto"
    """auto: gloo on CPUs; on GPUs ipc where engines and learners are colocated, else nccl."""
    sync_bucket_mib: Positive = 512
    """Whole parameters in flight during a weight sync, on sender and receiver; a larger parameter goes alone."""


class ClusterConfig(Section):
    """Ray."""

    address: str | None = None
    """None starts a private cluster on this machine and stops it at the end; 'auto' or host:port joins one."""
    cpu_threads_per_worker: Positive | None = None
    """OpenMP threads of each worker; null: 1 on CPUs, and on GPUs a learner's share of its host's cores, which step the
    optimizer where that is offloaded."""
    start_timeout_seconds: float = Field(default=600.0, gt=0)
    """Longest time for the cluster and its workers to start."""
