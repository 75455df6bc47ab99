"""What the training loop asks of the machinery. ``pacore_rl.engine`` implements it on Ray, vLLM and DeepSpeed;
tests may implement it with a few lines of Python. Importing this module loads none of them.
"""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pacore_rl.checkpoints.files import WrittenFile
from pacore_rl.types import (
    ExperienceBatch,
    Finish,
    Float32,
    GenerationRequest,
    Int32,
    Problem,
    Sampling,
    Trajectory,
    Turn,
    Verdict,
)

if TYPE_CHECKING:
    from pacore_rl.samples import Sample

T_co = TypeVar("T_co", covariant=True)

ResponseStream = Steps[tuple[int, int, Trajectory], None, None]
"""``(index of the request, sample, trajectory)`` as responses end. Closed before its end, it interrupts the others."""


class Pending(Protocol[T_co]):
    """A result under way on the workers."""

    def result(self) -> T_co:
        """Wait for it (never longer than the run's time limit) and return it, or raise what the worker raised."""
        ...


class ChatTokenizer(Protocol):
    """Text to token ids and back."""

    def encode_chat(self, conversation: Sequence[Turn]) -> Int32:
        """Token ids [T] of the conversation in the model's chat template, up to where the assistant speaks next."""
        ...

    def decode(self, token_ids: Int32) -> str:
        """The text of the ids, special tokens left out."""
        ...

    def count(self, text: str) -> int:
        """Number of tokens of a piece of text (no template around it)."""
        ...


class Generator(Protocol):
    """A pool of inference engines that serve one version of the weights."""

    @property
    def weight_version(self) -> int: ...

    @property
    def context_window_tokens(self) -> int: ...

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        """Yield ``(index of the request, its num_samples trajectories)`` as requests finish, in any order."""
        ...


class StreamingGenerator(Generator, Protocol):
    """A generator that hands over each response as it ends: what training needs."""

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, *, enough: int | None = None
    ) -> ResponseStream:
        """Yield ``(index of the request, sample, trajectory)`` as responses end, in any order.

        Once ``enough`` of them have ended, the others are interrupted and come as ``unfinished``.
        """
        ...


class Scorer(Protocol):
    """Scores responses; runs where it likes, never hangs, never raises for what a model wrote."""

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> Pending[list[Verdict]]:
        """Verdicts of ``(problem, compacted message, how its generation ended)``, in order."""
        ...


class RunScorer(Scorer, Protocol):
    """A run's: it says how much of the scoring was hidden by the generation."""

    @property
    def num_workers(self) -> int:
        """Responses that it scores at a time."""
        ...


class Actor(Protocol):
    """The policy under training."""

    def log_probs(self, batch: ExperienceBatch) -> Pending[tuple[Float32, Float32]]:
        """Log-probability and entropy [A], [A] of every action token under the current weights."""
        ...

    def update(
        self, batch: ExperienceBatch, old_log_probs_A: Float32, advantages_A: Float32, *, step: int
    ) -> Pending[Mapping[str, float]]:
        """One PPO pass over the batch (``ppo.actor_minibatches`` optimizer steps); metrics of it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the weights as a Hugging Face checkpoint that vLLM and transformers load, tokenizer included."""
        ...


class Critic(Protocol):
    """The value function under training."""

    def values(self, batch: ExperienceBatch) -> Pending[Float32]:
        """Value [A] of the state before each action token."""
        ...

    def update(
        self, batch: ExperienceBatch, old_values_A: Float32, returns_A: Float32, *, step: int
    ) -> Pending[Mapping[str, float]]:
        """One pass of value regression (``ppo.critic_minibatches`` optimizer steps); metrics of it."""
        ...

    def save(self, folder: Path) -> None: ...


class Engine(Protocol):
    """Everything that runs on the cluster."""

    @property
    def generator(self) -> StreamingGenerator: ...

    @property
    def actor(self) -> Actor: ...

    @property
    def critic(self) -> Critic: ...

    @property
    def learners_share_gpus(self) -> bool:
        """Whether actor and critic have the same GPUs; then they work one after the other."""
        ...

    def turn_to(self, work: Literal["generation", "learning"]) -> None:
        """Give the hardware to generation or to learning; nothing to do where each has its own."""
        ...

    def sync_weights(self, version: int) -> None:
        """Send the actor's weights to every inference engine, which from then on reports ``version``."""
        ...

    def snapshot(self) -> None:
        """Copy the learners' state to the hosts' memory, between an update and ``sync_weights``."""
        ...

    def write_snapshot(self, folder: Path) -> Pending[list[WrittenFile]]:
        """Write the latest snapshot into ``folder`` beside whatever is commanded meanwhile: ``actor`` and ``critic`` as
        Hugging Face folders, and in ``state`` what ``load_state`` reads."""
        ...

    def load_state(self, folder: Path, version: int) -> None:
        """Go on from what ``write_snapshot`` wrote, learners and inference engines; the latter report ``version``."""
        ...

    def close(self) -> None:
        """Stop every worker this engine started. Safe to call twice."""
        ...


class MetricSink(Protocol):
    """Where a step's metrics go."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class SampleSink(Protocol):
    """Where a step's excerpt for readers goes: some problems with their messages and responses."""

    def log_samples(self, samples: Sequence[Sample]) -> None: ...

    def close(self) -> None: ...
