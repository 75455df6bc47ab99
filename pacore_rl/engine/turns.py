"""Taking turns on shared GPUs: which half of the system has the hardware, and in which order it changes hands.

    state         engines             learners           what may run        left by
    learning      asleep, no weights  loaded             learning, saving    sync, turn_to("generation")
    synced        weights only        weights only       saving              turn_to(either)
    generation    awake               on the host        generate            turn_to("learning")

An engine's weights need no copy while it sleeps: the learner has newer ones, and sends them between the two wakes, when
neither the optimizer nor the KV cache is on the GPU. Where nothing was learned since the last sync (a checkpoint was
written, the run has just begun), the way to generation sends the same weights again, under the same version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pacore_rl.config import Config
from pacore_rl.engine.learner import LearnerGroup
from pacore_rl.engine.pending import RayPending
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.state_offload import Part
from pacore_rl.interfaces import ResponseStream, StreamingGenerator
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

State = Literal["learning", "synced", "generation"]
Wake = Literal["weights", "kv_cache"]


class Hardware(Protocol):
    """The commands that a change of turns is made of. Each returns once every worker has obeyed."""

    def sleep_engines(self) -> None:
        """Free everything that the engines hold on the GPUs, weights included."""
        ...

    def wake_engines(self, part: Wake) -> None:
        """Allocate the engines' weights (with no content) or their KV cache."""
        ...

    def offload_learners(self, part: Part) -> int:
        """Move optimizers and gradients, or weights, to the host; optimizer steps of the actor so far."""
        ...

    def reload_learners(self) -> None:
        """Move back whatever was offloaded."""
        ...

    def send_weights(self, version: int) -> None:
        """Send the actor's weights to the engines, which from then on report ``version``."""
        ...


class Turns:
    """The state machine of colocated placement. A new one is in state ``learning``, with the engines asleep."""

    def __init__(self, hardware: Hardware) -> None:
        self.state: State = "learning"
        self.version = 0
        """Of the weights that the engines serve, or served before they slept."""
        self._hardware = hardware
        self._num_steps_at_sync = 0

    def turn_to(self, work: Literal["generation", "learning"]) -> None:
        """Give the GPUs to generation or to learning; nothing happens if it has them.

        Raises:
            RuntimeError: generation is asked for after an update that was not synced: the engines would serve weights
                under the version of others.
        """
        if work == self.state:
            return
        if work == "learning":
            self._hardware.sleep_engines()
            self._hardware.reload_learners()
        else:
            if self.state == "learning":
                self._send(self.version, again=True)
            self._hardware.offload_learners("weights")
            self._hardware.wake_engines("kv_cache")
        self.state = work

    def sync(self, version: int) -> None:
        """Send what was learned; generation may follow at once, learning after ``turn_to``."""
        if self.state != "learning":
            raise RuntimeError(
                f"weights are sent from the state learning, but the state is {self.state}; turn_to('learning') first."
            )
        self._send(version, again=False)

    def require_generation(self) -> None:
        """Refuse to generate while the GPUs belong to the learners."""
        if self.state != "generation":
            raise RuntimeError(
                f"generation was asked for in the state {self.state}: the engines have no KV cache, and the learners "
                "have the GPUs. Call turn_to('generation') first."
            )

    def _send(self, version: int, *, again: bool) -> None:
        num_steps = self._hardware.offload_learners("optimizer")
        if again and num_steps != self._num_steps_at_sync:
            raise RuntimeError(
                f"the actor made {num_steps - self._num_steps_at_sync} optimizer steps that were not synced; call "
                "sync_weights with a new version before turn_to('generation')."
            )
        self._hardware.wake_engines("weights")
        self._hardware.send_weights(version)
        self.version, self._num_steps_at_sync, self.state = version, num_steps, "synced"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedGenerator:
    """The engines of a colocated run: a generator that refuses to work out of turn."""

    group: StreamingGenerator
    turns: Turns

    @property
    def weight_version(self) -> int:
        return self.group.weight_version

    @property
    def context_window_tokens(self) -> int:
        return self.group.context_window_tokens

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        self.turns.require_generation()
        return self.group.generate(requests, sampling)

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, *, enough: int | None = None
    ) -> ResponseStream:
        self.turns.require_generation()
        return self.group.stream(requests, sampling, enough=enough)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayHardware:
    """The commands on Ray workers."""

    config: Config
    rollout: RolloutGroup
    learners: Sequence[LearnerGroup]
    """The actor first."""

    def sleep_engines(self) -> None:
        self.rollout.wait(self.rollout.call_all("sleep"), "going to sleep")

    def wake_engines(self, part: Wake) -> None:
        self.rollout.wait(self.rollout.call_all("wake", part), f"waking its {part}")

    def offload_learners(self, part: Part) -> int:
        return self._command("offload", part)[0]

    def reload_learners(self) -> None:
        self._command("reload")

    def send_weights(self, version: int) -> None:
        from pacore_rl.engine import weight_sync

        weight_sync.sync(self.rollout, self.learners[0].handles, version)

    def _command(self, method: str, *arguments: Any) -> list[Any]:
        """Command all ranks of all learners at once."""
        ranks = [
            (learner.name_of(rank), handle) for learner in self.learners for rank, handle in enumerate(learner.handles)
        ]
        return RayPending(
            what=method,
            workers=[name for name, _ in ranks],
            refs=[getattr(handle, method).remote(*arguments) for _, handle in ranks],
            timeout_seconds=self.config.run.worker_timeout_seconds,
            limit_name="run.worker_timeout_seconds",
            combine=list,
            handles=[handle for _, handle in ranks],
            health_timeout_seconds=self.config.surviving.health_timeout_seconds,
        ).result()
