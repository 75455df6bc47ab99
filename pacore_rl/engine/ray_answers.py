"""Scoring on the cluster: responses are judged on any node while others are still generated.

    RayScorer                         RayAnswers, a thread                  ScoringWorker, a Ray actor on any node
    rules settle most answers;  --->  hands a question to a worker   --->   threads, each driving a killable child
    equal questions are asked   <---  that has a thread free         <---   verdict
    once and remembered               dead or late: another worker
                                      is asked in its place

A worker holds no more questions than it has threads, so what waits is lost with no worker, and each question has a
time limit from the moment it is handed over. When a worker dies, what it was answering is asked again; the answer of a
worker that was given up is dropped. After ``ATTEMPTS`` the verdict is a failure of ours: the row is masked, never
scored 0.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import GetTimeoutError, RayActorError

from pacore_rl.config import RewardConfig
from pacore_rl.engine.scoring_worker import ScoringWorker
from pacore_rl.machine import num_cores
from pacore_rl.rewards.answers import LocalAnswers, longest_seconds
from pacore_rl.rewards.base import Question, failed
from pacore_rl.types import Verdict

THREADS_PER_WORKER = 4
"""Of one process: more of them would wait for each other's Python, fewer would each need a process."""
ATTEMPTS = 3
"""Workers that a question may outlive."""
WAKE_SECONDS = 1.0
"""How often late workers are looked for."""
CLOSE_SECONDS = 5.0
SHARED_CHARS = 50_000
"""A ground truth as long as this goes to Ray's object store."""
MAX_SHARED = 64
"""Of them, the latest; a step has a few problems, each with many responses."""
ANSWERED_HERE = frozenset({"judge"})
"""Rewards that mostly wait for a server: its limits, its breaker and its memory are those of one process."""
_logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A question under way."""

    question: Question
    future: Future[Verdict]
    attempts: int = 0
    deadline: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    handle: Any
    num_threads: int
    jobs: set[_Job] = field(default_factory=set[_Job])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A worker's call that came to something."""

    worker: _Worker
    job: _Job
    outcome: Future[Verdict]


class RayAnswers:
    """``reward.num_workers`` threads of Ray actors, spread over the nodes; needs Ray to be started.

    One thread of this process holds all that is known of the workers; others talk to it through its inbox.

    Args:
        rewards: names of those that the run's problems ask for.

    Raises:
        ValueError: the cluster has no CPUs for the workers, or a reward cannot be used on some node.
    """

    def __init__(self, config: RewardConfig, *, start_timeout_seconds: float, rewards: Collection[str] = ()) -> None:
        shares = _shares(config.num_workers) if config.num_workers else spare_shares()
        self.num_workers = sum(shares)
        self._config = config = config.model_copy(update={"num_workers": self.num_workers})
        self._start_timeout_seconds = start_timeout_seconds
        self._here = LocalAnswers(config.model_copy(update={"num_workers": min(self.num_workers, num_cores())}))
        self._inbox: queue.SimpleQueue[_Job | _Ended | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._shared: OrderedDict[str, Any] = OrderedDict()
        self._closing = threading.Lock()
        self._is_closed = False
        offered = ray.cluster_resources().get("CPU", 0.0)
        if offered < self.num_workers:
            raise ValueError(
                f"reward.placement=ray wants reward.num_workers={self.num_workers} CPUs of the cluster, which has "
                f"{offered:g}. Lower reward.num_workers, add CPUs, or set reward.placement=local."
            )
        self._workers = [self._start(number, threads) for number, threads in enumerate(shares)]
        try:
            ray.get([worker.handle.pid.remote() for worker in self._workers], timeout=start_timeout_seconds)
        except GetTimeoutError as error:
            self._kill_workers()
            raise ValueError(
                f"reward.placement=ray wants reward.num_workers={self.num_workers} CPUs of the cluster, {shares} to "
                f"a worker; not all had started after {start_timeout_seconds:.0f} s, and "
                f"{ray.available_resources().get('CPU', 0.0):g} CPUs are free. Lower reward.num_workers, add CPUs, or "
                "set reward.placement=local."
            ) from error
        except BaseException:
            self._kill_workers()
            raise
        try:
            self._require_ready(rewards)
        except BaseException:
            self._kill_workers()
            raise
        self._thread = threading.Thread(target=self._serve, name="scoring", daemon=True)
        self._thread.start()

    def _require_ready(self, rewards: Collection[str]) -> None:
        """Sandboxes, for instance, depend on a node's kernel; after a whole generation it is late to learn of it."""
        asked = [worker.handle.unready.remote(sorted(rewards)) for worker in self._workers]
        try:
            answers = ray.get(asked, timeout=self._start_timeout_seconds)
        except GetTimeoutError as error:
            raise ValueError(
                f"some node did not say within {self._start_timeout_seconds:.0f} s (cluster.start_timeout_seconds) "
                f"whether it can score by {', '.join(sorted(rewards))}; look for a busy node, raise the limit, or set "
                "reward.placement=local."
            ) from error
        for host, complaint in answers:
            if complaint is not None:
                raise ValueError(f"rewards cannot be scored on the node {host}: {complaint}")

    def submit(self, question: Question) -> Future[Verdict]:
        """Does not wait. Raises ``RuntimeError`` after ``close``."""
        if question.reward in ANSWERED_HERE:
            return self._here.submit(question)
        job = _Job(question=question, future=Future())
        with self._closing:
            if self._is_closed:
                raise RuntimeError("the scorer is closed")
            self._inbox.put(job)
        return job.future

    def limit_seconds(self, names: Iterable[str]) -> float:
        return ATTEMPTS * self._attempt_seconds(names)

    def close(self) -> None:
        """End the workers; what is open is cancelled. Safe to call twice."""
        with self._closing:
            self._is_closed = True
        self._inbox.put(None)
        self._thread.join()
        self._end_workers()
        self._here.close()

    @property
    def handles(self) -> tuple[Any, ...]:
        """The Ray actors that are asked now."""
        return tuple(worker.handle for worker in self._workers)

    def _serve(self) -> None:
        error: Exception | None = None
        try:
            while self._take_turn():
                pass
        except Exception as caught:  # the cluster is gone: whoever waits must hear of it
            error = caught
        with self._closing:
            self._is_closed = True
        for job in [*self._waiting, *(job for worker in self._workers for job in worker.jobs), *self._left_in_inbox()]:
            if error is None:
                job.future.cancel()
                job.future.set_running_or_notify_cancel()
            else:
                job.future.set_exception(error)

    def _take_turn(self) -> bool:
        """One event, if there is any, and what follows from it. False once the scorer is closed."""
        try:
            event = self._inbox.get(timeout=WAKE_SECONDS)
        except queue.Empty:
            pass
        else:
            if event is None:
                return False
            if isinstance(event, _Job):
                self._waiting.append(event)
            else:
                self._ended(event)
        now = time.monotonic()
        for worker in [worker for worker in self._workers if any(job.deadline < now for job in worker.jobs)]:
            self._replace(worker, "did not answer in time")
        self._hand_out()
        return True

    def _hand_out(self) -> None:
        """Give what waits to workers with a thread free, the least busy first; of equals, the youngest."""
        while self._waiting:
            free = [worker for worker in self._workers if len(worker.jobs) < worker.num_threads]
            if not free:
                return
            worker = min(free, key=lambda worker: (len(worker.jobs), -worker.number))
            job = self._waiting.popleft()
            job.attempts += 1
            job.deadline = time.monotonic() + self._attempt_seconds((job.question.reward,))
            worker.jobs.add(job)
            question, ground_truth = self._sent(job.question)
            self._watch(worker, job, worker.handle.answer.remote(question, ground_truth))

    def _sent(self, question: Question) -> tuple[Question, Any]:
        """A question as it travels: a large test suite, which many programs share, is fetched by each node once."""
        ground_truth = question.ground_truth
        if len(ground_truth) < SHARED_CHARS:
            return question, None
        if ground_truth not in self._shared:
            self._shared[ground_truth] = ray.put(ground_truth)
        self._shared.move_to_end(ground_truth)
        while len(self._shared) > MAX_SHARED:
            self._shared.popitem(last=False)
        return replace(question, ground_truth=""), self._shared[ground_truth]

    def _attempt_seconds(self, names: Iterable[str]) -> float:
        """Of one worker with one question: it and its children may have to start first."""
        return self._start_timeout_seconds + longest_seconds(names, self._config)

    def _watch(self, worker: _Worker, job: _Job, reference: Any) -> None:
        """Ray calls back in a thread of its own, which must not wait: it leaves word and goes."""
        reference.future().add_done_callback(
            lambda outcome: self._inbox.put(_Ended(worker=worker, job=job, outcome=outcome))
        )

    def _ended(self, ended: _Ended) -> None:
        worker, job = ended.worker, ended.job
        if job not in worker.jobs:
            return  # the worker was given up, and the question asked elsewhere
        error = ended.outcome.exception()
        if isinstance(error, RayActorError):
            self._replace(worker, "died")
            return
        worker.jobs.discard(job)
        if error is None:
            job.future.set_result(ended.outcome.result())
        else:
            job.future.set_exception(error)

    def _replace(self, worker: _Worker, why: str) -> None:
        """Another worker in place of one that is lost, and its questions to the front of what waits."""
        _logger.warning("scoring worker %d %s; its %d questions are asked again", worker.number, why, len(worker.jobs))
        ray.kill(worker.handle)
        number = 1 + max(each.number for each in self._workers)
        self._workers[self._workers.index(worker)] = self._start(number, worker.num_threads)
        for job in sorted(worker.jobs, key=lambda job: job.deadline, reverse=True):
            if job.attempts < ATTEMPTS:
                self._waiting.appendleft(job)
            else:
                job.future.set_result(failed(f"{job.attempts} scoring workers were lost while they judged it"))
        worker.jobs.clear()

    def _start(self, number: int, num_threads: int) -> _Worker:
        config = self._config.model_copy(update={"num_workers": num_threads})
        remote: Any = ray.remote(ScoringWorker)
        handle = remote.options(
            num_cpus=num_threads,
            max_concurrency=num_threads + 1,  # and one that closes
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": _environment(config)},
        ).remote(config, [os.getcwd(), *filter(None, sys.path)])
        return _Worker(number=number, handle=handle, num_threads=num_threads)

    def _end_workers(self) -> None:
        """Let them end their children; then kill them, since one may be stuck."""
        if self._workers:
            told = [worker.handle.close.remote() for worker in self._workers]
            ray.wait(told, num_returns=len(told), timeout=CLOSE_SECONDS)
        self._kill_workers()

    def _kill_workers(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            ray.kill(worker.handle)

    def _left_in_inbox(self) -> Iterator[_Job]:
        while not self._inbox.empty():
            event = self._inbox.get_nowait()
            if isinstance(event, _Job):
                yield event


def spare_shares() -> list[int]:
    """Threads of each worker where no number is set: of every node, half of the CPUs that nobody has reserved, since
    engines and learners use more than the one they reserve."""
    nodes: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    shares = [share for free in nodes.values() for share in _shares(int(free.get("CPU", 0.0)) // 2)]
    return shares or [1]


def _shares(num_threads: int) -> list[int]:
    """Threads of each worker."""
    whole, rest = divmod(num_threads, THREADS_PER_WORKER)
    return [THREADS_PER_WORKER] * whole + ([rest] if rest else [])


def _environment(config: RewardConfig) -> dict[str, str]:
    """Of a worker: no GPU, and what the user's own reward may see."""
    wanted = {name: os.environ[name] for name in config.custom.environment if name in os.environ}
    return {"CUDA_VISIBLE_DEVICES": "", **wanted}
