"""What goes into a checkpoint comes out again: pieces of parameters, responses in flight, random states."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pacore_rl.checkpoints.learner_files import Piece, open_learner_files, state_file, write_pieces
from pacore_rl.checkpoints.random_states import random_states, restore_random_states
from pacore_rl.checkpoints.rollouts import InFlight, Unfinished, load_rollouts, save_rollouts
from pacore_rl.experience import Draw, Scored
from pacore_rl.types import MessageSet, Problem, Trajectory, Turn, Verdict


def write_in(folder: Path, whole: torch.Tensor, cuts: list[int]) -> None:
    """A parameter of ten elements, cut between as many ranks as there are pieces."""
    for rank, (start, end) in enumerate(zip([0, *cuts], [*cuts, 10], strict=True)):
        piece = Piece(kind="fp32", name="layer.weight", start=start, values=whole[start:end].clone())
        write_pieces(state_file(folder, "actor", rank), [piece], {"num_steps": "3"})


@pytest.mark.parametrize("cuts", [[], [5], [2, 3, 9]])
def test_any_range_is_read_from_any_cut(tmp_path: Path, cuts: list[int]) -> None:
    whole = torch.arange(10.0)
    write_in(tmp_path, whole, cuts)
    with open_learner_files(tmp_path, "actor") as files:
        assert files.names == {"layer.weight"} and [notes["num_steps"] for notes in files.notes] == ["3"] * (
            len(cuts) + 1
        )
        for start in range(10):
            for end in range(start + 1, 11):
                into = torch.full((end - start,), -1.0)
                files.read("fp32", "layer.weight", start, into)
                torch.testing.assert_close(into, whole[start:end], rtol=0, atol=0)
        with pytest.raises(ValueError, match="holds 4 of the elements 6 to 12"):
            files.read("fp32", "layer.weight", 6, torch.zeros(6))
        with pytest.raises(ValueError, match="written by another model"):
            files.read("exp_avg", "layer.weight", 0, torch.zeros(1))


def test_a_torn_file_and_a_foreign_one_are_refused(tmp_path: Path) -> None:
    write_in(tmp_path, torch.arange(10.0), [5])
    path = state_file(tmp_path, "actor", 1)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="state of the actor is damaged"), open_learner_files(tmp_path, "actor"):
        pass
    with pytest.raises(ValueError, match="holds no state of the critic"), open_learner_files(tmp_path, "critic"):
        pass


def trajectory(draw: Draw, length: int, finish: str) -> Trajectory:
    return Trajectory(
        prompt_ids=draw.prompt_ids,
        response_ids=np.arange(length, dtype=np.int32),
        logprobs=np.linspace(-1, 0, length, dtype=np.float32),
        text="Überlegung " * length,
        finish=finish,  # pyright: ignore[reportArgumentType]
        weight_versions=np.full(length, 7, np.int32),
    )


def test_responses_in_flight_come_back_with_the_draws_they_share(tmp_path: Path) -> None:
    problem = Problem(id="p", conversation=(Turn(role="user", content="1+1"),), ground_truth="2")
    right = Verdict(reward=0.5, correct=True, outcome="scored", reason="equal", answer="2", seconds=0.25)
    messages = MessageSet(messages=("a", "b"), verdicts=(right, right), num_dropped=1)
    draw = Draw(problem=problem, message_set=messages, prompt_ids=np.array([3, 1, 4], np.int32), seed=11)
    in_flight = InFlight(
        unfinished=tuple(
            Unfinished(draw=draw, sample=sample, trajectory=trajectory(draw, sample, "unfinished"), seed=sample + 100)
            for sample in (0, 2)
        ),
        surplus=(Scored(draw=draw, sample=5, trajectory=trajectory(draw, 4, "stopped"), verdict=right),),
    )
    assert len(save_rollouts(tmp_path, in_flight)) == 2
    back = load_rollouts(tmp_path, [problem])
    for ours, theirs in zip(
        (*in_flight.unfinished, *in_flight.surplus), (*back.unfinished, *back.surplus), strict=True
    ):
        assert ours.sample == theirs.sample and ours.trajectory.text == theirs.trajectory.text
        for name in ("prompt_ids", "response_ids", "logprobs", "weight_versions"):
            found = getattr(theirs.trajectory, name)
            np.testing.assert_array_equal(getattr(ours.trajectory, name), found)
            assert found.dtype == getattr(ours.trajectory, name).dtype
    assert [item.seed for item in back.unfinished] == [100, 102] and back.surplus[0].verdict == right
    draws = {id(item.draw) for item in (*back.unfinished, *back.surplus)}
    assert len(draws) == 1 and back.surplus[0].draw.message_set == messages and back.surplus[0].draw.seed == 11
    with pytest.raises(ValueError, match=r"problem 'p', which data.problems no longer holds"):
        load_rollouts(tmp_path, [])


def test_nothing_in_flight_writes_nothing(tmp_path: Path) -> None:
    assert save_rollouts(tmp_path, InFlight()) == [] and not load_rollouts(tmp_path, [])


def test_random_states_go_back_to_where_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.randn(()))

    draw()
    states = random_states()
    first = [draw() for _ in range(3)]
    restore_random_states(states)
    assert [draw() for _ in range(3)] == first
