"""What an iteration's learning costs the controller: 1,024 responses of about 32k tokens, 32 ranks a learner.

    python scripts/bench/controller_learning.py [--responses 1024] [--median-tokens 24000] [--ranks 32]

The ranks are STUBS: threads of a few local Ray actors that read the batch as a rank does, pack their share with the
product's own code and answer zeros. No model runs and nothing crosses a network: this measures the controller, and how
long a rank packs. An iteration is the values, the log-probs and an update of critic and actor. Beside it, what one pass
would cost if the controller laid out every rank's micro-batches and stored them: ``ratio`` is its CPU time over that of
a pass as it is. Memory: what became private to the controller's process, in the first iteration; Ray's object store is
read in place. Target: at most 5 CPU seconds in the second, which finds the object store's pages touched.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import ray

from pacore_rl.config import Config
from pacore_rl.engine.learner import ActorGroup, CriticGroup
from pacore_rl.engine.learner_passes import Role, StepResult
from pacore_rl.engine.shares import own_micro_batches, own_minibatches
from pacore_rl.ppo.batch import Int64, count_tokens, pack
from pacore_rl.types import ExperienceBatch, Float32, TokenRows

TARGET_SECONDS = 5.0
MIB = 1024**2


class StubHost:
    """Many stub ranks of both learners in one process, a thread each."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pack_seconds: list[float] = []

    def log_probs(self, role: Role, rank: int, tokens: TokenRows) -> tuple[Int64, Float32, Float32]:
        slots, values = self.values(role, rank, tokens)
        return slots, values, values

    def values(self, role: Role, rank: int, tokens: TokenRows) -> tuple[Int64, Float32]:
        started = time.thread_time()
        micros = own_micro_batches(self._config.learner(role), tokens, range(tokens.num_rows), rank=rank)
        self._pack_seconds.append(time.thread_time() - started)
        slots = np.concatenate([micro.slots for micro in micros])
        return slots, np.zeros(len(slots), np.float32)

    def update(
        self, role: Role, rank: int, tokens: TokenRows, old_A: Float32, targets_A: Float32, *, step: int
    ) -> list[StepResult]:
        minibatches = own_minibatches(
            self._config.learner(role),
            tokens,
            old_A,
            targets_A,
            self._config.minibatches(role),
            seed=(self._config.run.seed, step),
            rank=rank,
        )
        names = ("loss", "clipped", "kl", "ratio")
        return [
            StepResult(
                sums=dict.fromkeys(names, 0.0),
                ratio_max=0.0,
                grad_norm=0.0,
                tokens=count_tokens(minibatch.micro_batches),
                memory_gib=0.0,
            )
            for minibatch in minibatches
        ]

    def pack_seconds(self) -> list[float]:
        """CPU seconds that each rank took to pack for a pass without gradients, so far."""
        return self._pack_seconds


@dataclass(frozen=True, slots=True)
class StubMethod:
    """A method of a host, called for one of its ranks."""

    method: Any
    role: Role
    rank: int

    def remote(self, *arguments: Any, **named: Any) -> Any:
        return self.method.remote(self.role, self.rank, *arguments, **named)


@dataclass(frozen=True, slots=True)
class StubHandle:
    """Stands where the group has the handle of a rank."""

    host: Any
    role: Role
    rank: int

    def __getattr__(self, name: str) -> StubMethod:
        return StubMethod(getattr(self.host, name), self.role, self.rank)


def make_batch(options: argparse.Namespace) -> ExperienceBatch:
    """P x G rows, response lengths log-normal around the median, as those of reasoning models roughly are."""
    rng = np.random.default_rng(0)
    per_problem = options.responses // options.problems
    prompts = [rng.integers(0, 150_000, options.prompt_tokens, dtype=np.int32) for _ in range(options.problems)]
    lengths = np.exp(rng.normal(np.log(options.median_tokens), 0.7, options.problems * per_problem))
    rows = TokenRows(
        prompts=tuple(prompt for prompt in prompts for _ in range(per_problem)),
        responses=tuple(np.ones(n, np.int32) for n in lengths.clip(1, options.max_tokens).astype(int)),
    )
    return ExperienceBatch(
        rows=rows,
        engine_logprobs_A=np.zeros(rows.num_actions, np.float32),
        rewards_B=np.zeros(rows.num_rows, np.float32),
        weight_versions_A=np.zeros(rows.num_actions, np.int32),
    )


def make_config(options: argparse.Namespace) -> Config:
    learner = {
        "num_ranks": options.ranks,
        "sequence_parallel": options.sequence_parallel,
        "micro_batch_tokens": 32_768,
        "zero_stage": 3,
    }
    return Config.model_validate(
        {
            "model": {"path": "none", "context_window_tokens": options.prompt_tokens + options.max_tokens},
            "data": {"problems": "none"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "run": {"worker_timeout_seconds": 1800},
            "ppo": {
                "problems_per_step": options.problems,
                "responses_per_problem": options.responses // options.problems,
            },
            "actor": learner,
            "critic": learner,
        }
    )


@dataclass(slots=True)
class Cost:
    """Of the controller."""

    cpu_seconds: float
    wall_seconds: float
    private_mib: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> Cost:
        process = psutil.Process()
        memory, cpu, started = process.memory_full_info().uss, time.process_time(), time.perf_counter()
        kept = work()
        cost = cls(
            cpu_seconds=round(time.process_time() - cpu, 2),
            wall_seconds=round(time.perf_counter() - started, 2),
            private_mib=round((process.memory_full_info().uss - memory) / MIB),
        )
        del kept
        return cost


def lay_out_here(config: Config, batch: ExperienceBatch) -> list[Any]:
    """A pass as a controller would prepare it that packs for its ranks."""
    per_rank = pack(
        batch.rows,
        range(batch.num_rows),
        micro_batch_tokens=config.critic.micro_batch_tokens,
        num_ranks=config.critic.num_ranks,
        sequence_parallel=config.critic.sequence_parallel,
    )
    return [per_rank, [ray.put(micros) for micros in per_rank]]


def iterate(actor: ActorGroup, critic: CriticGroup, batch: ExperienceBatch) -> list[Float32]:
    """What ``Trainer.learn`` asks of the learners."""
    values, log_probs = critic.values(batch), actor.log_probs(batch)
    old_values_A, (old_A, entropies_A) = values.result(), log_probs.result()
    update = critic.update(batch, old_values_A, old_values_A, step=1)
    actor.update(batch, old_A, old_A, step=1).result()
    update.result()
    return [old_values_A, old_A, entropies_A]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=1024)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=20_000)
    parser.add_argument("--median-tokens", type=int, default=24_000)
    parser.add_argument("--max-tokens", type=int, default=110_000)
    parser.add_argument("--ranks", type=int, default=32, help="of each learner")
    parser.add_argument("--sequence-parallel", type=int, default=8)
    parser.add_argument("--hosts", type=int, default=2)
    options = parser.parse_args()
    config, batch = make_config(options), make_batch(options)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=6 * 1024**3)
    try:
        remote: Any = ray.remote(num_cpus=0, max_concurrency=4)  # pyright: ignore[reportCallIssue]
        hosts = [remote(StubHost).remote(config) for _ in range(options.hosts)]

        def ranks(role: Role) -> list[StubHandle]:
            return [StubHandle(hosts[rank % len(hosts)], role, rank) for rank in range(options.ranks)]

        actor = ActorGroup("actor", config, ranks("actor"), [])
        critic = CriticGroup("critic", config, ranks("critic"), [])
        first, second = (Cost.of(lambda: iterate(actor, critic, batch)) for _ in range(2))
        a_pass = Cost.of(lambda: critic.values(batch).result())
        laid_out = Cost.of(lambda: lay_out_here(config, batch))
        packing = [seconds for host in hosts for seconds in ray.get(host.pack_seconds.remote(), timeout=600)]
    finally:
        ray.shutdown()
    print(
        json.dumps(
            {
                "bench": "controller_learning",
                "ratio": round(laid_out.cpu_seconds / max(a_pass.cpu_seconds, 0.01), 1),
                "cpu_seconds": second.cpu_seconds,
                "target": TARGET_SECONDS,
                "met": second.cpu_seconds <= TARGET_SECONDS,
                "cpu_seconds_of_the_first": first.cpu_seconds,
                "private_mib_of_the_first": first.private_mib,
                "a_pass": [a_pass.cpu_seconds, a_pass.private_mib],
                "a_pass_laid_out_by_the_controller": [laid_out.cpu_seconds, laid_out.private_mib],
                "a_rank_packs_seconds": round(float(np.median(packing)), 2),
                "rows": batch.num_rows,
                "action_tokens": batch.num_actions,
                "ranks_of_a_learner": options.ranks,
                "sequence_parallel": options.sequence_parallel,
                "ranks_are": "local stubs, no model",
            }
        )
    )


if __name__ == "__main__":
    main()
