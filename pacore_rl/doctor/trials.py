"""The doctor's trials: what only doing it shows. Each runs in processes of its own, killed whole at a time limit."""

from __future__ import annotations

import json
import sys
import time

from pacore_rl.doctor.findings import Finding, last_line, run_limited

ENGINE_START_LIMIT_SECONDS = 120.0
ALL_REDUCE_LIMIT_SECONDS = 120.0
CLUSTER_LIMIT_SECONDS = 90.0
POLL_SECONDS = 5.0
"""Between two looks at a cluster of which nodes are still missing."""


def check_all_reduce() -> list[Finding]:
    """An all-reduce between two processes"""
    command = [sys.executable, "-m", "pacore_rl.engine.collective_probe"]
    code, output = run_limited(command, ALL_REDUCE_LIMIT_SECONDS)
    seen = last_line(output)
    if code == 0:
        return [Finding(name="all-reduce", status="ok", seen=seen)]
    remedy = (
        "Look at the interface (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME), at /dev/shm and the firewall; "
        "NCCL_DEBUG=INFO `python -m pacore_rl.engine.collective_probe` shows the whole story."
    )
    seen = f"not within {ALL_REDUCE_LIMIT_SECONDS:.0f} s: {seen}" if code is None else seen
    return [Finding(name="all-reduce", status="fail", seen=seen, remedy=remedy)]


def check_cluster(address: str, num_nodes: int | None, wait_seconds: float = 0.0) -> list[Finding]:
    """Ray cluster; looked at again for ``wait_seconds`` while its head or nodes are missing."""
    deadline = time.monotonic() + wait_seconds
    findings = _look_at_cluster(address, num_nodes)
    while findings[0].status == "fail" and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        findings = _look_at_cluster(address, num_nodes)
    return findings


def _look_at_cluster(address: str, num_nodes: int | None) -> list[Finding]:
    command = [sys.executable, "-m", "pacore_rl.engine.cluster_probe", address]
    code, output = run_limited(command, CLUSTER_LIMIT_SECONDS)
    if code != 0:
        seen = last_line(output) if code is not None else f"no answer within {CLUSTER_LIMIT_SECONDS:.0f} s"
        remedy = (
            f"Is a head running there (`ray status --address={address}`), is its port open, and has this machine its "
            "token (RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)? See docs/clusters.md."
        )
        return [Finding(name="Ray cluster", status="fail", seen=f"{address}: {seen}", remedy=remedy)]
    return judge_cluster(address, json.loads(last_line(output)), num_nodes)


def judge_cluster(address: str, told: dict[str, float], num_nodes: int | None) -> list[Finding]:
    """Fewer nodes than wanted fails; resources that others hold warn."""
    seen = (
        f"{address}: {told['nodes']:.0f} nodes; CPU {told['cpu_free']:.0f} of {told['cpu']:.0f} free, "
        f"GPU {told['gpu_free']:.0f} of {told['gpu']:.0f} free"
    )
    if num_nodes is not None and told["nodes"] < num_nodes:
        remedy = f"{num_nodes} nodes are wanted: look at the log of `ray start` on those that are missing."
        return [Finding(name="Ray cluster", status="fail", seen=seen, remedy=remedy)]
    if told["gpu_free"] < told["gpu"] or told["cpu_free"] < told["cpu"]:
        remedy = "Another run holds some of it; end that one first, or lower the workers of this one."
        return [Finding(name="Ray cluster", status="warn", seen=seen, remedy=remedy)]
    return [Finding(name="Ray cluster", status="ok", seen=seen)]


def check_engine() -> list[Finding]:
    """Start of a vLLM engine (up to 2 minutes)"""
    command = [sys.executable, "-m", "pacore_rl.engine.start_probe"]
    returncode, output = run_limited(command, ENGINE_START_LIMIT_SECONDS)
    last = last_line(output)
    if returncode is None:
        remedy = "Free processor and memory, try again; `python -m pacore_rl.engine.start_probe` shows where it waits."
        return [
            Finding(
                name="engine start",
                status="fail",
                seen=f"not within {ENGINE_START_LIMIT_SECONDS:.0f} s: {last}",
                remedy=remedy,
            )
        ]
    if returncode:
        remedy = "`python -m pacore_rl.engine.start_probe` shows the whole story."
        return [Finding(name="engine start", status="fail", seen=last, remedy=remedy)]
    return [Finding(name="engine start", status="ok", seen="a vLLM engine generated 4 tokens")]
