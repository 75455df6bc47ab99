"""One DeepSpeed rank of the actor or the critic. It obeys ``pacore_rl.engine.learner`` and never calls back.

Every command is collective: all ranks of a learner get it together, with equally many micro-batches, because under
ZeRO-3 each forward and backward pass gathers weights from all of them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from pacore_rl.checkpoints.files import WrittenFile, disk_errors, sync_and_hash
from pacore_rl.checkpoints.learner_files import open_learner_files, state_file, write_pieces
from pacore_rl.config import Config
from pacore_rl.engine import state_offload
from pacore_rl.engine.activations import spare_memory
from pacore_rl.engine.deepspeed_options import deepspeed_engine, join_deepspeed
from pacore_rl.engine.fused_kernels import fuse
from pacore_rl.engine.learner_passes import Passes, Role, StepResult
from pacore_rl.engine.learner_state import LearnerSnapshot, restore_snapshot, take_snapshot
from pacore_rl.engine.lora import add_adapters, merged_parameters
from pacore_rl.engine.models import PolicyModule, ValueModule, load_critic, load_policy, save_model
from pacore_rl.engine.placement import Device, share_of_cores
from pacore_rl.engine.sequence_parallel import share_sequences
from pacore_rl.engine.shares import own_micro_batches, own_minibatches
from pacore_rl.engine.state_offload import Part
from pacore_rl.engine.whereabouts import Whereabouts
from pacore_rl.ppo.batch import Int64, MicroBatch
from pacore_rl.types import Float32, TokenRows

SEES_SECONDS = 30.0
"""Network file systems may be late."""


class LearnerWorker:
    """A rank's model, optimizer and process group."""

    def __init__(self, *, role: Role, rank: int, config: Config, device: Device) -> None:
        self.role: Role = role
        self.rank = rank
        self.config = config
        self.device = device
        self.settings = config.learner(role)
        self.torch_device = torch.device(device.kind, 0) if device.kind == "cuda" else torch.device("cpu")
        self._timeout = timedelta(seconds=config.run.worker_timeout_seconds)
        self._store: TCPStore | None = None
        self._sender: Any = None
        self._snapshot: LearnerSnapshot | None = None
        self._has_started = False

    def rendezvous(self) -> tuple[str, int]:
        """Open the meeting point of this learner's ranks (on rank 0) and return its host and port."""
        host = _own_address()
        self._store = TCPStore(
            host, 0, self.settings.num_ranks, is_master=True, timeout=self._timeout, wait_for_workers=False
        )
        return host, self._store.port

    def start(self, address: tuple[str, int]) -> None:
        """Meet the other ranks, load the model and hand it to DeepSpeed.

        Raises:
            ValueError: the model folder is not one (see ``pacore_rl.engine.models``).
        """
        torch.set_num_threads(self.device.cpu_threads or share_of_cores())
        torch.manual_seed(self.config.run.seed)
        self._join(address)
        dtype = self.device.dtype(self.config.model.dtype)
        if self.role == "actor":
            model = load_policy(self.config.model, dtype)
            module = PolicyModule(
                model,
                temperature=self.config.sampling.temperature,
                chunk_tokens=self.settings.logprob_chunk_tokens,
            )
        else:
            model = load_critic(
                self.config.model, dtype, seed=self.config.run.seed, saved_critic=self.config.critic.path
            )
            module = ValueModule(model)
        if self.settings.fused_kernels:
            fuse(model, self.device)
        if self.settings.lora is not None:
            add_adapters(model, self.settings.lora)
        spare_memory(model, self.settings, self.device)
        share_sequences(model, self.settings.sequence_parallel)
        self.model = model
        self.engine = deepspeed_engine(
            module,
            self.settings,
            self.device,
            dtype,
            hidden_size=model.config.get_text_config().hidden_size,
        )
        self.passes = Passes(
            self.engine, role=self.role, rank=self.rank, config=self.config, torch_device=self.torch_device
        )
        self._has_started = True

    def log_probs(self, tokens: TokenRows) -> tuple[Int64, Float32, Float32]:
        """Slots, log-probs and entropies [a] of this rank's actions under the current weights."""
        micros = self._own(tokens)
        outputs = self.passes.forward(micros, with_entropies=True)
        return _slots(micros), _joined([output[0] for output in outputs]), _joined([output[1] for output in outputs])

    def values(self, tokens: TokenRows) -> tuple[Int64, Float32]:
        """Slots and values [a] of the states before this rank's actions, under the current weights."""
        micros = self._own(tokens)
        return _slots(micros), _joined(self.passes.forward(micros))

    def update(self, tokens: TokenRows, old_A: Float32, targets_A: Float32, *, step: int) -> list[StepResult]:
        """This rank's part of each optimizer step of iteration ``step`` (counted from 1).

        Args:
            old_A: log-probs (actor) or values (critic) from before this iteration's updates.
            targets_A: advantages (actor) or returns (critic).

        Raises:
            FloatingPointError: as ``Passes.update``.
        """
        minibatches = own_minibatches(
            self.settings,
            tokens,
            old_A,
            targets_A,
            self.config.minibatches(self.role),
            seed=(self.config.run.seed, step),
            rank=self.rank,
        )
        return self.passes.update(minibatches, step=step)

    def save(self, folder: Path) -> None:
        """Write the weights as a Hugging Face folder, from rank 0; the other ranks supply their shards."""
        weights = self.full_weights()
        if self.rank == 0:
            save_model(self.model, weights, self.config.model, folder)

    def full_weights(self) -> dict[str, Tensor]:
        """Every parameter of the model, whole and merged with its adapter, on the CPU of rank 0 (empty elsewhere)."""
        weights: dict[str, Tensor] = {}
        for merged in merged_parameters(self.model):
            with _gathered(merged.parameters, self.settings.zero_stage):
                if self.rank == 0:
                    weights[merged.name] = merged.tensor().cpu().clone()
        return weights

    def snapshot(self) -> None:
        """Copy weights, Adam's state and random states to the host, for ``write_snapshot``."""
        self._snapshot = take_snapshot(self.engine, self.settings, self.full_weights())

    def write_snapshot(self, folder: Path) -> list[WrittenFile]:
        """Write what the latest ``snapshot`` copied into ``folder``, and forget it. Runs beside the other commands.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        snapshot = self._snapshot
        assert snapshot is not None, "snapshot comes before write_snapshot"
        self._snapshot = None
        path = state_file(folder, self.role, self.rank)
        written = [path]
        with disk_errors():
            write_pieces(path, snapshot.pieces, snapshot.notes)
            if self.rank == 0:
                save_model(self.model, snapshot.weights, self.config.model, folder / self.role)
                written += sorted(file for file in (folder / self.role).rglob("*") if file.is_file())
        return [sync_and_hash(file, folder) for file in written]

    def load_state(self, folder: Path) -> None:
        """Go on from what ``write_snapshot`` wrote, with however many ranks and under whichever ZeRO stage.

        Raises:
            ValueError: nothing of this learner is there, or another model's.
        """
        with open_learner_files(folder, self.role) as files:
            restore_snapshot(self.engine, self.settings, files, rank=self.rank)

    def whereabouts(self) -> Whereabouts:
        """Where this process runs, and how many passes over micro-batches it has made; answered at once, whatever else
        the rank is doing."""
        return Whereabouts.of_this_process(self.passes.num_passes if self._has_started else 0)

    def sees(self, path: Path) -> bool:
        """Whether a file that was written on another host is here too, within ``SEES_SECONDS``."""
        deadline = time.monotonic() + SEES_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def init_weight_sync(self, spec: dict[str, Any]) -> None:
        """Join the group that carries weights to the inference engines."""
        from pacore_rl.engine.weight_sync import make_sender  # late: loads vLLM, which only an actor needs

        if self._sender is not None:  # its group holds memory of the GPU
            self._sender.close()
        self._sender = make_sender(
            self.model,
            zero_stage=self.settings.zero_stage,
            rank=self.rank,
            device=self.torch_device,
            spec=spec,
        )

    def send_weights(self) -> None:
        """Send the current weights to the inference engines."""
        assert self._sender is not None, "init_weight_sync comes first"
        self._sender.send()

    def next_weights(self) -> dict[str, Any] | None:
        """Pack the next buffer of weights for the engine on this GPU; None after the last."""
        assert self._sender is not None, "init_weight_sync comes first"
        return self._sender.next_chunk()

    def offload(self, part: Part) -> int:
        """Move a part of this rank's states to the host, for the engine on this GPU; optimizer steps so far."""
        if self.device.kind == "cuda":
            state_offload.offload(self.engine, self.settings, part)
        return self.engine.global_steps

    def reload(self) -> None:
        """Move back what ``offload`` moved."""
        if self.device.kind == "cuda":
            state_offload.reload(self.engine, self.settings)

    def close(self) -> None:
        """Leave the process group, so that no rank waits for this one."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _own(self, tokens: TokenRows) -> tuple[MicroBatch, ...]:
        return own_micro_batches(self.settings, tokens, range(tokens.num_rows), rank=self.rank)

    def _join(self, address: tuple[str, int]) -> None:
        """Form the learner's process group; the environment is what DeepSpeed reads ranks from."""
        host, port = address
        num_ranks = self.settings.num_ranks
        os.environ |= {
            "RANK": str(self.rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }
        if self._store is None:
            self._store = TCPStore(host, port, num_ranks, is_master=False, timeout=self._timeout)
        if self.device.kind == "cuda":
            torch.cuda.set_device(self.torch_device)
        dist.init_process_group(
            self.device.collective_backend,
            store=self._store,
            rank=self.rank,
            world_size=num_ranks,
            timeout=self._timeout,
        )
        join_deepspeed(self.device)


def _slots(micros: Sequence[MicroBatch]) -> Int64:
    """Of all actions of a rank: its micro-batches' own, one after the other."""
    return np.concatenate([micro.slots for micro in micros])


def _joined(parts: Sequence[Tensor]) -> Float32:
    return torch.cat(list(parts)).cpu().numpy()


def _gathered(parameters: Sequence[Tensor], zero_stage: int) -> Any:
    """A context in which ZeRO-3 parameters are whole on every rank."""
    import deepspeed  # late: reads DS_ACCELERATOR, which only a worker's environment sets

    return deepspeed.zero.GatheredParameters(list(parameters), enabled=zero_stage == 3)


def _own_address() -> str:
    """The address at which workers on other machines reach this one."""
    import ray

    return ray.util.get_node_ip_address() if ray.is_initialized() else socket.gethostbyname(socket.gethostname())
