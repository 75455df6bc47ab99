"""Learner ranks without Ray: forked from one process that has imported everything, so that many layouts start fast."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import batches
import numpy as np
import torch
import torch.distributed as dist

from pacore_rl.checkpoints.learner_files import KINDS
from pacore_rl.config import Config
from pacore_rl.engine import state_offload
from pacore_rl.engine.learner_passes import Role
from pacore_rl.engine.learner_state import copy_pieces
from pacore_rl.engine.learner_worker import LearnerWorker
from pacore_rl.engine.placement import Device
from pacore_rl.ppo.batch import scatter_flat
from pacore_rl.types import ExperienceBatch, Float32

CPU = Device(kind="cpu", cpu_threads=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Iteration:
    """What one PPO iteration of one learner came to."""

    before_A: Float32
    """Log-probs or values before the update."""
    after_A: Float32
    """The same after it."""
    losses: tuple[float, ...]
    """Of each optimizer step, summed over ranks."""
    grad_norms: tuple[float, ...]


def fork_context() -> ForkServerContext:
    """Processes fork from a server that has loaded torch, transformers and DeepSpeed.

    The server alone has the environment of a rank: left in this process, it would hide GPUs from every later test.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "pacore_rl.engine.learner",
            "deepspeed.runtime.sequence_parallel.ulysses_sp",
            "deepspeed.module_inject.auto_ep_layer",
            "transformers.models.qwen3.modeling_qwen3",
            "functorch.compile",
            "torch._dynamo",
        ]
    )
    before = dict(os.environ)
    os.environ |= CPU.environment()
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before
    return context


class RunningIteration:
    """One PPO iteration under way: the ranks of a learner, each in a process of its own."""

    def __init__(
        self,
        context: ForkServerContext,
        role: Role,
        config: Config,
        batch: ExperienceBatch,
        targets_A: Float32,
        *,
        folder: Path,
    ) -> None:
        settings = config.learner(role)
        self._addresses: Any = context.Queue()  # kept: its semaphores go with it
        self._accounts: list[Connection] = []
        for rank in range(settings.num_ranks):
            account, results = context.Pipe(duplex=False)
            arguments = (results, self._addresses, role, rank, config, batch, targets_A, folder)
            context.Process(target=_rank, args=arguments, daemon=True).start()
            results.close()
            self._accounts.append(account)

    def result(self) -> Iteration:
        """Rank 0's account, once every rank has ended well."""
        deadline = time.monotonic() + 400
        accounts: list[Iteration | str | None] = []
        for account in self._accounts:
            assert account.poll(deadline - time.monotonic()), f"no answer in time; the others said {accounts}"
            accounts.append(account.recv())
        failures = [account for account in accounts if isinstance(account, str)]
        assert not failures, "\n".join(failures)
        (result,) = [account for account in accounts if isinstance(account, Iteration)]
        return result


def _rank(results: Connection, addresses: Any, role: Role, rank: int, *rest: Any) -> None:
    import faulthandler

    faulthandler.dump_traceback_later(120)
    try:
        results.send(_iterate(addresses, role, rank, *rest))
    except BaseException:
        results.send(f"{role} rank {rank}:\n{traceback.format_exc()}")


def _iterate(
    addresses: Any,
    role: Role,
    rank: int,
    config: Config,
    batch: ExperienceBatch,
    targets_A: Float32,
    folder: Path,
) -> Iteration | None:
    worker = LearnerWorker(role=role, rank=rank, config=config, device=CPU)
    if rank == 0:
        address = worker.rendezvous()
        for _ in range(worker.settings.num_ranks - 1):
            addresses.put(address)
    else:
        address = addresses.get(timeout=200)
    worker.start(address)

    def outputs_A() -> Float32:
        own = worker.log_probs(batch.rows)[:2] if role == "actor" else worker.values(batch.rows)
        per_rank: list[Any] = [None] * worker.settings.num_ranks
        dist.all_gather_object(per_rank, own)
        return scatter_flat(per_rank, batch.num_actions)

    before_A = outputs_A()
    steps = worker.update(batch.rows, before_A, targets_A, step=1)
    after_A = outputs_A()
    per_rank: list[Any] = [None] * worker.settings.num_ranks
    dist.all_gather_object(per_rank, [step.sums["loss"] for step in steps])
    worker.save(folder)
    worker.close()
    if rank:
        return None
    return Iteration(
        before_A=before_A,
        after_A=after_A,
        losses=tuple(np.sum(per_rank, axis=0)),
        grad_norms=tuple(step.grad_norm for step in steps),
    )


def move_in_bfloat16(
    context: ForkServerContext, config: Config, batch: ExperienceBatch, advantages_A: Float32, num_steps: Sequence[int]
) -> list[float]:
    """Share of an actor's large weights that differ from the first ones after each number of further equal steps."""
    account, results = context.Pipe(duplex=False)
    context.Process(target=_move, args=(results, config, batch, advantages_A, num_steps), daemon=True).start()
    results.close()
    assert account.poll(400), "no answer in time"
    shares = account.recv()
    assert isinstance(shares, list), shares
    return shares


def _move(
    results: Connection, config: Config, batch: ExperienceBatch, advantages_A: Float32, num_steps: Sequence[int]
) -> None:
    try:
        results.send(_shares_moved(config, batch, advantages_A, num_steps))
    except BaseException:
        results.send(traceback.format_exc())


def _shares_moved(
    config: Config, batch: ExperienceBatch, advantages_A: Float32, num_steps: Sequence[int]
) -> list[float]:
    worker = LearnerWorker(role="actor", rank=0, config=config, device=CPU)
    worker.start(worker.rendezvous())
    start = worker.full_weights()
    assert {weight.dtype for weight in start.values()} == {torch.bfloat16}
    old_A = scatter_flat([worker.log_probs(batch.rows)[:2]], batch.num_actions)
    shares: list[float] = []
    for number in num_steps:
        for _ in range(number):
            worker.update(batch.rows, old_A, advantages_A, step=1)
        weights = worker.full_weights()
        large = {name: weight.abs() > 0.1 for name, weight in start.items()}
        moved = sum(int((weights[name] != start[name])[large[name]].sum()) for name in start)
        shares.append(moved / sum(int(mask.sum()) for mask in large.values()))
    _check_states_can_be_had(worker, sum(num_steps))
    worker.close()
    return shares


def _check_states_can_be_had(worker: LearnerWorker, num_steps: int) -> None:
    """A checkpoint finds fp32 weights and moments of all parameters, and colocated engines can have their memory."""
    pieces, found_steps = copy_pieces(worker.engine, worker.settings.zero_stage)
    names = {name for name, _ in worker.engine.module.named_parameters()}
    assert found_steps == num_steps
    assert all({piece.name for piece in pieces if piece.kind == kind} == names for kind in KINDS)
    state_offload.offload(worker.engine, worker.settings, "optimizer")
    state_offload.reload(worker.engine, worker.settings)


def make_batch() -> ExperienceBatch:
    """15 rows of 4 prompts (one of 16 was masked out): ranks hold different numbers of rows, slices end in padding."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 250, n) for n in (20, 45, 30, 12)]
    rows = [(prompts[i // 4], rng.integers(3, 250, int(rng.integers(1, 40)))) for i in range(15)]
    return batches.make_batch(rows, rng.random(15))
