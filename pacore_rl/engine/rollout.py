"""The inference engines as one generator: spreads requests over Ray workers and collects what they finish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from pacore_rl.config import Config
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout_worker import ENVIRONMENT, RolloutWorker
from pacore_rl.engine.weight_sync import WeightLink
from pacore_rl.types import GenerationRequest, Sampling, Trajectory


@dataclass(slots=True, kw_only=True)
class RolloutGroup:
    """Workers that serve one version of the weights; a ``pacore_rl.interfaces.Generator``."""

    handles: list[Any]
    """Ray actors of RolloutWorker."""
    config: Config
    weight_version: int = 0
    weight_link: WeightLink | None = None
    """Set by ``weight_sync.connect``."""

    @classmethod
    def start(cls, config: Config, device: Device, model_path: str | None = None) -> RolloutGroup:
        """Start ``rollout.num_workers`` engines at once and wait for all of them.

        Args:
            model_path: weights to serve instead of ``model.path``.

        Raises:
            ValueError: an engine cannot start: the model folder is not whole, or memory is too small.
            TimeoutError: an engine took longer than ``cluster.start_timeout_seconds``.
            RuntimeError: a worker died.
        """
        path = model_path if model_path is not None else config.model.path
        worker: Any = ray.remote(RolloutWorker)
        handles: list[Any] = []
        for number in range(config.rollout.num_workers):
            options = device.ray_options("engine", number)
            options["runtime_env"]["env_vars"].update(ENVIRONMENT)
            # A placement group is the controller's business.
            handles.append(worker.options(**options).remote(config, replace(device, placement=None), path))
        group = cls(handles=handles, config=config)
        try:
            group.wait(group.call_all("start"), "starting", timeout_seconds=config.cluster.start_timeout_seconds)
        except BaseException:
            group.close()
            raise
        return group

    @property
    def context_window_tokens(self) -> int:
        return self.config.model.context_window_tokens

    @property
    def num_workers(self) -> int:
        return len(self.handles)

    @property
    def timeout_seconds(self) -> float:
        return self.config.run.worker_timeout_seconds

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        """Yield (index of the request, its trajectories) as requests finish.

        The same requests on the same weights give the same tokens and log-probs, whatever came before.

        Raises:
            TimeoutError: nothing finished for ``run.worker_timeout_seconds``; the message names the workers.
            RuntimeError: a worker died.
        """
        shares = assign(requests, sampling, self.num_workers)
        streams: dict[Any, int] = {
            handle.generate.options(num_returns="streaming").remote(
                [(index, requests[index]) for index in share], sampling
            ): worker
            for worker, (handle, share) in enumerate(zip(self.handles, shares, strict=True))
            if share
        }
        while streams:
            ready: list[Any]
            ready, _ = ray.wait(list(streams), num_returns=1, timeout=self.timeout_seconds)
            if not ready:
                raise TimeoutError(self._late(sorted(streams.values()), "generating", self.timeout_seconds))
            stream = ready[0]
            try:
                yield from self.result(next(stream), streams[stream], "generating")
            except StopIteration:
                del streams[stream]

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, *, enough: int | None = None
    ) -> Iterator[tuple[int, int, Trajectory]]:
        """Yield (index of the request, sample, trajectory) as responses end."""
        assert enough is None, "partial rollouts come with the streaming worker"
        for index, trajectories in self.generate(requests, sampling):
            for sample, trajectory in enumerate(trajectories):
                yield index, sample, trajectory

    def call_all(self, method: str, *arguments: Any) -> list[ray.ObjectRef[Any]]:
        """Command every worker; ``wait`` for what this returns."""
        return [getattr(handle, method).remote(*arguments) for handle in self.handles]

    def call_each(self, method: str, arguments: Sequence[Any]) -> list[ray.ObjectRef[Any]]:
        """Command every worker with its own argument."""
        return [
            getattr(handle, method).remote(argument) for handle, argument in zip(self.handles, arguments, strict=True)
        ]

    def wait(
        self, references: Sequence[ray.ObjectRef[Any]], doing: str, *, timeout_seconds: float | None = None
    ) -> list[Any]:
        """Results of ``references``, in order: of every rollout worker, then of any others.

        Raises:
            TimeoutError: not all came within the limit (``run.worker_timeout_seconds`` unless given).
            ValueError, RuntimeError: what a worker raised, as soon as one did.
        """
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        names = {reference: number for number, reference in enumerate(references)}
        pending = list(references)
        deadline = time.monotonic() + limit
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise TimeoutError(self._late([names[reference] for reference in pending], doing, limit))
            for reference in done:
                self.result(reference, names[reference], doing)
        return ray.get(list(references))

    def close(self) -> None:
        """Kill the workers. Safe to call twice."""
        self.weight_link = None
        for handle in self.handles:
            ray.kill(handle)
        self.handles = []

    def result(self, reference: ray.ObjectRef[Any], number: int, doing: str) -> Any:
        """What a reference that is ready holds, or what its worker raised in the terms of this process.

        Args:
            number: of the rollout worker; numbers past theirs are learner ranks.
        """
        try:
            return ray.get(reference, timeout=self.timeout_seconds)
        except GetTimeoutError as error:
            raise TimeoutError(self._late([number], doing, self.timeout_seconds)) from error
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(f"{self._name(number)}: {error.cause}") from error
            raise RuntimeError(f"{self._name(number)} failed while {doing}: {error.cause!r}") from error
        except (ActorDiedError, RayActorError) as error:
            raise RuntimeError(
                f"{self._name(number)} died while {doing}: {error} Most often the machine ran out of memory: lower "
                "rollout.kv_cache_gib or rollout.num_workers."
            ) from error

    def _late(self, numbers: Sequence[int], doing: str, limit: float) -> str:
        return (
            f"{', '.join(self._name(number) for number in numbers)} did not finish {doing} within {limit:.0f} s; look "
            "at the worker's log, or raise run.worker_timeout_seconds (while starting, cluster.start_timeout_seconds)."
        )

    def _name(self, number: int) -> str:
        """References past the rollout workers' belong to learners (see ``wait``)."""
        count = len(self.handles)
        return f"rollout worker {number}" if number < count else f"learner rank {number - count}"


def assign(requests: Sequence[GenerationRequest], sampling: Sampling, num_workers: int) -> list[list[int]]:
    """Request indices of each worker, in order, so that their loads are near each other.

    The load of a request is its tokens at most, prompts once and budgets once per sample. The heaviest request goes
    first, each to the worker with the least so far; ties go to the lower number, so that the same requests are always
    spread alike.
    """
    loads = [len(request.prompt_ids) + request.num_samples * sampling.max_response_tokens for request in requests]
    totals = [0] * num_workers
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    for index in sorted(range(len(requests)), key=lambda index: -loads[index]):
        worker = totals.index(min(totals))
        totals[worker] += loads[index]
        shares[worker].append(index)
    return [sorted(share) for share in shares]
