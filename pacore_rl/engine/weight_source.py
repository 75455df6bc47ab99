"""The trainer's weights as vLLM's weight transfer wants them: a stream of whole tensors under Hugging Face names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

T = TypeVar("T")


class ZeroWeightSource(WeightSource):
    """The parameters of a model under DeepSpeed ZeRO.

    Under ZeRO 1 and 2 every rank holds them whole. Under ZeRO 3 they are gathered a bucket at a time, a collective: all
    learner ranks must iterate together, in the same order.

    Tied parameters appear once, under their first name, as in a Hugging Face checkpoint; vLLM ties them by itself.
    """

    def __init__(self, module: nn.Module, *, zero_stage: int, bucket_bytes: int) -> None:
        """
        Args:
            module: the Hugging Face model itself, whose parameter names are those of its checkpoint.
            zero_stage: 1, 2 or 3.
            bucket_bytes: whole parameters that a rank holds at a time while it streams ZeRO-3 shards.
        """
        self._bucket_bytes = bucket_bytes
        self._parameters = list(module.named_parameters())  # leaves out the second name of a shared parameter
        self._gathers = zero_stage == 3

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, parameter.dtype, self._shape(parameter)) for name, parameter in self._parameters]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not self._gathers:
            for name, parameter in self._parameters:
                yield name, parameter.detach()
            return
        import deepspeed  # a sender without ZeRO 3 does without it

        for bucket in buckets(self._parameters, self._num_bytes, self._bucket_bytes):
            with deepspeed.zero.GatheredParameters([parameter for _, parameter in bucket]):
                for name, parameter in bucket:
                    # Leaving the context swaps the parameter's storage and does not overwrite this one, so a receiver
                    # that still packs a buffer may hold on to it.
                    yield name, parameter.data

    def _num_bytes(self, named: tuple[str, nn.Parameter]) -> int:
        return math.prod(self._shape(named[1])) * named[1].dtype.itemsize

    def _shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """The whole shape; DeepSpeed keeps it in ``ds_shape`` while a ZeRO-3 parameter is sharded."""
        return tuple(parameter.ds_shape) if self._gathers else tuple(parameter.shape)  # pyright: ignore[reportAttributeAccessIssue]


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
