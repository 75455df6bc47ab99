"""Passes of one rank: log-probs or values of micro-batches, and optimizer steps over mini-batches."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pacore_rl.config import Config
from pacore_rl.ppo.batch import MicroBatch, TokenCount, count_tokens
from pacore_rl.ppo.losses import policy_loss, value_loss
from pacore_rl.types import Float32

Role = Literal["actor", "critic"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minibatch:
    """One optimizer step of one rank."""

    micro_batches: tuple[MicroBatch, ...]
    """As many on every rank."""
    old: tuple[Float32, ...]
    """Per micro-batch [a]: log-probs (actor) or values (critic) from before this iteration's updates."""
    targets: tuple[Float32, ...]
    """Per micro-batch [a]: advantages (actor) or returns (critic)."""
    num_actions: int
    """Action tokens of the whole mini-batch over all ranks: the denominator of the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one rank's part of an optimizer step says."""

    sums: Mapping[str, float]
    """Sums over this rank's action tokens; they add up over ranks. ``loss`` is divided by the global count already."""
    ratio_max: float
    """Largest probability ratio (actor); 0 for the critic."""
    grad_norm: float
    """Global gradient norm before clipping; the same on every rank."""
    tokens: TokenCount
    """Of this rank's micro-batches."""
    memory_gib: float
    """Largest that this rank's process has held: of its GPU's memory, or of main memory where it has none."""
    skipped: bool = False
    """Whether the gradient was no number, and the step left out: then everything above is 0."""


class Passes:
    """A rank's DeepSpeed engine, run over packed micro-batches."""

    def __init__(self, engine: Any, *, role: Role, rank: int, config: Config, torch_device: torch.device) -> None:
        self.engine = engine
        self.role: Role = role
        self.rank = rank
        self.config = config
        self.settings = config.learner(role)
        self.torch_device = torch_device
        self.num_passes = 0
        """Forward passes, backward passes and optimizer steps so far: a rank that has work and makes none is hung."""

    def forward(self, micro_batches: Sequence[MicroBatch], **options: bool) -> list[Any]:
        """What the module, called with ``options``, returns for each micro-batch, without gradients."""
        self.engine.eval()
        outputs: list[Any] = []
        with torch.no_grad():
            for micro in micro_batches:
                outputs.append(self.engine(**self._inputs(micro), **options))
                self.num_passes += 1
        return outputs

    def update(self, minibatches: Sequence[Minibatch], *, step: int) -> list[StepResult]:
        """One optimizer step for each mini-batch of iteration ``step`` (counted from 1), at its learning rate.

        Raises:
            FloatingPointError: a loss or gradient that is not finite, and ``surviving.on_nonfinite`` is stop; either
                way the weights are left as they were before that mini-batch.
        """
        self.engine.train()
        losses = self._policy_losses if self.role == "actor" else self._value_losses
        results: list[StepResult] = []
        for number in range(len(minibatches)):
            rate = learning_rate(self.config, self.role, step, number + 1)
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            results.append(self._optimizer_step(minibatches[number], losses, step))
        return results

    def _inputs(self, micro: MicroBatch) -> dict[str, Tensor]:
        """A micro-batch as arguments of the module's forward."""
        arrays = {
            "input_ids": micro.token_ids[None],
            "position_ids": micro.position_ids[None],
            "action_index": micro.action_index,
        }
        if micro.sequence_position_ids is not None:
            arrays["sequence_position_ids"] = micro.sequence_position_ids[None]
        if self.role == "actor":
            arrays["labels"] = micro.labels
        return {
            name: torch.tensor(array, dtype=torch.int64, device=self.torch_device) for name, array in arrays.items()
        }

    def _optimizer_step(
        self, minibatch: Minibatch, losses: Callable[[Minibatch, int], _Losses], step: int
    ) -> StepResult:
        """Accumulate the mini-batch's gradient over its micro-batches, then step."""
        totals: dict[str, float] = {}
        ratio_max = 0.0
        skips = self.config.surviving.on_nonfinite == "skip"
        last = len(minibatch.micro_batches) - 1
        for i in range(last + 1):
            self.engine.set_gradient_accumulation_boundary(i == last)
            result = losses(minibatch, i)
            loss = float(result.loss.detach())
            if not math.isfinite(loss) and not skips:
                raise FloatingPointError(
                    f"{self.role} rank {self.rank}: the loss of step {step} is {loss}; lower the learning rate, or "
                    "look for corrupt log-probs or rewards in this step's batch."
                )
            # DeepSpeed averages gradients over all ranks; the loss is a sum over them.
            self.engine.backward(result.loss * self.settings.num_ranks)
            for name, value in (result.sums | {"loss": result.loss.detach()}).items():
                totals[name] = totals.get(name, 0.0) + float(value)
            ratio_max = max(ratio_max, float(result.ratio_max))
            self.num_passes += 1
        self.engine.step()
        self.num_passes += 1
        grad_norm = float(self.engine.get_global_grad_norm() or 0.0)
        tokens, memory_gib = count_tokens(minibatch.micro_batches), self._memory_gib()
        if self.engine.optimizer.overflow or not math.isfinite(grad_norm):
            # DeepSpeed has dropped the gradient, on all ranks alike: the norm is of the whole model.
            if not skips:
                raise FloatingPointError(
                    f"{self.role} rank {self.rank}: the gradient of step {step} is no number. Lower the "
                    "learning rate and go on with --resume auto; surviving.on_nonfinite=skip leaves such steps out."
                )
            nothing = dict.fromkeys(totals, 0.0)
            return StepResult(
                sums=nothing, ratio_max=0.0, grad_norm=0.0, tokens=tokens, memory_gib=memory_gib, skipped=True
            )
        return StepResult(sums=totals, ratio_max=ratio_max, grad_norm=grad_norm, tokens=tokens, memory_gib=memory_gib)

    def _memory_gib(self) -> float:
        if self.torch_device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.torch_device) / 1024**3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # Linux counts it in KiB

    def _policy_losses(self, minibatch: Minibatch, i: int) -> _Losses:
        log_probs = self.engine(**self._inputs(minibatch.micro_batches[i]))
        result = policy_loss(
            log_probs,
            torch.from_numpy(minibatch.old[i]).to(self.torch_device),
            torch.from_numpy(minibatch.targets[i]).to(self.torch_device),
            clip_range=self.config.ppo.clip_range,
            num_actions=minibatch.num_actions,
        )
        sums = {"clipped": result.clipped, "kl": result.kl, "ratio": result.ratio}
        return _Losses(loss=result.loss, sums=sums, ratio_max=float(result.ratio_max))

    def _value_losses(self, minibatch: Minibatch, i: int) -> _Losses:
        values = self.engine(**self._inputs(minibatch.micro_batches[i]))
        result = value_loss(
            values,
            torch.from_numpy(minibatch.old[i]).to(self.torch_device),
            torch.from_numpy(minibatch.targets[i]).to(self.torch_device),
            clip_range=self.config.ppo.value_clip_range,
            num_actions=minibatch.num_actions,
        )
        return _Losses(loss=result.loss, sums={"clipped": result.clipped}, ratio_max=0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Losses:
    """One micro-batch's loss and metric sums, actor's or critic's."""

    loss: Tensor
    sums: dict[str, Tensor]
    ratio_max: float


def learning_rate(config: Config, role: Role, iteration: int, minibatch: int) -> float:
    """The rate of an optimizer step: linear warm-up over ``warmup_steps`` of them, constant afterwards.

    As in Open-Reasoner-Zero, optimizer steps are counted and not iterations: with 12 mini-batches an iteration, a
    warm-up of 50 is over in the fifth. Iterations in which the actor is frozen do not count for it.

    Args:
        iteration: counted from 1.
        minibatch: of the iteration, counted from 1.
    """
    settings = config.learner(role)
    if role == "actor":
        iteration -= config.ppo.critic_warmup_steps
    assert iteration > 0, "a frozen actor makes no step"
    num_steps = (iteration - 1) * config.minibatches(role) + minibatch
    return settings.learning_rate * min(1.0, num_steps / max(settings.warmup_steps, 1))
