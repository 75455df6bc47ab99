"""Peak memory and time of the log-prob step, forward and backward, against the plain one.

    python scripts/bench/logprob_memory.py [--tokens 16384] [--vocabulary 151936] [--rounds 3]

Plain: all logits in fp32, log_softmax, gather. Each side runs in a process of its own; the two take turns, and medians
count. On CPUs the peak is of the resident set above what it was before the step, and the time is the process's own, so
that other processes do not count; on GPUs the peak is PyTorch's. Where the plain side would not fit into the free
memory, tokens (and with them the chunk) are halved until it does, and the last line says so.

Targets: a tenth of the memory, at most 1.3 times the time. Logits are computed twice, so that the time nears 4/3 where
matrix products are all of it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from pacore_rl.config import ActorConfig
from pacore_rl.ppo.log_probs import chosen_log_probs

TARGET_MEMORY = 0.1
TARGET_SECONDS = 1.3
PLAIN_COPIES = 3.5
"""Logits, their log-probabilities and the gradients: what the plain side holds at its peak, in copies of the logits."""
USABLE_SHARE = 0.6
"""Of the free memory; other processes live here too."""
GIB = 1024**3


def plain_log_probs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    table = (hidden @ weight.t()).float().log_softmax(dim=-1)
    return table.gather(1, labels[:, None]).squeeze(1)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Peak bytes above the inputs and median seconds of one side, in this process."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = ((options.tokens, options.hidden), (options.vocabulary, options.hidden))
    hidden, weight = ((torch.randn(shape, device=device) / 16).to(dtype).requires_grad_() for shape in shapes)
    labels = torch.randint(options.vocabulary, (options.tokens,), device=device)
    upstream = torch.randn(options.tokens, device=device)

    def step(tokens: int, words: int) -> None:
        inputs = (hidden[:tokens], weight[:words], labels[:tokens] % words)
        if options.side == "plain":
            log_probs = plain_log_probs(*inputs)
        else:
            log_probs = chosen_log_probs(*inputs, temperature=1.0, chunk_tokens=options.chunk_tokens)
        torch.autograd.grad(log_probs, (hidden, weight), upstream[:tokens])

    step(8, 128)  # loads the libraries
    read_peak = start_peak(device)
    seconds = [timed(device, lambda: step(options.tokens, options.vocabulary)) for _ in range(options.repeats)]
    return {"bytes": read_peak(), "seconds": statistics.median(seconds)}


def start_peak(device: torch.device) -> Callable[[], int]:
    """Forget the peak so far; returns a function that says how far memory has risen since."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return lambda: torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the largest resident set (Linux)
    resident = psutil.Process().memory_info().rss
    return lambda: int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 - resident


def timed(device: torch.device, step: Callable[[], None]) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def fitting_tokens(options: argparse.Namespace, available: float) -> int:
    """The wanted tokens, halved until the plain side fits into the share of memory that may be used."""
    tokens = options.tokens
    while tokens > 1 and PLAIN_COPIES * 4 * tokens * options.vocabulary > USABLE_SHARE * available:
        tokens //= 2
    return tokens


def run_side(side: str, options: argparse.Namespace, tokens: int, chunk_tokens: int) -> dict[str, float]:
    flags = {
        "tokens": tokens,
        "chunk-tokens": chunk_tokens,
        "vocabulary": options.vocabulary,
        "hidden": options.hidden,
        "device": options.device,
        "repeats": options.repeats,
        "threads": options.threads,
        "side": side,
    }
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in flags.items())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=None, help="hidden size; default 256 on CPUs, 4096 on GPUs")
    parser.add_argument("--chunk-tokens", type=int, default=ActorConfig().logprob_chunk_tokens)
    parser.add_argument("--device", default=default_device)
    parser.add_argument("--threads", type=int, default=1, help="of each process; more of them wait within their time")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--repeats", type=int, default=1, help="steps of each process")
    parser.add_argument("--side", choices=("ours", "plain"), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.hidden = options.hidden or (4096 if options.device.startswith("cuda") else 256)
    if options.side is not None:
        print(json.dumps(measure(options)))
        return
    if options.device.startswith("cuda"):
        available = torch.cuda.mem_get_info(options.device)[0]
    else:
        available = psutil.virtual_memory().available
    tokens = fitting_tokens(options, available)
    chunk_tokens = max(1, options.chunk_tokens * tokens // options.tokens)
    results: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for _ in range(options.rounds):
        for side, measured in results.items():
            measured.append(run_side(side, options, tokens, chunk_tokens))
            print(json.dumps({"side": side} | measured[-1]), flush=True)
    peaks = {side: statistics.median(one["bytes"] for one in measured) for side, measured in results.items()}
    seconds = {side: statistics.median(one["seconds"] for one in measured) for side, measured in results.items()}
    ratio, ratio_seconds = peaks["ours"] / peaks["plain"], seconds["ours"] / seconds["plain"]
    print(
        json.dumps(
            {
                "bench": "logprob_memory",
                "ratio": round(ratio, 4),
                "target": TARGET_MEMORY,
                "ratio_seconds": round(ratio_seconds, 3),
                "target_seconds": TARGET_SECONDS,
                "met": ratio <= TARGET_MEMORY and ratio_seconds <= TARGET_SECONDS,
                "peak_gib": {side: round(peak / GIB, 3) for side, peak in peaks.items()},
                "median_seconds": {side: round(value, 3) for side, value in seconds.items()},
                "tokens": tokens,
                "tokens_wanted": options.tokens,
                "chunk_tokens": chunk_tokens,
                "vocabulary": options.vocabulary,
                "hidden": options.hidden,
                "device": options.device,
                "threads": options.threads,
                "free_gib": round(available / GIB, 1),
                "rounds": options.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
