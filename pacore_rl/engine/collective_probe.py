"""Two processes that add up a vector: NCCL where there are two GPUs, else gloo.

    python -m pacore_rl.engine.collective_probe

``pacore-rl doctor`` runs it in a session of its own, which it can stop.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

RANKS = 2
ELEMENTS = 1 << 22
TIMEOUT = timedelta(seconds=60)


def main() -> None:
    """Start both ranks and wait for them; rank 0 says how it went."""
    if len(sys.argv) == 3:
        return run_rank(int(sys.argv[1]), Path(sys.argv[2]))
    with tempfile.TemporaryDirectory(prefix="pacore-rl-doctor-") as folder:
        command = [sys.executable, "-m", "pacore_rl.engine.collective_probe"]
        ranks = [subprocess.Popen([*command, str(rank), f"{folder}/store"]) for rank in range(RANKS)]
        codes = [process.wait() for process in ranks]
    if any(codes):
        raise SystemExit(f"the ranks ended with {codes}; their errors are above")


def run_rank(rank: int, store: Path) -> None:
    """Sum ``rank + 1`` over the ranks, twice, and check every element."""
    import torch
    import torch.distributed as dist

    on_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= RANKS
    backend = "nccl" if on_gpus else "gloo"
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=TIMEOUT)
    seconds = 0.0
    for _ in range(2):  # the first forms the connections
        vector = torch.full((ELEMENTS,), float(rank + 1), device=device)
        begin = time.monotonic()
        dist.all_reduce(vector)
        total = float(vector.sum()) / ELEMENTS
        seconds = time.monotonic() - begin
        if total != 3.0:
            raise RuntimeError(f"rank {rank}: 1 + 2 came out as {total}")
    if rank == 0:
        print(f"{backend}: {RANKS} ranks summed {4 * ELEMENTS >> 20} MiB in {seconds * 1000:.0f} ms", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
