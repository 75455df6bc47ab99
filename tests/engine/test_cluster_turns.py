"""Taking turns: the order of the commands, on hardware that only writes them down."""

from __future__ import annotations

import pytest

from pacore_rl.engine.turns import GuardedGenerator, Turns, Wake
from pacore_rl.types import Sampling


class Recorder:
    """Hardware of our protocol: a list of commands, and the optimizer steps that the actor has made."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.num_steps = 0

    def sleep_engines(self) -> None:
        self.commands.append("engines sleep")

    def wake_engines(self, part: Wake) -> None:
        self.commands.append(f"engines wake {part}")

    def offload_learners(self, part: str) -> int:
        self.commands.append(f"learners offload {part}")
        return self.num_steps

    def reload_learners(self) -> None:
        self.commands.append("learners reload")

    def send_weights(self, version: int) -> None:
        self.commands.append(f"send {version}")

    def new_commands(self) -> list[str]:
        new, self.commands = self.commands, []
        return new


class Engines:
    """A generator that generates nothing."""

    weight_version = 3
    context_window_tokens = 64

    def generate(self, requests, sampling):
        return iter(())

    def stream(self, requests, sampling, *, enough=None):
        yield from ()


SEND = ["learners offload optimizer", "engines wake weights"]
GENERATE = ["learners offload weights", "engines wake kv_cache"]
LEARN = ["engines sleep", "learners reload"]


def test_a_step_hands_the_gpus_over_and_back() -> None:
    hardware = Recorder()
    turns = Turns(hardware)
    turns.turn_to("generation")  # the run begins: engines have slept, and nothing was learned
    assert hardware.new_commands() == [*SEND, "send 0", *GENERATE]
    turns.turn_to("generation")
    assert hardware.new_commands() == []
    turns.turn_to("learning")
    assert hardware.new_commands() == LEARN
    hardware.num_steps += 4
    turns.sync(1)
    # The transfer lies between the two wakes: no optimizer and no KV cache on the GPU.
    assert hardware.new_commands() == [*SEND, "send 1"]
    turns.turn_to("generation")
    assert hardware.new_commands() == GENERATE
    assert (turns.state, turns.version) == ("generation", 1)


def test_learning_may_follow_a_sync_and_the_weights_go_again_under_their_version() -> None:
    hardware = Recorder()
    turns = Turns(hardware)
    hardware.num_steps = 4
    turns.sync(7)
    turns.turn_to("learning")
    hardware.new_commands()
    turns.turn_to("generation")
    assert hardware.new_commands() == [*SEND, "send 7", *GENERATE]


def test_updates_that_were_not_synced_are_not_served_under_the_old_version() -> None:
    hardware = Recorder()
    turns = Turns(hardware)
    turns.turn_to("generation")
    turns.turn_to("learning")
    hardware.num_steps = 2
    hardware.new_commands()
    with pytest.raises(RuntimeError, match="2 optimizer steps that were not synced"):
        turns.turn_to("generation")
    assert not any(command.startswith("send") for command in hardware.new_commands())


def test_generation_out_of_turn_is_refused() -> None:
    turns = Turns(Recorder())
    generator = GuardedGenerator(group=Engines(), turns=turns)
    sampling = Sampling(max_response_tokens=4)
    for ask in (generator.generate, generator.stream):
        with pytest.raises(RuntimeError, match=r"in the state learning.*turn_to\('generation'\) first"):
            ask([], sampling)  # at once, not when the first response is fetched
    turns.turn_to("generation")
    assert list(generator.generate([], sampling)) == list(generator.stream([], sampling)) == []
    assert generator.weight_version == 3
    turns.turn_to("learning")
    turns.sync(1)
    with pytest.raises(RuntimeError, match="in the state synced"):
        generator.generate([], sampling)


def test_weights_are_sent_from_learning_only() -> None:
    turns = Turns(Recorder())
    turns.turn_to("generation")
    with pytest.raises(RuntimeError, match="the state is generation"):
        turns.sync(1)
