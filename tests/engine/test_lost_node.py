"""A node of a cluster that goes away under a run, and another one that comes: the run goes on by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ray.cluster_utils import Cluster
from test_cluster_ray import AGENT_PORTS, free_ports

from pacore_rl.config import Config
from pacore_rl.reporting.jsonl import read_metrics

pytestmark = pytest.mark.slow


def node(num_cpus: int) -> dict[str, Any]:
    """Arguments of a node with this many seats for workers."""
    ports = dict(zip(AGENT_PORTS, free_ports(len(AGENT_PORTS)), strict=True))
    return {"num_cpus": num_cpus, "object_store_memory": 100 * 1024**2, **ports}


def test_a_run_outlives_a_node(tiny_config: Callable[..., Config], write_data: Callable[[Config], None]) -> None:
    cluster = Cluster(initialize_head=True, head_node_args=node(1) | {"include_dashboard": False})
    run = None
    try:
        mortal = cluster.add_node(**node(2))
        config = tiny_config(
            trainer={"steps": 5, "checkpoint_every_steps": 1},
            rollout={"num_workers": 1},
            cluster={"address": cluster.address},
            surviving={"health_timeout_seconds": 15.0, "node_wait_seconds": 120.0},
        )
        write_data(config)
        recipe, metrics = config.run_dir.with_name("recipe.yaml"), config.run_dir / "metrics.jsonl"
        recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        run = subprocess.Popen(
            [sys.executable, "-m", "pacore_rl", "train", recipe], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 250
        while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 2:
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.05)
        cluster.remove_node(mortal, allow_graceful=False)
        time.sleep(10)  # the run has noticed by now, and waits for hardware
        cluster.add_node(**node(2))
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output.decode()[-3000:]
        assert [row["step"] for row in read_metrics(metrics)] == [1, 2, 3, 4, 5]
        events = [json.loads(line) for line in (config.run_dir / "events.jsonl").read_text().splitlines()]
        assert [event["event"] for event in events] == ["restart"]
        assert 1 <= events[0]["step"] <= 3
        print(events, output.decode()[-1500:])
    finally:
        if run is not None and run.poll() is None:
            run.kill()
        cluster.shutdown()
