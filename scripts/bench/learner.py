"""Tokens a second of a learner rank, against a bare PyTorch loop on the same packs and against padded rows.

    python scripts/bench/learner.py [--shape small] [--problems 4 --responses 8] [--sigma 0.8] [--sides ours,bare]

A random Qwen3 model trains on responses whose lengths are log-normal, as those of reasoning models roughly are. One
update of ``LearnerWorker`` (DeepSpeed, one rank, no Ray) takes turns with

    bare    the same micro-batches, module and loss in a plain PyTorch loop with AdamW: what DeepSpeed and we cost;
    padded  the rows as they are, each with its own prompt, padded to the longest: what packing and shared prompts save.

Tokens are the rows' own, prompts included, however a side computes them; medians after a warm-up round. On CPUs the
time is the process's own, so that other processes do not count. Targets: 0.9 of bare, twice padded. ``--sides ours``
alone tells what fits, with the peak of the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_model import SHAPES, add_shape_options, resolve_shape, write_model

from pacore_rl.config import Config
from pacore_rl.engine.fused_kernels import fuse
from pacore_rl.engine.learner_passes import Minibatch
from pacore_rl.engine.learner_worker import LearnerWorker
from pacore_rl.engine.models import PolicyModule, load_policy
from pacore_rl.engine.placement import Device
from pacore_rl.engine.shares import own_minibatches
from pacore_rl.ppo.batch import MicroBatch
from pacore_rl.ppo.log_probs import chosen_log_probs
from pacore_rl.ppo.losses import policy_loss
from pacore_rl.types import Float32, Int32, TokenRows

TARGET_BARE = 0.9
TARGET_PADDED = 2.0
SIDES = ("ours", "bare", "padded")


def make_rows(options: argparse.Namespace) -> TokenRows:
    """P x G rows: one prompt a problem, response lengths log-normal around the median."""
    rng = np.random.default_rng(0)
    num_rows = options.problems * options.responses
    lengths = np.exp(rng.normal(np.log(options.median_tokens), options.sigma, num_rows))
    lengths_B = lengths.round().clip(1, options.max_tokens).astype(np.int32)
    prompts = rng.integers(0, options.vocabulary, (options.problems, options.prompt_tokens), dtype=np.int32)
    return TokenRows(
        prompts=tuple(prompts[row // options.responses] for row in range(num_rows)),
        responses=tuple(rng.integers(0, options.vocabulary, n, dtype=np.int32) for n in lengths_B),
    )


def make_config(options: argparse.Namespace, folder: Path) -> Config:
    return Config.model_validate(
        {
            "run": {"device": options.device},
            "model": {"path": str(folder), "context_window_tokens": options.prompt_tokens + options.max_tokens},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "sampling": {"answer_reserve_tokens": 1},
            "ppo": {
                "problems_per_step": options.problems,
                "responses_per_problem": options.responses,
                "critic_minibatches": 1,
            },
            "actor": {
                "zero_stage": options.zero_stage,
                "warmup_steps": 0,
                "micro_batch_tokens": options.micro_batch_tokens,
                "fused_kernels": options.fused_kernels,
            },
        }
    )


def make_bare(config: Config, device: Device, minibatch: Minibatch) -> Callable[[], None]:
    """The update in plain PyTorch, on the same micro-batches."""
    module, optimizer = _module(config, device)
    torch_device = torch.device(device.kind)

    def update() -> None:
        for micro, old, targets in zip(minibatch.micro_batches, minibatch.old, minibatch.targets, strict=True):
            arrays = (micro.token_ids[None], micro.position_ids[None], micro.action_index, micro.labels)
            log_probs = module(*(torch.from_numpy(array).long().to(torch_device) for array in arrays))
            _backward(log_probs, old, targets, minibatch.num_actions)
        _step(module, optimizer, config)

    return update


def make_padded(config: Config, device: Device, tokens: TokenRows, old_A: Float32) -> Callable[[], None]:
    """The update on rows padded to the longest, as many a pass as the token budget holds.

    Padding stands on the right, where causality alone hides it, so sdpa's fastest path serves; log-probs are of action
    tokens only, in chunks, as ours. Only the layout differs.
    """
    module, optimizer = _module(config, device)
    torch_device = torch.device(device.kind)
    module.model.set_attn_implementation("sdpa")
    longest = int(_lengths(tokens).max())
    rows_per_pass = max(1, config.actor.micro_batch_tokens // longest)
    ends = np.cumsum(tokens.response_lengths_B)

    def update() -> None:
        for first in range(0, tokens.num_rows, rows_per_pass):
            rows = range(first, min(first + rows_per_pass, tokens.num_rows))
            ids = torch.zeros(len(rows), longest, dtype=torch.int64)
            is_action = torch.zeros(len(rows), longest, dtype=torch.bool)
            for i, row in enumerate(rows):
                row_ids = np.append(tokens.prompts[row], tokens.responses[row])
                ids[i, : len(row_ids)] = torch.from_numpy(row_ids)
                is_action[i, len(tokens.prompts[row]) - 1 : len(row_ids) - 1] = True
            ids, is_action = ids.to(torch_device), is_action.to(torch_device)
            hidden = module.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            log_probs = chosen_log_probs(
                hidden[is_action],
                module.model.get_output_embeddings().weight,  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
                ids.roll(-1, dims=1)[is_action],
                temperature=1.0,
                chunk_tokens=config.actor.logprob_chunk_tokens,
            )
            part = old_A[ends[first] - len(tokens.responses[first]) : ends[rows[-1]]]
            _backward(log_probs, part, part, tokens.num_actions)
        _step(module, optimizer, config)

    return update


def _module(config: Config, device: Device) -> tuple[PolicyModule, torch.optim.Optimizer]:
    model = load_policy(config.model, device.dtype(config.model.dtype)).to(torch.device(device.kind))  # pyright: ignore[reportArgumentType]
    model.train()
    if config.actor.fused_kernels:
        fuse(model, device)
    if device.kind == "cuda":  # as the learner does
        model.gradient_checkpointing_enable({"use_reentrant": False})
    module = PolicyModule(model, temperature=1.0, chunk_tokens=config.actor.logprob_chunk_tokens)
    return module, torch.optim.AdamW(module.parameters(), lr=config.actor.learning_rate)


def _backward(log_probs: torch.Tensor, old: Float32, advantages: Float32, num_actions: int) -> None:
    old_a, advantages_a = (torch.from_numpy(array).to(log_probs.device) for array in (old, advantages))
    policy_loss(log_probs, old_a, advantages_a, clip_range=0.2, num_actions=num_actions).loss.backward()


def _step(module: PolicyModule, optimizer: torch.optim.Optimizer, config: Config) -> None:
    torch.nn.utils.clip_grad_norm_(module.parameters(), config.actor.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()


def flops(options: argparse.Namespace, num_parameters: int, tokens: TokenRows, micros: Sequence[MicroBatch]) -> float:
    """Operations of one update on packed tokens: 6 a weight and token, and attention; recomputation does not count."""
    head = options.vocabulary * options.hidden
    trunk = num_parameters - (1 if options.tied else 2) * head
    packed = sum(micro.num_tokens for micro in micros)
    width = options.layers * options.heads * options.head_dim
    prompts = np.array([len(prompt) for prompt in tokens.prompts], float)
    totals = _lengths(tokens).astype(float)
    seen = (totals**2 - prompts**2).sum() + (prompts[:: options.responses] ** 2).sum()
    return 6.0 * (trunk * packed + head * tokens.num_actions + width * float(seen))


def _lengths(tokens: TokenRows) -> Int32:
    """[B], of whole rows."""
    prompts = np.array([len(prompt) for prompt in tokens.prompts], np.int32)
    return prompts + tokens.response_lengths_B


def timed(device: Device, update: Callable[[], Any]) -> float:
    clock = time.perf_counter if device.kind == "cuda" else time.process_time
    start = clock()
    update()
    if device.kind == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all sides in turns and return the last line."""
    config, device = make_config(options, folder), Device(kind=options.device, cpu_threads=options.threads)
    window_tokens = options.prompt_tokens + options.max_tokens
    num_parameters = write_model(options, folder, window_tokens=window_tokens, dtype=device.dtype("auto"))
    os.environ |= device.environment()
    rows = make_rows(options)
    old_A = np.random.default_rng(1).normal(-2, 1, rows.num_actions).astype(np.float32)
    (minibatch,) = own_minibatches(config.actor, rows, old_A, old_A, 1, seed=(0, 1), rank=0)
    micros = minibatch.micro_batches
    worker = LearnerWorker(role="actor", rank=0, config=config, device=device)
    worker.start(worker.rendezvous())
    updates: dict[str, Callable[[], Any]] = {"ours": partial(worker.update, rows, old_A, old_A, step=1)}
    if "bare" in options.sides:
        updates["bare"] = make_bare(config, device, minibatch)
    if "padded" in options.sides:
        updates["padded"] = make_padded(config, device, rows, old_A)
    seconds: dict[str, list[float]] = {side: [] for side in updates}
    for turn in range(options.rounds + 1):
        for side, update in updates.items():
            seconds[side].append(timed(device, update))
            print(json.dumps({"round": turn, "side": side, "seconds": round(seconds[side][-1], 3)}), flush=True)
    worker.close()
    medians = {side: statistics.median(values[1:]) for side, values in seconds.items()}
    longest = int(_lengths(rows).max())
    tokens = {
        "rows": int(_lengths(rows).sum()),
        "packed": sum(micro.num_tokens for micro in micros),
        "padded": rows.num_rows * longest,
    }
    line: dict[str, Any] = {
        "bench": "learner",
        **_ratios(medians),
        "tokens_per_second": {side: round(tokens["rows"] / value) for side, value in medians.items()},
        "seconds": {side: round(value, 3) for side, value in medians.items()},
        "tokens": tokens,
        "longest_row": longest,
        "micro_batches": len(micros),
    }
    if options.device == "cuda":
        rate = flops(options, num_parameters, rows, micros) / medians["ours"]
        line |= {"gpu": torch.cuda.get_device_name(), "tflops": round(rate / 1e12, 1)}
        line |= {"mfu": round(rate / 1e12 / options.peak_tflops, 3)}
        if options.sides == {"ours"}:  # else the other sides' models are in it
            line |= {"peak_gib": round(torch.cuda.max_memory_allocated() / 1024**3, 1)}
    sizes = ("problems", "responses", "prompt_tokens", "median_tokens", "max_tokens", "sigma", "micro_batch_tokens")
    how = ("zero_stage", "fused_kernels", "device", "threads", "rounds")
    return line | {name: getattr(options, name) for name in ("shape", *SHAPES["small"], *sizes, *how)}


def _ratios(medians: dict[str, float]) -> dict[str, Any]:
    """How much faster ours is; a ratio is null, and so is ``met``, where its side was left out."""
    bare, padded = (medians[side] / medians["ours"] if side in medians else None for side in ("bare", "padded"))
    return {
        "ratio": bare and round(bare, 3),
        "target": TARGET_BARE,
        "ratio_padded": padded and round(padded, 2),
        "target_padded": TARGET_PADDED,
        "met": bare >= TARGET_BARE and padded >= TARGET_PADDED if bare and padded else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_options(parser, "small")
    parser.add_argument("--problems", type=int, default=4, help="P")
    parser.add_argument("--responses", type=int, default=8, help="G, which share a prompt")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--median-tokens", type=int, default=256, help="of the responses")
    parser.add_argument("--sigma", type=float, default=0.8, help="of their logarithm")
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a response; longer ones are cut")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument(
        "--fused-kernels", action=argparse.BooleanOptionalAction, default=False, help="Liger's, on GPUs"
    )
    parser.add_argument("--zero-stage", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="beside one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="on CPUs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU in bfloat16; 989 is an H100's")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure; ours is always one")
    options = parser.parse_args()
    resolve_shape(options)
    options.sides = {"ours"} | {side.strip() for side in options.sides.split(",") if side.strip()}
    if unknown := sorted(options.sides - set(SIDES)):
        parser.error(f"--sides {', '.join(unknown)}: choose from {', '.join(SIDES)}")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
