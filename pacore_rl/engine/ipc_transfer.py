"""Weights between processes on one GPU: the learner packs a buffer, vLLM reads it in place over CUDA IPC.

vLLM's own sender waits for its receivers in the middle of ``send_weights``. Here the controller fetches one buffer at a
time from every actor rank, tells the engines to load it, and only then asks for the next: the buffer is reused.

Every rank gathers the whole stream and packs it on its own GPU: an engine process can open only what lies on the GPU
they share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightSource
from vllm.distributed.weight_transfer.packed_tensor import PackedIpcChunk, packed_ipc_producer


class IpcSender:
    """One actor rank's end."""

    def __init__(self, source: WeightSource, *, device: torch.device, bucket_bytes: int) -> None:
        self._source = source
        self._device = device
        self._bucket_bytes = bucket_bytes
        self._chunks: Iterator[PackedIpcChunk] | None = None

    def next_chunk(self) -> dict[str, Any] | None:
        """Pack the next buffer and describe it; None once all weights were sent. All ranks must call it together.

        The engines must have loaded the buffer before it is called again.
        """
        with torch.no_grad():
            if self._chunks is None:
                self._chunks = self._produce()
            chunk = next(self._chunks, None)
        if chunk is not None:
            return asdict(chunk)
        self._chunks = None
        torch.cuda.ipc_collect()
        return None

    def close(self) -> None:
        """Nothing is held between syncs."""

    def _produce(self) -> Iterator[PackedIpcChunk]:
        largest = max(math.prod(meta.shape) * meta.dtype.itemsize for meta in self._source.metadata())
        with torch.cuda.device(self._device):
            yield from packed_ipc_producer(
                iter(self._source),
                gpu_uuid=str(torch.cuda.get_device_properties(self._device).uuid),
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=max(self._bucket_bytes, largest),
            )


def merge_chunks(chunks: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """One update for the engines from what all ranks packed: the same tensors, with a handle for each GPU.

    None once all ranks are through, which happens together.
    """
    present = [chunk for chunk in chunks if chunk is not None]
    assert len(present) in (0, len(chunks)), "actor ranks cut the same weights into the same buffers"
    if not present:
        return None
    first = present[0]
    assert all(chunk["names"] == first["names"] for chunk in present), "actor ranks packed different weights"
    fields = {key: first[key] for key in ("names", "shapes", "dtype_names", "tensor_sizes")}
    return fields | {"ipc_handles": {gpu: handle for chunk in present for gpu, handle in chunk["ipc_handle"].items()}}
