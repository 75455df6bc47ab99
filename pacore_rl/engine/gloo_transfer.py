"""Weight transfer over gloo, for machines without GPUs: one trainer sends, every vLLM worker receives.

vLLM ships NCCL and CUDA IPC; this backend has the shape of its NCCL one (``nccl_engine.py``). Parameters travel packed
into buffers, because a broadcast for each of hundreds of small tensors is slow. Both sides cut the same list of
parameters into the same buffers, so only bytes are sent.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import ClassVar, Self

import torch
from torch import nn
from torch.distributed import ProcessGroupGloo, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import BroadcastOptions, PrefixStore
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from pacore_rl.engine.vllm_plugin import GLOO_BACKEND
from pacore_rl.engine.weight_source import buckets

SENDER = 0


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """What a vLLM worker needs to join the group."""

    store_host: str
    store_port: int
    rank_offset: int
    """Rank of the first process of this engine; the sender is 0."""
    world_size: int
    bucket_bytes: int
    timeout_seconds: float


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """What a learner rank needs to join the group; only rank 0 does."""

    backend: ClassVar[str] = GLOO_BACKEND

    store_host: str
    store_port: int
    world_size: int
    bucket_bytes: int
    """Parameters travel in buffers of at most this much; a larger one goes alone."""
    timeout_seconds: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The parameters of one update, in the order in which they are sent."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


def join_group(info: GlooInitInfo | GlooTrainerInitInfo, *, rank: int) -> ProcessGroupGloo:
    """Meet the other processes at the store and connect to them; a group apart from torch's global one.

    Raises:
        RuntimeError: some process did not come within ``timeout_seconds``.
    """
    timeout = timedelta(seconds=info.timeout_seconds)
    store = TCPStore(info.store_host, info.store_port, is_master=False, timeout=timeout)
    options = ProcessGroupGloo._Options()  # pyright: ignore[reportAttributeAccessIssue] (missing in torch's stubs)
    # Not the host's name: it need not resolve, or may resolve to an interface that others cannot reach.
    address = own_address_towards(info.store_host, info.store_port)
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timeout
    return ProcessGroupGloo(PrefixStore("weights", store), rank, info.world_size, options)


def own_address_towards(host: str, port: int) -> str:
    """The address of this machine that a packet to ``host`` would leave from: the one that host can answer to.

    Asks the system's routing table; nothing is sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]


def broadcast(group: ProcessGroupGloo, buffer: torch.Tensor) -> None:
    """Send the buffer from rank 0 to all others, into theirs of the same size.

    Raises:
        RuntimeError: a peer died or the group's timeout passed.
    """
    options = BroadcastOptions()
    options.rootRank = SENDER
    options.rootTensor = 0
    group.broadcast([buffer], options).wait()  # pyright: ignore[reportAttributeAccessIssue] (missing in torch's stubs)


def num_bytes(parameter: ParamMeta) -> int:
    return math.prod(parameter.shape) * parameter.dtype.itemsize


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The receiving side, inside a vLLM worker."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: ProcessGroupGloo | None = None
    _bucket_bytes: int = 0

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        # Every process of a tensor- or pipeline-parallel engine receives everything, and loads its part.
        self._group = join_group(init_info, rank=init_info.rank_offset + self.parallel_config.rank)
        self._bucket_bytes = init_info.bucket_bytes

    def start_weight_update(self) -> None:
        # vLLM packs linear weights for the CPU's kernels and frees the originals. Only its layerwise reload brings back
        # parameters that can be loaded into, and packs them again.
        initialize_layerwise_reload(self.model)
        forget_expert_kernels(self.model)

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        assert self._group is not None, "init_transfer_engine comes first"
        parameters = [
            ParamMeta(name, getattr(torch, dtype), tuple(shape))
            for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        ]
        for chunk in buckets(parameters, num_bytes, self._bucket_bytes):
            sizes = [num_bytes(parameter) for parameter in chunk]
            buffer = torch.empty(sum(sizes), dtype=torch.uint8)
            broadcast(self._group, buffer)
            # Copies: they are aligned for their type whatever precedes them in the buffer, and the layerwise reload,
            # which holds on to weights until their layer is complete, does not hold on to the buffer.
            self.model.load_weights(  # pyright: ignore[reportCallIssue] (vLLM's models have it, nn.Module does not)
                [
                    (parameter.name, piece.clone().view(parameter.dtype).view(parameter.shape).to(self.device))
                    for parameter, piece in zip(chunk, buffer.split(sizes), strict=True)
                ]
            )

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        repack_output_heads(self.model)

    def shutdown(self) -> None:
        self._group = None


def repack_output_heads(model: nn.Module) -> None:
    """Pack the weights of embeddings and output heads again for the CPU's matrix kernels.

    A head tied to the embedding shares its parameter, but multiplies with a packed copy of its own. The reload sees no
    weight arrive under the head's name and leaves the old copy in place (vLLM 0.32): without this, the engine would
    embed with the new weights and predict with the old.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedEmbeddingMethod):
            method.process_weights_after_loading(module)


def forget_expert_kernels(model: nn.Module) -> None:
    """Have the experts' weights packed again once new ones are loaded.

    vLLM 0.32 packs them for the CPU's grouped product only when it makes a layer's kernel, which it does once: later
    weights would stay as they came, and the kernel would read them as packed.
    """
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts  # a sender does without
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod) and method.moe_kernel is not None:
            if isinstance(method.moe_kernel.fused_experts, CPUUnquantizedExperts):
                method.moe_kernel = None


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The sending side, inside a learner. Ranks above 0 take part in gathering only."""

    init_info_cls = GlooTrainerInitInfo
    _group: ProcessGroupGloo | None = None
    _bucket_bytes: int = 0

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        assert source is not None, "a full transfer needs a WeightSource"
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            fields = asdict(init_info)
            shared = ("store_host", "store_port", "world_size", "bucket_bytes", "timeout_seconds")
            client.init_weight_transfer_engine({key: fields[key] for key in shared})
            engine._group = join_group(init_info, rank=SENDER)
            engine._bucket_bytes = init_info.bucket_bytes
        return engine

    def send_weights(self) -> None:
        assert self.source is not None
        weights = iter(self.source)
        if not self.is_sender:
            for _ in weights:
                continue
            return
        assert self._group is not None
        parameters = self.source.metadata()
        self.client.start_weight_update()
        self.client.update_weights(
            asdict(
                GlooUpdateInfo(
                    names=[parameter.name for parameter in parameters],
                    dtype_names=[str(parameter.dtype).removeprefix("torch.") for parameter in parameters],
                    shapes=[list(parameter.shape) for parameter in parameters],
                )
            )
        )
        for chunk in buckets(parameters, num_bytes, self._bucket_bytes):
            broadcast(self._group, torch.cat([_next_bytes(weights, parameter) for parameter in chunk]))
        # Past the last parameter a ZeRO-3 source still has a bucket to scatter, together with the other ranks.
        assert next(weights, None) is None, "the source yields more than its metadata declares"
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self._group = None


def _next_bytes(weights: Iterator[tuple[str, torch.Tensor]], expected: ParamMeta) -> torch.Tensor:
    """The next weight as uint8 [bytes] on the CPU. Workers cut the stream by the metadata, so it must match."""
    name, weight = next(weights)
    found = ParamMeta(name, weight.dtype, tuple(weight.shape))
    assert found == expected, f"the source declared {expected} and yielded {found}"
    return weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
