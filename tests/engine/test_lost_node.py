"""A node of a cluster that goes away under a run, and another one that comes: the run goes on by itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from test_cluster_ray import AGENT_PORTS, free_ports

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.reporting.jsonl import read_metrics

pytestmark = pytest.mark.slow


def node(num_cpus: int) -> dict[str, Any]:
    """Arguments of a node with this many seats for workers."""
    ports = dict(zip(AGENT_PORTS, free_ports(len(AGENT_PORTS)), strict=True))
    return {"num_cpus": num_cpus, "object_store_memory": 100 * 1024**2, **ports}


def test_a_run_outlives_a_node(tiny_config: Callable[..., Config], write_data: Callable[[Config], None]) -> None:
    cluster = Cluster(initialize_head=True, head_node_args=node(1) | {"include_dashboard": False})
    try:
        mortal = cluster.add_node(**node(2))
        config = tiny_config(
            trainer={"steps": 5, "checkpoint_every_steps": 1},
            rollout={"num_workers": 1},
            cluster={"address": cluster.address},
            surviving={"health_timeout_seconds": 15.0, "node_wait_seconds": 120.0},
        )
        write_data(config)

        def strike() -> None:
            metrics = config.run_dir / "metrics.jsonl"
            deadline = time.monotonic() + 250
            while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            cluster.remove_node(mortal, allow_graceful=False)
            time.sleep(10)  # the run has noticed by now, and waits for hardware
            cluster.add_node(**node(2))

        thread = threading.Thread(target=strike)
        thread.start()
        runs.train(config)
        thread.join()
        assert [row["step"] for row in read_metrics(config.run_dir / "metrics.jsonl")] == [1, 2, 3, 4, 5]
        events = [json.loads(line) for line in (config.run_dir / "events.jsonl").read_text().splitlines()]
        assert [event["event"] for event in events] == ["restart"]
        assert 1 <= events[0]["step"] <= 3
    finally:
        cluster.shutdown()
