"""The state of a learner on disk, independent of how many ranks wrote it and of how they shared it.

Each rank writes the pieces that it keeps, and only those::

    state/actor_rank_00000.safetensors
        fp32/<parameter>@<start>         elements start, start + 1, ... of the flattened parameter, in fp32
        exp_avg/<parameter>@<start>      Adam's first moment of the same elements
        exp_avg_sq/<parameter>@<start>   and its second

A reader asks for any range of any parameter and gets it from whichever files hold it. So no rank ever holds a whole
parameter beside its own share, ranks write and read side by side, and any number of ranks under any ZeRO stage goes on
from what any other wrote. safetensors holds numbers and nothing that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Kind = Literal["fp32", "exp_avg", "exp_avg_sq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMAT = "pacore-rl learner state 1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A range of one flattened parameter."""

    kind: Kind
    name: str
    """Of the parameter."""
    start: int
    """First element of the flattened parameter."""
    values: Tensor
    """[n] fp32, on the host."""


def state_file(folder: Path, role: str, rank: int) -> Path:
    """Where a rank's pieces lie in a checkpoint."""
    return folder / "state" / f"{role}_rank_{rank:05d}.safetensors"


def write_pieces(path: Path, pieces: Sequence[Piece], notes: Mapping[str, str]) -> None:
    """Write one rank's pieces, with a few words about them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{piece.kind}/{piece.name}@{piece.start}": piece.values for piece in pieces}
    assert len(tensors) == len(pieces), "a rank keeps an element twice"
    save_file(tensors, path, metadata={"format": FORMAT, **notes})


@dataclass(frozen=True, slots=True)
class _Source:
    start: int
    end: int
    file: Any
    key: str


class LearnerFiles:
    """The pieces of all ranks of one learner, read on demand. Made by ``open_learner_files``."""

    def __init__(self, role: str, files: Sequence[Any]) -> None:
        self.role = role
        self.notes: list[dict[str, str]] = [file.metadata() or {} for file in files]
        """What each rank noted, in rank order."""
        self._sources: dict[tuple[str, str], list[_Source]] = {}
        for file in files:
            for key in file.keys():
                kind, _, rest = key.partition("/")
                name, _, start = rest.rpartition("@")
                begin = int(start)
                source = _Source(begin, begin + file.get_slice(key).get_shape()[0], file, key)
                self._sources.setdefault((kind, name), []).append(source)

    @property
    def names(self) -> set[str]:
        """Parameters that have weights here."""
        return {name for kind, name in self._sources if kind == "fp32"}

    def has(self, kind: Kind) -> bool:
        return any(found == kind for found, _ in self._sources)

    def read(self, kind: Kind, name: str, start: int, into: Tensor) -> None:
        """Fill ``into`` [n] with elements ``start`` to ``start + n`` of a flattened parameter.

        Raises:
            ValueError: the files do not hold all of them.
        """
        end, num_filled = start + into.numel(), 0
        for source in self._sources.get((kind, name), ()):
            first, last = max(start, source.start), min(end, source.end)
            if first < last:
                values = source.file.get_slice(source.key)[first - source.start : last - source.start]
                into[first - start : last - start].copy_(values)
                num_filled += last - first
        if num_filled != into.numel():
            raise ValueError(
                f"the checkpoint holds {num_filled} of the elements {start} to {end} of {kind} of the {self.role}'s "
                f"{name}; it was written by another model. Give a checkpoint of this run."
            )


@contextmanager
def open_learner_files(folder: Path, role: str) -> Iterator[LearnerFiles]:
    """The pieces of a checkpoint, for the length of a ``with`` block.

    Raises:
        ValueError: there are none, or a file is damaged.
    """
    paths = sorted((folder / "state").glob(f"{role}_rank_*.safetensors"))
    if not paths:
        raise ValueError(
            f"{folder} holds no state of the {role} (state/{role}_rank_*.safetensors); give the folder of a "
            "checkpoint, such as RUN/checkpoints/step_000050."
        )
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, framework="pt", device="cpu")) for path in paths]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder}: the state of the {role} is damaged ({error}); give another one.") from error
        found = [(file.metadata() or {}).get("format") for file in files]
        if any(format_ != FORMAT for format_ in found):
            raise ValueError(f"{folder} holds state of formats {found}, and this release reads {FORMAT!r}.")
        yield LearnerFiles(role, files)


def host_copy(tensor: Tensor) -> Tensor:
    """A copy on the host that later updates leave alone."""
    return tensor.detach().to("cpu", dtype=torch.float32, copy=True)
