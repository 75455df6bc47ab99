"""One rank's share of a learner's state under DeepSpeed ZeRO, as pieces of parameters (``checkpoints.learner_files``).

    ZeRO 1 and 2   each rank keeps a range of all parameters laid end to end; a parameter may lie across two ranks
    ZeRO 3         each rank keeps the same share of every parameter, the last one padded

Either way the fp32 weights and Adam's moments of a rank are flat buffers, and a piece is a window of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pacore_rl.checkpoints.learner_files import KINDS, LearnerFiles, Piece, host_copy
from pacore_rl.checkpoints.random_states import random_states, restore_random_states
from pacore_rl.config import LearnerConfig

MOMENTS = KINDS[1:]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """The part of one parameter whose state this rank keeps."""

    name: str
    start: int
    """First element of the flattened parameter."""
    num_elements: int
    flat: Tensor
    """[partition] fp32 weights that this rank's optimizer steps; the key of Adam's moments."""
    offset: int
    """Where the part begins in ``flat`` and in its moments."""

    def of(self, buffer: Tensor) -> Tensor:
        """The part [num_elements] of the weights or of a moment."""
        return buffer.narrow(0, self.offset, self.num_elements)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearnerSnapshot:
    """What one rank puts into a checkpoint, on the host."""

    pieces: tuple[Piece, ...]
    notes: Mapping[str, str]
    weights: Mapping[str, Tensor]
    """Whole parameters for a Hugging Face folder; rank 0 only."""


def take_snapshot(engine: Any, settings: LearnerConfig, weights: Mapping[str, Tensor]) -> LearnerSnapshot:
    """Copies of this rank's state, beside the whole ``weights``; later updates leave them alone."""
    pieces, num_steps = copy_pieces(engine, settings.zero_stage)
    notes = {"num_steps": str(num_steps), "num_ranks": str(settings.num_ranks), "random": json.dumps(random_states())}
    return LearnerSnapshot(pieces=tuple(pieces), notes=notes, weights=weights)


def restore_snapshot(engine: Any, settings: LearnerConfig, files: LearnerFiles, *, rank: int) -> None:
    """Set this rank to what a snapshot held, whatever layout wrote it.

    Random states go back where the number of ranks is the same; else each rank keeps its seeded one.
    """
    notes = files.notes[0]
    restore_pieces(engine, settings.zero_stage, files, num_steps=int(notes["num_steps"]))
    if int(notes["num_ranks"]) == settings.num_ranks:
        restore_random_states(json.loads(files.notes[rank]["random"]))


def windows(engine: Any, zero_stage: int) -> Iterator[Window]:
    """What this rank keeps of each trainable parameter of a DeepSpeed engine; its states must be loaded."""
    optimizer = engine.optimizer
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if zero_stage == 3:
            group, offset, num_elements = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = optimizer._get_param_partition_rank(parameter) * num_elements
            flat = optimizer.fp32_partitioned_groups_flat[group]
            num_elements = min(num_elements, parameter.ds_numel - start)  # without the padding
        else:
            mapping = parameter._hp_mapping
            if mapping is None:
                continue
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            start, num_elements = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
            offset = mapping.hp_fragment_address.start
        if num_elements > 0:
            yield Window(name=name, start=start, num_elements=num_elements, flat=flat, offset=offset)


def copy_pieces(engine: Any, zero_stage: int) -> tuple[list[Piece], int]:
    """Copies on the host of everything that this rank keeps, and Adam's step count (0: it has no moments yet)."""
    states = engine.optimizer.optimizer.state
    pieces: list[Piece] = []
    num_steps = 0
    for window in windows(engine, zero_stage):
        state = states.get(window.flat, {})
        buffers = {"fp32": window.flat} | {kind: state[kind] for kind in MOMENTS if kind in state}
        num_steps = int(state["step"]) if "step" in state else 0
        pieces += [
            Piece(kind=kind, name=window.name, start=window.start, values=host_copy(window.of(buffers[kind])))
            for kind in KINDS
            if kind in buffers
        ]
    return pieces, num_steps


@torch.no_grad()
def restore_pieces(engine: Any, zero_stage: int, files: LearnerFiles, *, num_steps: int) -> None:
    """Set this rank's weights and moments from files that any layout wrote. A collective: it gathers the new weights.

    Raises:
        ValueError: the files are of another model.
    """
    states = engine.optimizer.optimizer.state
    fused = any(group.get("fused") for group in engine.optimizer.optimizer.param_groups)
    for window in windows(engine, zero_stage):
        if num_steps and window.flat not in states:
            states[window.flat] = {kind: torch.zeros_like(window.flat) for kind in MOMENTS}
        if num_steps:
            # torch keeps the count on the host, unless one kernel does the whole step.
            device = window.flat.device if fused else torch.device("cpu")
            states[window.flat]["step"] = torch.tensor(float(num_steps), dtype=torch.float32, device=device)
        for kind in KINDS if num_steps else KINDS[:1]:
            buffer = window.flat.data if kind == "fp32" else states[window.flat][kind]
            files.read(kind, window.name, window.start, window.of(buffer))
    if not num_steps:
        states.clear()
    foreign = files.names - {name for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    if foreign:
        raise ValueError(
            f"the checkpoint holds {len(foreign)} parameters that the {files.role} does not train (first: "
            f"{min(foreign)}); it was written by another model or with other adapters. Give a checkpoint of this run."
        )
    _spread_weights(engine.optimizer, zero_stage)


def _spread_weights(optimizer: Any, zero_stage: int) -> None:
    """Bring the weights that the model computes with into line with the fp32 ones, as an optimizer step ends."""
    if zero_stage < 3:
        optimizer.update_lp_params()
        return
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
