"""The inference engines as one generator: spreads requests over Ray workers and collects what they finish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from pacore_rl.config import Config
from pacore_rl.engine.calls import Calls, EngineLost
from pacore_rl.engine.generation import complete, not_begun
from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout_worker import ENVIRONMENT, News, RolloutWorker
from pacore_rl.engine.routing import DynamicRoute, Job, Route, Routing, StaticRoute
from pacore_rl.engine.weight_sync import WeightLink
from pacore_rl.engine.whereabouts import CONTROL, Whereabouts, end, is_alive, locate, require_answers, silent
from pacore_rl.events import record_event
from pacore_rl.failures import WorkerDied
from pacore_rl.interfaces import ResponseStream
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

_log = logging.getLogger(__name__)

QUEUED_SHARE = 1 / 8
"""Of the sequences an engine runs: those that wait in it, so that it need not ask when one ends."""


@dataclass(slots=True, kw_only=True)
class RolloutGroup:
    """Workers that serve one version of the weights; a ``pacore_rl.interfaces.StreamingGenerator``."""

    handles: list[Any]
    """Ray actors of RolloutWorker."""
    config: Config
    device: Device = field(default_factory=lambda: Device(kind="cpu", cpu_threads=1))
    model_path: str = ""
    """Weights that a worker starts with."""
    routing: Routing = "static"
    weight_version: int = 0
    weight_link: WeightLink | None = None
    """Set by ``weight_sync.connect``."""
    learner_names: list[str] = field(default_factory=list[str])
    """Of the ranks that send weights, with their hosts; set by ``weight_sync.connect``."""
    send_to: Callable[[int], None] | None = None
    """Sends the weights of now to one worker that has just started; None: it has them from ``model_path``."""
    replaceable: bool = True
    """Whether one engine can be started beside the others at work; colocated ones cannot."""
    num_restarts: int = 0
    """Engines that were replaced since the last call that went through."""
    places: list[Whereabouts] = field(default_factory=list[Whereabouts])

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
        group = cls(
            handles=[],
            config=config,
            device=device,
            model_path=model_path if model_path is not None else config.model.path,
            routing=choose_routing(config.rollout.routing, device),
        )
        try:
            for number in range(config.rollout.num_workers):
                group.handles.append(group._make_worker(number))
            group.wait(
                group.call_all("start"), "starting", timeout_seconds=config.cluster.start_timeout_seconds, starting=True
            )
            group.places = group.wait([locate(handle) for handle in group.handles], "saying where it runs")
        except BaseException:
            group.close()
            raise
        return group

    def _make_worker(self, number: int) -> Any:
        remote: Any = ray.remote(concurrency_groups={CONTROL: 1})  # pyright: ignore[reportCallIssue]
        options = self.device.ray_options("engine", number)
        options["runtime_env"]["env_vars"].update(ENVIRONMENT)
        # A placement group is the controller's business.
        return (
            remote(RolloutWorker)
            .options(**options)
            .remote(self.config, replace(self.device, placement=None), self.model_path)
        )

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
    ) -> ResponseStream:
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
        calls = Calls(self, requests, sampling, self._route(requests, sampling))
        num_ended, stopped = 0, False
        try:
            calls.begin()
            while calls.streams:
                withdrawn: list[Job] = []
                try:
                    worker, responses = calls.next_responses()
                except EngineLost as lost:
                    withdrawn = calls.drop(lost.worker) if stopped else []
                    self.replace(lost.worker, str(lost))
                    if not stopped:
                        calls.ask_again(lost.worker)
                    responses = []
                else:
                    num_ended += sum(response.finish != "unfinished" for response in responses)
                    if enough is not None and num_ended >= enough and not stopped:
                        stopped = True
                        withdrawn = calls.stop()
                    else:
                        calls.hand_on(worker, responses)
                for response in responses:
                    index, sample = response.job
                    yield index, sample, complete(requests[index], response)
                for index, sample in withdrawn:
                    yield index, sample, not_begun(requests[index])
            self.num_restarts = 0
        finally:  # also where the caller stops listening
            if not stopped:
                calls.stop()

    def _route(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> Route:
        if self.routing == "static":
            return StaticRoute(requests, sampling, self.num_workers)
        capacity = engine_capacity(self.config.rollout.max_concurrent_sequences)
        return DynamicRoute(requests, sampling, self.num_workers, capacity=capacity)

    def replace_silent(self) -> None:
        """Replace engines that are dead or hung while none of them has work; they get no weights: a sync follows.

        Raises: see ``replace``.
        """
        for worker, why in silent(self.handles, self.config.surviving.health_timeout_seconds).items():
            self.replace(worker, why, send=False)

    def replace(self, worker: int, why: str, *, send: bool = True) -> None:
        """Kill an engine, start another in its place and give it the weights of now; the others go on meanwhile.

        Raises:
            WorkerDied: that was tried too often in a row, or cannot be done here.
        """
        name, limit = self.name_of(worker), self.config.surviving.max_restarts
        self.num_restarts += 1
        if not self.replaceable or self.num_restarts > limit or not is_alive(self.places[worker].node_id):
            limited = f" surviving.max_restarts={limit} allows no other." if self.num_restarts > limit else ""
            raise WorkerDied(
                f"{name} {why}.{limited} Most often the machine ran out of memory: lower rollout.kv_cache_gib or "
                "rollout.num_workers."
            )
        _log.warning("%s %s; starting another (%d of at most %d in a row)", name, why, self.num_restarts, limit)
        started = time.monotonic()
        end(self.handles[worker], self.places[worker])
        handle = self.handles[worker] = self._make_worker(worker)
        limit_seconds = self.config.cluster.start_timeout_seconds
        self.wait(
            [handle.start.remote()], "starting again", timeout_seconds=limit_seconds, workers=[worker], starting=True
        )
        (self.places[worker],) = self.wait([locate(handle)], "saying where it runs", workers=[worker])
        if self.weight_link is not None:
            self.weight_link.members = ()  # the successor is not in the group
        if send and self.send_to is not None:
            self.send_to(worker)
        seconds = round(time.monotonic() - started, 3)
        record_event(
            self.config.run_dir,
            "engine_replaced",
            worker=worker,
            weight_version=self.weight_version,
            cause=why,
            seconds=seconds,
        )

    def tell(self, workers: Iterable[int], news: News) -> None:
        """Leave word for workers that generate."""
        # Nobody waits for the answer: should a worker be gone, its stream says so.
        if self.handles:  # none in a closed group, whose streams may be dropped late
            for worker in workers:
                self.handles[worker].tell.options(concurrency_group=CONTROL).remote(news)

    def call_all(self, method: str, *arguments: Any, workers: Sequence[int] | None = None) -> list[ray.ObjectRef[Any]]:
        """Command every worker, or those named; ``wait`` for what this returns."""
        called = self.handles if workers is None else [self.handles[worker] for worker in workers]
        return [getattr(handle, method).remote(*arguments) for handle in called]

    def wait(
        self,
        references: Sequence[ray.ObjectRef[Any]],
        doing: str,
        *,
        timeout_seconds: float | None = None,
        workers: Sequence[int] | None = None,
        learners: Sequence[Any] = (),
        starting: bool = False,
    ) -> list[Any]:
        """Results of ``references``, in order: of rollout workers, then of learner ranks.

        Args:
            workers: the rollout workers, where not all.
            learners: handles of the learner ranks.
            starting: they cannot answer yet when asked how they are.

        Raises:
            TimeoutError: not all came within the limit (``run.worker_timeout_seconds`` unless given).
            WorkerDied: one is dead, or does not answer.
            ValueError, RuntimeError: what a worker raised, as soon as one did.
        """
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        asked = range(self.num_workers) if workers is None else workers
        names = [*(self.name_of(worker) for worker in asked), *self.learner_names[: len(learners)]]
        by_reference = dict(zip(references, names, strict=True))
        handles = [*(self.handles[worker] for worker in asked), *learners]
        pending = list(references)
        deadline = time.monotonic() + limit
        patience = self.config.surviving.health_timeout_seconds
        while pending:
            left = max(0.0, deadline - time.monotonic())
            done, pending = ray.wait(pending, num_returns=1, timeout=min(left, patience))
            if not done and time.monotonic() >= deadline:
                raise TimeoutError(late([by_reference[reference] for reference in pending], doing, limit))
            if not done and not starting:
                require_answers(handles, names, doing, patience)
            for reference in done:
                try:
                    self.result(reference, by_reference[reference], doing)
                except WorkerDied:
                    raise
                except RuntimeError as error:  # one whose peer died says only that a connection broke
                    require_answers(handles, names, doing, patience, error)
                    raise
        return ray.get(list(references))

    def close(self) -> None:
        """Kill the workers. Safe to call twice."""
        self.weight_link, self.send_to = None, None
        for worker, handle in enumerate(self.handles):
            end(handle, self.places[worker] if self.places else None)
        self.handles = []

    def result(self, reference: ray.ObjectRef[Any], name: str, doing: str) -> Any:
        """What a reference that is ready holds, or what the worker called ``name`` raised, in this process's terms."""
        try:
            return ray.get(reference, timeout=self.timeout_seconds)
        except GetTimeoutError as error:
            raise TimeoutError(late([name], doing, self.timeout_seconds)) from error
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(f"{name}: {error.cause}") from error
            raise RuntimeError(f"{name} failed while {doing}: {error.cause!r}") from error
        except RayError as error:  # the process, or with its node what it had said
            remedy = (
                "micro_batch_tokens of the learner, or shard and offload more of it"
                if name.startswith("learner")
                else "rollout.kv_cache_gib or rollout.num_workers"
            )
            raise WorkerDied(
                f"{name} died while {doing}: {error} Most often the machine ran out of memory: lower {remedy}."
            ) from error

    def raise_late(self, workers: Sequence[int], doing: str) -> NoReturn:
        """Raise what it means that workers took longer than ``run.worker_timeout_seconds``."""
        raise TimeoutError(late([self.name_of(worker) for worker in workers], doing, self.timeout_seconds))

    def name_of(self, worker: int) -> str:
        """A worker and its host, for messages."""
        host = f" on {self.places[worker].host} (pid {self.places[worker].pid})" if self.places else ""
        return f"rollout worker {worker}{host}"


def late(names: Sequence[str], doing: str, limit_seconds: float) -> str:
    """What to say of workers that took too long."""
    return (
        f"{', '.join(names)} did not finish {doing} within {limit_seconds:.0f} s; look at the worker's log, or raise "
        "run.worker_timeout_seconds (while starting, cluster.start_timeout_seconds)."
    )


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
