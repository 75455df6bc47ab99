"""The trainer's weights as vLLM's weight transfer wants them: a stream of whole tensors under Hugging Face names.

    trainer                                         checkpoint and stream
    q_proj.weight                                   q_proj.weight
    q_proj.base_layer.weight, lora_A, lora_B        q_proj.weight, merged (``pacore_rl.engine.lora``)
    experts.gate_up_proj [E, 2I, H]                 experts.0.gate_proj.weight [I, H], experts.0.up_proj.weight, ...

transformers stacks the experts of a layer in one parameter; the way back is its own conversion, the one by which
``save_pretrained`` writes a checkpoint. vLLM loads checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from pacore_rl.engine.lora import MergedParameter, merged_parameters

T = TypeVar("T")


class ZeroWeightSource(WeightSource):
    """The parameters of a model under DeepSpeed ZeRO.

    Under ZeRO 1 and 2 every rank holds them whole. Under ZeRO 3 they are gathered a bucket at a time, a collective: all
    learner ranks must iterate together, in the same order.

    Tied parameters appear once, under their first name, as in a Hugging Face checkpoint; vLLM ties them by itself.
    """

    def __init__(self, model: PreTrainedModel, *, zero_stage: int, bucket_bytes: int) -> None:
        """
        Args:
            model: the Hugging Face model itself, with or without adapters.
            zero_stage: 1, 2 or 3.
            bucket_bytes: whole parameters that a rank holds at a time while it streams ZeRO-3 shards.
        """
        self._bucket_bytes = bucket_bytes
        self._model = model
        self._merged = merged_parameters(model)
        self._gathers = zero_stage == 3
        self._metadata: list[ParamMeta] = []

    def metadata(self) -> list[ParamMeta]:
        if not self._metadata:
            self._metadata = [
                ParamMeta(name, tensor.dtype, tuple(tensor.shape))
                for merged in self._merged
                for name, tensor in self._checkpoint(merged.name, self._shell(merged.parameters[0]))
            ]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not self._gathers:
            for merged in self._merged:
                yield from self._checkpoint(merged.name, merged.tensor())
            return
        import deepspeed  # a sender without ZeRO 3 does without it

        for bucket in buckets(self._merged, self._num_bytes, self._bucket_bytes):
            with deepspeed.zero.GatheredParameters([parameter for merged in bucket for parameter in merged.parameters]):
                for merged in bucket:
                    # Leaving the context swaps the parameter's storage and does not overwrite this one, so a receiver
                    # that still packs a buffer may hold on to it.
                    yield from self._checkpoint(merged.name, merged.tensor())

    def _checkpoint(self, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """What a checkpoint holds instead of one parameter: the parameter itself, or its parts (views or copies)."""
        parts = revert_weight_conversion(self._model, {name: tensor})
        if len(parts) > 1 and tensor.is_cuda:
            # Some parts are copies, and vLLM's NCCL sender changes streams between its buffers.
            torch.cuda.current_stream().synchronize()
        yield from parts.items()

    def _num_bytes(self, merged: MergedParameter) -> int:
        return sum(self._shell(parameter).nbytes for parameter in merged.parameters)

    def _shell(self, parameter: nn.Parameter) -> torch.Tensor:
        """The whole parameter without its numbers; DeepSpeed keeps a sharded one's shape in ``ds_shape``."""
        shape = parameter.ds_shape if self._gathers else parameter.shape  # pyright: ignore[reportAttributeAccessIssue]
        return torch.empty(tuple(shape), dtype=parameter.dtype, device="meta")


def buckets(items: Sequence[T], num_bytes: Callable[[T], int], limit_bytes: int) -> Iterator[list[T]]:
    """Cut a sequence into lists of at most ``limit_bytes``, in order; an item larger than that goes alone.

    The one rule of senders and receivers: they cut the same list into the same buffers, so that only bytes travel.
    """
    bucket: list[T] = []
    size = 0
    for item in items:
        wanted = num_bytes(item)
        if bucket and size + wanted > limit_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(item)
        size += wanted
    if bucket:
        yield bucket
