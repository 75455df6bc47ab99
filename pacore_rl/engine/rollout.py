"""The inference engines as one generator: spreads requests over Ray workers and collects what they finish."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from pacore_rl.config import Config
from pacore_rl.engine.generation import Response, complete, not_begun
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout_worker import ENVIRONMENT, News, RolloutWorker
from pacore_rl.engine.routing import DynamicRoute, Job, Route, Routing, StaticRoute
from pacore_rl.engine.weight_sync import WeightLink
from pacore_rl.engine.whereabouts import CONTROL
from pacore_rl.failures import WorkerDied
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

QUEUED_SHARE = 1 / 8
"""Of the sequences an engine runs: those that wait in it, so that it need not ask when one ends."""


@dataclass(slots=True, kw_only=True)
class RolloutGroup:
    """Workers that serve one version of the weights; a ``pacore_rl.interfaces.StreamingGenerator``."""

    handles: list[Any]
    """Ray actors of RolloutWorker."""
    config: Config
    routing: Routing = "static"
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
        remote: Any = ray.remote(concurrency_groups={CONTROL: 1})  # pyright: ignore[reportCallIssue]
        worker = remote(RolloutWorker)
        path = model_path if model_path is not None else config.model.path
        handles: list[Any] = []
        for number in range(config.rollout.num_workers):
            options = device.ray_options("engine", number)
            options["runtime_env"]["env_vars"].update(ENVIRONMENT)
            # A placement group is the controller's business.
            handles.append(worker.options(**options).remote(config, replace(device, placement=None), path))
        group = cls(handles=handles, config=config, routing=choose_routing(config.rollout.routing, device))
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
        """Yield (index of the request, its trajectories) as requests finish; ``stream``, grouped by request."""
        responses: dict[int, dict[int, Trajectory]] = {}
        for index, sample, trajectory in self.stream(requests, sampling):
            samples = responses.setdefault(index, {})
            samples[sample] = trajectory
            if len(samples) == requests[index].num_samples:
                yield index, tuple(trajectory for _, trajectory in sorted(responses.pop(index).items()))

    def stream(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, *, enough: int | None = None
    ) -> Iterator[tuple[int, int, Trajectory]]:
        """Yield (index of the request, sample, trajectory) as responses end, each once.

        Where ``routing`` is static, the same requests on the same weights give the same tokens and log-probs to the
        last bit, whatever came before; where it is dynamic, the same tokens and nearly the same log-probs.

        Args:
            enough: once so many responses have ended, the others are interrupted: they come as ``unfinished``, with
                what they have so far. Which ones depends on timing.

        Raises:
            TimeoutError: nothing ended for ``run.worker_timeout_seconds``; the message names the workers.
            WorkerDied: a worker's process is gone.
            RuntimeError: a worker failed.
        """
        check_requests(requests)
        route, call = self._route(requests, sampling), uuid.uuid4().hex
        shared = ray.put(list(requests))  # workers fetch the prompts once; jobs are two numbers
        streams: dict[Any, int] = {}
        for worker, jobs in enumerate(route.hand_out()):
            if jobs:
                method = self.handles[worker].generate.options(num_returns="streaming")
                streams[method.remote(call, shared, sampling, jobs, more=route.has_waiting)] = worker
        num_ended, stopped = 0, False
        try:
            while streams:
                worker, responses = self._next_responses(streams)
                num_ended += sum(response.finish != "unfinished" for response in responses)
                withdrawn: list[Job] = []
                if enough is not None and num_ended >= enough and not stopped:
                    stopped = True
                    withdrawn = route.withdraw()
                    self._tell(streams.values(), News(call=call, stop=True))
                elif route.has_waiting:
                    for response in responses:
                        route.ended(worker, response.job)
                    self._hand_on(route, call, streams.values())
                for response in responses:
                    index, sample = response.job
                    yield index, sample, complete(requests[index], response)
                for index, sample in withdrawn:
                    yield index, sample, not_begun(requests[index])
        finally:  # also where the caller stops listening
            if not stopped:
                self._tell(streams.values(), News(call=call, stop=True))

    def _route(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> Route:
        if self.routing == "static":
            return StaticRoute(requests, sampling, self.num_workers)
        capacity = engine_capacity(self.config.rollout.max_concurrent_sequences)
        return DynamicRoute(requests, sampling, self.num_workers, capacity=capacity)

    def _next_responses(self, streams: dict[Any, int]) -> tuple[int, list[Response]]:
        """A worker and responses of it that ended; a stream that is through is dropped, and gives none."""
        ready: list[Any]
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=self.timeout_seconds)
        if not ready:
            raise TimeoutError(self._late(sorted(streams.values()), "generating", self.timeout_seconds))
        worker = streams[ready[0]]
        try:
            reference = next(ready[0])
        except StopIteration:
            del streams[ready[0]]
            return worker, []
        return worker, self.result(reference, worker, "generating")

    def _hand_on(self, route: Route, call: str, workers: Iterable[int]) -> None:
        """Give the workers what they have room for; once nothing waits any more, all hear that this was all."""
        shares = route.hand_out()
        for worker in workers:
            if shares[worker] or not route.has_waiting:
                self._tell([worker], News(call=call, jobs=shares[worker], more=route.has_waiting))

    def _tell(self, workers: Iterable[int], news: News) -> None:
        # Nobody waits for the answer: should a worker be gone, its stream says so.
        if self.handles:  # none in a closed group, whose streams may be dropped late
            for worker in workers:
                self.handles[worker].tell.options(concurrency_group=CONTROL).remote(news)

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
            remedy = (
                "rollout.kv_cache_gib or rollout.num_workers"
                if number < len(self.handles)
                else "micro_batch_tokens of the learner, or shard and offload more of it"
            )
            raise WorkerDied(
                f"{self._name(number)} died while {doing}: {error} Most often the machine ran out of memory: lower "
                f"{remedy}."
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


def check_requests(requests: Sequence[GenerationRequest]) -> None:
    """Assert what ``GenerationRequest`` promises of those that go on with a response."""
    continued = [request for request in requests if request.continues is not None]
    for request in continued:
        before = request.continues
        assert before is not None and before.finish == "unfinished", "only what was interrupted can go on"
        assert request.num_samples == 1, "a response goes on as one"
        assert np.array_equal(before.prompt_ids, request.prompt_ids), "a response goes on after its own prompt"
    streams = {(request.seed, request.prompt_ids.tobytes()) for request in continued}
    assert len(streams) == len(continued), "responses to one prompt that go on with one seed may draw the same numbers"


def engine_capacity(max_concurrent_sequences: int) -> int:
    """Responses that an engine holds under dynamic routing: those it can run, and a few for when one of them ends."""
    return max_concurrent_sequences + max(1, int(max_concurrent_sequences * QUEUED_SHARE))


def choose_routing(wanted: Literal["auto", "static", "dynamic"], device: Device) -> Routing:
    """The routing behind ``rollout.routing``: auto is static on CPUs, for runs that repeat, and dynamic on GPUs."""
    if wanted != "auto":
        return wanted
    return "static" if device.kind == "cpu" else "dynamic"
