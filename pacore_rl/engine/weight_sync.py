"""Weights from the learners to the inference engines, by vLLM's own weight transfer.

    controller: connect, sync          learner ranks: Sender            rollout workers: vLLM
        |  init_weight_sync(spec) --------> join as rank 0 <---- group ----> join as ranks 1..N
        |  start_weight_update ------------------------------------------> unpack the layers
        |  send_weights ------------------> gather, broadcast ===========> load
        |  finish_weight_update(version) --------------------------------> pack, drop the prefix cache

vLLM's trainer side expects to command the inference side. Here only the controller commands, so the sender leaves what
it would have said in the controller's key-value store, and the controller says it.

Every learner rank takes part in a send (ZeRO-3 gathers are collective); rank 0 alone is in the group. Of an engine that
spans several processes (tensor and pipeline parallelism), every process is in the group and loads its part.

Colocated GPUs need no group: see ``pacore_rl.engine.ipc_transfer``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import ray
import torch
from ray.actor import ActorHandle
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from pacore_rl.config import RolloutConfig
from pacore_rl.engine.pending import RayPending
from pacore_rl.engine.placement import Device
from pacore_rl.engine.vllm_plugin import GLOO_BACKEND, register
from pacore_rl.engine.whereabouts import names_of, require_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine

    from pacore_rl.engine.ipc_transfer import IpcSender
    from pacore_rl.engine.rollout import RolloutGroup

Backend = Literal["gloo", "nccl", "ipc"]

NCCL_BUFFERS = 2
"""vLLM broadcasts one buffer while it packs the next; together they make up ``rollout.sync_bucket_mib``."""

POLL_SECONDS = 0.002
MAX_CONNECT_SECONDS = 300.0


# --- on the learner ranks ---------------------------------------------------------------------------------------------


class Sender:
    """Sends one model's weights over gloo or NCCL; lives in every learner rank."""

    def __init__(self, engine: TrainerWeightTransferEngine[Any]) -> None:
        self._engine = engine

    def send(self) -> None:
        """Send the current weights. All learner ranks must call it; returns once rank 0 has sent everything.

        Raises:
            RuntimeError: a rollout worker left the group or did not receive within the time limit.
        """
        if torch.cuda.is_initialized():
            # vLLM packs on streams of its own, which would not wait for an update whose last copies are still queued.
            torch.cuda.current_stream().synchronize()
        with torch.no_grad():
            self._engine.send_weights()

    def close(self) -> None:
        """Leave the group."""
        self._engine.shutdown()


def make_sender(
    module: PreTrainedModel, *, zero_stage: int, rank: int, device: torch.device, spec: dict[str, Any]
) -> Sender | IpcSender:
    """Join the transfer group that ``connect`` is forming. Every learner rank calls it; rank 0 blocks until all joined.

    Args:
        module: the Hugging Face model whose parameters the optimizer updates.
        zero_stage: DeepSpeed's; 3 gathers shards while it sends.
        rank: of this process among the learner's ranks.
        device: where the module lives.
        spec: from ``connect``.
    """
    from vllm.distributed.weight_transfer.factory import (  # importing vLLM takes seconds
        WeightTransferTrainerFactory,
    )

    from pacore_rl.engine.weight_source import ZeroWeightSource

    register()
    bucket_bytes: int = spec["bucket_bytes"]
    source = ZeroWeightSource(module, zero_stage=zero_stage, bucket_bytes=bucket_bytes)
    if spec["backend"] == "ipc":
        from pacore_rl.engine.ipc_transfer import IpcSender

        return IpcSender(source, device=device, bucket_bytes=bucket_bytes)
    host, port, timeout = spec["store_host"], spec["store_port"], spec["timeout_seconds"]
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout))
    if spec["backend"] == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_open_port

        torch.cuda.set_device(device)  # vLLM opens the communicator on the current device
        # The sender is the master of NCCL's rendezvous, which is apart from the controller's store.
        init_info = NCCLTrainerInitInfo(
            rank=rank,
            master_address=ray.util.get_node_ip_address(),
            master_port=get_open_port(),
            world_size=spec["world_size"],
            packed_buffer_size_bytes=bucket_bytes // NCCL_BUFFERS,
            packed_num_buffers=NCCL_BUFFERS,
        )
    else:
        from pacore_rl.engine.gloo_transfer import GlooTrainerInitInfo

        init_info = GlooTrainerInitInfo(
            rank=rank,
            store_host=host,
            store_port=port,
            world_size=spec["world_size"],
            bucket_bytes=bucket_bytes,
            timeout_seconds=timeout,
        )
    return Sender(WeightTransferTrainerFactory.trainer_init(init_info, client=_Notes(store), source=source))


class _Notes:
    """vLLM's weight sync client, which leaves its commands in the store for the controller to carry out."""

    def __init__(self, store: TCPStore) -> None:
        self._store = store
        self._round = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._store.set("init", json.dumps(init_info))

    def start_weight_update(self) -> None:
        """The controller has already said it: workers are ready before a sender starts."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._round += 1
        self._store.set(f"update/{self._round}", json.dumps(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The controller says it once all workers have everything."""


# --- on the controller ------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class WeightLink:
    """The controller's end of a connection."""

    backend: Backend
    store: TCPStore
    """Where the sender leaves its notes; it lives in the controller."""
    device: Device
    members: tuple[int, ...]
    """Rollout workers that are in the group."""
    num_syncs: int = field(default=0)


def connect(
    rollout: RolloutGroup,
    learner_handles: Sequence[ActorHandle[Any]],
    *,
    device: Device,
    workers: Sequence[int] | None = None,
) -> None:
    """Form the group of one sender, learner rank 0, and engine processes, before a ``sync``. It replaces an older one.

    Args:
        learner_handles: by rank; each offers ``init_weight_sync(spec)``, ``send_weights()`` and ``next_weights()``.
        workers: whose processes; None: all.

    Raises:
        TimeoutError: some worker did not join in time.
    """
    timeout = min(rollout.timeout_seconds, MAX_CONNECT_SECONDS)
    settings = rollout.config.rollout
    backend = choose_backend(settings, device)
    processes = settings.tensor_parallel * settings.pipeline_parallel
    members = tuple(range(rollout.num_workers) if workers is None else workers)
    address = ray.util.get_node_ip_address()
    store = TCPStore(
        address, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout)
    )  # port 0: the system picks a free one, and nobody can take it in between
    spec = {
        "backend": backend,
        "store_host": address,
        "store_port": store.port,
        "world_size": 1 + len(members) * processes,
        "bucket_bytes": settings.sync_bucket_mib * 1024**2,
        "timeout_seconds": timeout,
    }
    rollout.learner_names = names_of("learner", learner_handles, rollout.config.surviving.health_timeout_seconds)
    joined = [handle.init_weight_sync.remote(spec) for handle in learner_handles]
    if backend == "ipc":
        infos: list[dict[str, Any]] = [{"packed": True}] * len(members)
    else:
        init_info = json.loads(_note(rollout, store, "init", joined, learner_handles))
        # Each process of an engine adds its rank inside the engine to the offset.
        infos = [init_info | {"rank_offset": 1 + position * processes} for position in range(len(members))]
    joining = [
        rollout.handles[worker].init_weight_transfer.remote(info) for worker, info in zip(members, infos, strict=True)
    ]
    rollout.wait([*joining, *joined], "joining the weight transfer group", workers=members, learners=learner_handles)
    rollout.weight_link = WeightLink(backend=backend, store=store, device=device, members=members)


def send_to(rollout: RolloutGroup, learner_handles: Sequence[ActorHandle[Any]], worker: int, *, device: Device) -> None:
    """Give one worker that has just started the weights of now, while the others generate; learners must be idle."""
    connect(rollout, learner_handles, device=device, workers=[worker])
    sync(rollout, learner_handles, rollout.weight_version, workers=[worker])


def sync(
    rollout: RolloutGroup,
    learner_handles: Sequence[ActorHandle[Any]],
    version: int,
    *,
    workers: Sequence[int] | None = None,
) -> None:
    """Send the learners' weights to every rollout worker (or ``workers``), which from then on reports ``version``.

    The engines' prefix caches are emptied: they hold keys and values of the old weights.

    Raises:
        TimeoutError: a worker did not finish within ``run.worker_timeout_seconds``; its name is in the message.
        RuntimeError: a worker failed or died.
    """
    link = rollout.weight_link
    assert link is not None, "connect comes before sync"
    members = tuple(range(rollout.num_workers) if workers is None else workers)
    if link.members != members:  # one of them was replaced
        connect(rollout, learner_handles, device=link.device, workers=members)
        link = rollout.weight_link
        assert link is not None
    rollout.wait(rollout.call_all("start_weight_update", workers=members), "preparing for new weights", workers=members)
    if link.backend == "ipc":
        _hand_over(rollout, learner_handles)
    else:
        _broadcast(rollout, link, learner_handles)
    finished = rollout.call_all("finish_weight_update", version, workers=members)
    versions = rollout.wait(finished, "packing new weights", workers=members)
    assert versions == [version] * len(members), f"workers report versions {versions}, not {version}"
    rollout.weight_version = version


def _broadcast(rollout: RolloutGroup, link: WeightLink, learner_handles: Sequence[ActorHandle[Any]]) -> None:
    """All weights from learner rank 0 to every engine process at once."""
    sends = [handle.send_weights.remote() for handle in learner_handles]
    link.num_syncs += 1
    update_info = json.loads(_note(rollout, link.store, f"update/{link.num_syncs}", sends, learner_handles))
    received = rollout.call_all("update_weights", update_info, workers=link.members)
    rollout.wait([*received, *sends], "sending and receiving weights", workers=link.members, learners=learner_handles)


def _hand_over(rollout: RolloutGroup, learner_handles: Sequence[ActorHandle[Any]]) -> None:
    """A buffer at a time, from each actor rank to the engine process on its GPU."""
    from pacore_rl.engine.ipc_transfer import merge_chunks

    while True:
        packed = RayPending(
            what="packing weights",
            workers=rollout.learner_names,
            refs=[handle.next_weights.remote() for handle in learner_handles],
            timeout_seconds=rollout.timeout_seconds,
            limit_name="run.worker_timeout_seconds",
            combine=list,
            handles=learner_handles,
            health_timeout_seconds=rollout.config.surviving.health_timeout_seconds,
        )
        update_info = merge_chunks(packed.result())
        if update_info is None:
            return
        rollout.wait(rollout.call_all("update_weights", update_info), "loading weights")


def choose_backend(settings: RolloutConfig, device: Device) -> Backend:
    """The transfer behind ``rollout.weight_transfer``.

    auto is gloo on CPUs; on GPUs CUDA IPC where engines and learners are colocated, else NCCL.

    Raises:
        ValueError: what is asked for does not work on these devices or in this placement.
    """
    wanted, colocated = settings.weight_transfer, settings.placement == "colocated"
    if wanted == "auto":
        return "gloo" if device.kind == "cpu" else "ipc" if colocated else "nccl"
    if wanted == "nccl" and device.kind != "cuda":
        raise ValueError(
            "rollout.weight_transfer=nccl needs GPUs, but this run computes on CPUs; set it to auto or gloo."
        )
    if wanted == "nccl" and colocated:
        raise ValueError(
            "rollout.weight_transfer=nccl needs a GPU for each process, but rollout.placement=colocated puts sender "
            "and receiver on the same one; set it to auto or ipc."
        )
    if wanted == "ipc" and not (colocated and device.kind == "cuda"):
        raise ValueError(
            "rollout.weight_transfer=ipc shares memory between processes on one GPU: it needs "
            f"rollout.placement=colocated (here {settings.placement}) on GPUs (here {device.kind}). Set it to auto."
        )
    return wanted


def vllm_backend(backend: Backend) -> str:
    """Its name in vLLM's ``WeightTransferConfig``."""
    return GLOO_BACKEND if backend == "gloo" else backend


def _note(
    rollout: RolloutGroup,
    store: TCPStore,
    key: str,
    senders: Sequence[ray.ObjectRef[None]],
    handles: Sequence[ActorHandle[Any]],
) -> str:
    """Wait for a note of the sender; a sender that fails first raises here instead of letting the wait run out."""
    deadline = time.monotonic() + rollout.timeout_seconds
    patience = rollout.config.surviving.health_timeout_seconds
    names = rollout.learner_names
    next_check = time.monotonic() + patience
    while not store.check([key]):
        if time.monotonic() > next_check:
            require_answers(handles, names, "announcing its weights", patience)
            next_check = time.monotonic() + patience
        done, _ = ray.wait(list(senders), num_returns=len(senders), timeout=POLL_SECONDS)
        for reference in done:  # raises what a failed learner raised
            rollout.result(reference, names[senders.index(reference)], "announcing its weights")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{names[0]} did not announce its weights ({key}) within "
                f"{rollout.timeout_seconds:.0f} s; look at its log, or raise run.worker_timeout_seconds."
            )
    note = store.get(key).decode()
    store.delete_key(key)  # a large model's is megabytes, and there is one for each sync
    return note
