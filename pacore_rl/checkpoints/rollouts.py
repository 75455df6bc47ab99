"""Responses in flight, of runs with partial rollouts: texts as JSON, numbers as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pacore_rl.checkpoints.files import WrittenFile, sync_and_hash
from pacore_rl.experience import Draw, Scored
from pacore_rl.types import MessageSet, Problem, Trajectory, Verdict

TEXTS, NUMBERS = "rollouts.json", "rollouts.safetensors"
_FIELDS = ("response_ids", "logprobs", "weight_versions")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unfinished:
    """A response that another step goes on with."""

    draw: Draw
    sample: int
    """Which of the draw's responses it is."""
    trajectory: Trajectory
    seed: int
    """Of what follows: its own, unlike the seed that a draw's responses share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InFlight:
    """What a step leaves to the next one."""

    unfinished: tuple[Unfinished, ...] = ()
    surplus: tuple[Scored, ...] = ()
    """Responses that ended and were scored, and count in the next step."""

    def __bool__(self) -> bool:
        return bool(self.unfinished or self.surplus)


def save_rollouts(folder: Path, in_flight: InFlight) -> list[WrittenFile]:
    """Write what is in flight into a checkpoint; nothing where nothing is."""
    if not in_flight:
        return []
    items = (*in_flight.unfinished, *in_flight.surplus)
    draws = list({id(item.draw): item.draw for item in items}.values())
    index_of = {id(draw): index for index, draw in enumerate(draws)}
    arrays: dict[str, NDArray[Any]] = {f"draw/{index}": draw.prompt_ids for index, draw in enumerate(draws)}
    for number, item in enumerate(items):
        for field in _FIELDS:
            arrays[f"{field}/{number}"] = getattr(item.trajectory, field)
    texts = {
        "draws": [
            {"problem_id": draw.problem.id, "messages": asdict(draw.message_set), "seed": draw.seed} for draw in draws
        ],
        "unfinished": [
            _texts(item, index_of) | {"seed": item.seed, "sample": item.sample} for item in in_flight.unfinished
        ],
        "surplus": [
            _texts(item, index_of) | {"verdict": asdict(item.verdict), "sample": item.sample}
            for item in in_flight.surplus
        ],
    }
    (folder / TEXTS).write_text(json.dumps(texts), encoding="utf-8")
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / NUMBERS)
    return [sync_and_hash(folder / name, folder) for name in (TEXTS, NUMBERS)]


def load_rollouts(folder: Path, problems: Sequence[Problem]) -> InFlight:
    """What ``save_rollouts`` wrote.

    Raises:
        ValueError: a response belongs to a problem that the data no longer holds.
    """
    if not (folder / TEXTS).is_file():
        return InFlight()
    texts = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
    arrays = load_file(folder / NUMBERS)
    by_id = {problem.id: problem for problem in problems}
    draws = [_draw(record, arrays[f"draw/{index}"], by_id, folder) for index, record in enumerate(texts["draws"])]

    def trajectory(record: Mapping[str, Any], number: int) -> Trajectory:
        numbers = {field: arrays[f"{field}/{number}"] for field in _FIELDS}
        return Trajectory(
            prompt_ids=draws[record["draw"]].prompt_ids, text=record["text"], finish=record["finish"], **numbers
        )

    num_unfinished = len(texts["unfinished"])
    return InFlight(
        unfinished=tuple(
            Unfinished(
                draw=draws[record["draw"]],
                sample=record["sample"],
                trajectory=trajectory(record, number),
                seed=record["seed"],
            )
            for number, record in enumerate(texts["unfinished"])
        ),
        surplus=tuple(
            Scored(
                draw=draws[record["draw"]],
                sample=record["sample"],
                trajectory=trajectory(record, num_unfinished + number),
                verdict=Verdict(**record["verdict"]),
            )
            for number, record in enumerate(texts["surplus"])
        ),
    )


def _texts(item: Unfinished | Scored, index_of: Mapping[int, int]) -> dict[str, Any]:
    return {"draw": index_of[id(item.draw)], "text": item.trajectory.text, "finish": item.trajectory.finish}


def _draw(record: Mapping[str, Any], prompt_ids: NDArray[Any], by_id: Mapping[str, Problem], folder: Path) -> Draw:
    problem = by_id.get(record["problem_id"])
    if problem is None:
        raise ValueError(
            f"{folder} goes on with responses to problem {record['problem_id']!r}, which data.problems no longer "
            "holds; resume with the problems that the run began with."
        )
    messages = record["messages"]
    return Draw(
        problem=problem,
        message_set=MessageSet(
            messages=tuple(messages["messages"]),
            verdicts=tuple(Verdict(**verdict) for verdict in messages["verdicts"]),
            num_dropped=messages["num_dropped"],
        ),
        prompt_ids=prompt_ids,
        seed=record["seed"],
    )
