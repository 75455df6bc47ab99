"""What an iteration costs the controller: routing and collecting 1,024 responses of 32k tokens from many engines.

    python scripts/bench/controller.py [--engines 8 64 512] [--responses 1024] [--tokens 32768] [--routing dynamic]

The engines are STUBS: threads of a few local Ray actors that follow the worker's protocol (``generate``, ``tell``) and
answer each job at once with arrays of the right size. No vLLM runs, nothing crosses a network, and all engines answer
at the same moment: this measures the controller and nothing else. Its CPU seconds are what counts, for the stubs share
the cores. Memory: what became private to the controller's process; arrays in Ray's object store are read in place.
Target: at most 10 CPU seconds an iteration at each number of engines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import ray

from pacore_rl.config import Config
from pacore_rl.engine.generation import Response
from pacore_rl.engine.rollout import RolloutGroup
from pacore_rl.engine.rollout_worker import News
from pacore_rl.engine.routing import Job, Routing
from pacore_rl.engine.whereabouts import CONTROL, Whereabouts
from pacore_rl.types import GenerationRequest, Sampling, Trajectory

TARGET_SECONDS = 10.0
MIB = 1024**2


class StubHost:
    """Many stub engines in one process, a thread each."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._inboxes: dict[int, queue.SimpleQueue[tuple[int, News]]] = {}

    def open(self, engine: int) -> None:
        self._inboxes[engine] = queue.SimpleQueue()

    def generate(
        self, engine: int, call: str, requests: Any, sampling: Any, jobs: Sequence[Job], *, more: bool
    ) -> Iterator[list[Response]]:
        todo, early, num_heard = list(jobs), dict[int, News](), 0
        while todo or more:
            if not todo:
                while num_heard not in early:
                    number, news = self._inboxes[engine].get(timeout=600)
                    early[number] = news
                news = early.pop(num_heard)
                num_heard += 1
                todo, more = list(news.jobs), news.more
                continue
            yield [
                Response(
                    job=todo.pop(0),
                    token_ids=np.ones(self._num_tokens, dtype=np.int32),
                    logprobs=np.ones(self._num_tokens, dtype=np.float32),
                    text="word " * self._num_tokens,
                    finish="stopped",
                    weight_version=0,
                    num_cached_tokens=0,
                )
            ]

    def tell(self, engine: int, number: int, news: News) -> None:
        """News number ``number`` of an engine: an actor of many threads, unlike a worker, may hear it out of order."""
        self._inboxes[engine].put((number, news))

    def whereabouts(self, engine: int) -> Whereabouts:
        return Whereabouts.of_this_process()


@dataclass(frozen=True, slots=True)
class StubMethod:
    """A method of a host, called for one of its engines."""

    method: Any
    engine: int
    numbers: Iterator[int] | None = None
    """Of the calls, for those whose order matters."""

    def options(self, **options: Any) -> StubMethod:
        return StubMethod(self.method.options(**options), self.engine, self.numbers)

    def remote(self, *arguments: Any, **named: Any) -> Any:
        number = () if self.numbers is None else (next(self.numbers),)
        return self.method.remote(self.engine, *number, *arguments, **named)


@dataclass(frozen=True, slots=True)
class StubHandle:
    """Stands where the group has the handle of a worker."""

    host: Any
    engine: int
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def generate(self) -> StubMethod:
        return StubMethod(self.host.generate, self.engine)

    @property
    def tell(self) -> StubMethod:
        return StubMethod(self.host.tell, self.engine, self.numbers)

    @property
    def whereabouts(self) -> StubMethod:
        return StubMethod(self.host.whereabouts, self.engine)


def stub_group(config: Config, routing: Routing, *, num_engines: int, num_hosts: int, num_tokens: int) -> RolloutGroup:
    remote: Any = ray.remote(num_cpus=0, max_concurrency=num_engines, concurrency_groups={CONTROL: 4})  # pyright: ignore[reportCallIssue]
    hosts = [remote(StubHost).remote(num_tokens) for _ in range(num_hosts)]
    handles = [StubHandle(hosts[engine % num_hosts], engine) for engine in range(num_engines)]
    ray.get([handle.host.open.remote(handle.engine) for handle in handles], timeout=300)
    return RolloutGroup(handles=handles, config=config, routing=routing)


def measure(group: RolloutGroup, requests: Sequence[GenerationRequest], num_tokens: int) -> dict[str, float]:
    process = psutil.Process()
    memory, cpu, started = process.memory_full_info().uss, time.process_time(), time.perf_counter()
    kept: list[Trajectory] = []
    for _, _, trajectory in group.stream(requests, Sampling(max_response_tokens=num_tokens)):
        kept.append(trajectory)
    assert len(kept) == sum(request.num_samples for request in requests)
    arrays = sum(t.response_ids.nbytes + t.logprobs.nbytes for t in kept)
    return {
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "wall_seconds": round(time.perf_counter() - started, 2),
        "private_mib": round((process.memory_full_info().uss - memory) / MIB),
        "received_mib": round(arrays / MIB),
        "versions_mib": round(sum(t.weight_versions.nbytes for t in kept) / MIB),
        "text_mib": round(sum(len(t.text) for t in kept) / MIB),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--responses", type=int, default=1024)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--prompt-tokens", type=int, default=20_000)
    parser.add_argument("--routing", choices=["static", "dynamic"], default="dynamic")
    parser.add_argument("--hosts", type=int, default=2)
    options = parser.parse_args()
    config = Config.model_validate(
        {
            "model": {"path": "none"},
            "data": {"problems": "none", "pool": "none"},
            "run": {"worker_timeout_seconds": 600},
            # So few that most responses are given late, which costs the controller a message each.
            "rollout": {"max_concurrent_sequences": 8},
        }
    )
    prompt = np.ones(options.prompt_tokens, dtype=np.int32)
    requests = [
        GenerationRequest(prompt_ids=prompt.copy(), num_samples=options.responses // options.problems, seed=number)
        for number in range(options.problems)
    ]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2 * 1024**3)
    results: dict[str, dict[str, float]] = {}
    try:
        for num_engines in options.engines:
            group = stub_group(
                config, options.routing, num_engines=num_engines, num_hosts=options.hosts, num_tokens=options.tokens
            )
            results[str(num_engines)] = measure(group, requests, options.tokens)
            print(json.dumps({"engines": num_engines} | results[str(num_engines)]), flush=True)
            for host in {handle.host for handle in group.handles}:
                ray.kill(host)
    finally:
        ray.shutdown()
    worst = max(result["cpu_seconds"] for result in results.values())
    print(
        json.dumps(
            {
                "bench": "controller",
                "cpu_seconds": worst,
                "target": TARGET_SECONDS,
                "met": worst <= TARGET_SECONDS,
                "engines_are": "local stubs, no vLLM",
                "routing": options.routing,
                "responses": options.responses,
                "tokens_each": options.tokens,
                "by_engines": results,
            }
        )
    )


if __name__ == "__main__":
    main()
