"""Two nodes of four GPUs, simulated on this machine: Ray really reserves, and light actors sit where workers would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray._private import services
from ray.cluster_utils import Cluster

from pacore_rl.config import Config
from pacore_rl.engine.address import resolve_address
from pacore_rl.engine.cluster import plan_on_cluster, reserve
from pacore_rl.engine.placement import Device, share_of_cores


def configuration(*, actor: int, critic: int, **rollout: Any) -> Config:
    return Config.model_validate(
        {
            "model": {"path": "unused"},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "actor": {"num_ranks": actor},
            "critic": {"num_ranks": critic},
            "rollout": rollout,
        }
    )


AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    def node() -> dict[str, Any]:
        # With ports of their own choice, a node gives its agents 15 s to name them, and dies on a busy machine.
        ports = dict(zip(AGENT_PORTS, free_ports(len(AGENT_PORTS)), strict=True))
        return {"num_cpus": 12, "num_gpus": 4, "object_store_memory": 100 * 1024**2, **ports}

    # A busy machine keeps a node from answering; half a minute without an answer would be its end.
    patient = {"_system_config": {"health_check_failure_threshold": 40, "health_check_timeout_ms": 60_000}}
    cluster = Cluster(initialize_head=True, head_node_args=node() | {"include_dashboard": False} | patient)
    try:
        cluster.add_node(**node())
        assert cluster.address is not None
        ray.init(
            address=resolve_address(cluster.address), namespace="test-cluster", log_to_driver=False, logging_level=40
        )
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_learners_share_the_cores_of_their_host(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert share_of_cores() == 8  # four GPUs, on each an actor's and a critic's process


def test_a_process_that_joins_by_address_brings_its_token(cluster: Cluster) -> None:
    """Ray itself sends none then, unless RAY_AUTH_MODE says so, which starting a cluster has set here."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    command = [sys.executable, "-m", "pacore_rl.engine.cluster_probe", str(cluster.address)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["nodes"] == 2
    assert "disabled" not in done.stderr


def seated(device: Device, kind: Any, numbers: range) -> list[tuple[str, str]]:
    """Node, and GPUs that a worker sees, of a light actor in the seat of each worker."""

    class Light:
        def where(self) -> tuple[str, str]:
            return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")

    actors: list[Any] = [ray.remote(Light).options(**device.ray_options(kind, number)).remote() for number in numbers]
    found = ray.get([actor.where.remote() for actor in actors], timeout=120)
    lights.extend(actors)
    return found


lights: list[Any] = []
"""Kept until all workers of a run sit, as they would in a run."""


def stop_lights() -> None:
    while lights:
        ray.kill(lights.pop())


def test_separate_workers_each_have_their_own_gpus(cluster: Cluster) -> None:
    plan = plan_on_cluster(configuration(actor=2, critic=2, num_workers=2, tensor_parallel=2), learners=True)
    assert plan.kind == "cuda" and plan.num_slots == 8
    with reserve(plan) as placement:
        device = Device(kind="cuda", cpu_threads=1, placement=placement)
        engines = seated(device, "engine", range(2))
        learners = [*seated(device, "actor", range(2)), *seated(device, "critic", range(2))]
        stop_lights()
    assert all(len(gpus.split(",")) == 2 for _, gpus in engines)
    assert all(len(gpus.split(",")) == 1 for _, gpus in learners)
    every = [(node, gpu) for node, gpus in [*engines, *learners] for gpu in gpus.split(",")]
    assert len(set(every)) == 8 and len({node for node, _ in every}) == 2  # all GPUs of both nodes, each once


def test_colocated_ranks_share_the_gpus_of_their_engine(cluster: Cluster) -> None:
    config = configuration(actor=8, critic=8, num_workers=4, tensor_parallel=2, placement="colocated")
    with reserve(plan_on_cluster(config, learners=True)) as placement:
        device = Device(kind="cuda", cpu_threads=1, placement=placement)
        engines = seated(device, "engine", range(4))
        ranks = range(4, 8)  # half of them: they are alike, and processes are slow to start
        actors, critics = seated(device, "actor", ranks), seated(device, "critic", ranks)
        stop_lights()
    of_engines = [(node, gpu) for node, gpus in engines for gpu in gpus.split(",")]
    assert len(set(of_engines)) == 8
    assert actors == critics == of_engines[4:]


def test_wrong_sizes_are_refused_before_anything_starts(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match=r"wants 10 GPUs: .*= 6, and actor.num_ranks=2, critic.num_ranks=2.* offers 8"):
        plan_on_cluster(configuration(actor=2, critic=2, num_workers=3, tensor_parallel=2), learners=True)
    with pytest.raises(ValueError, match="1 engine of 8 GPUs"):
        plan_on_cluster(configuration(actor=1, critic=1, num_workers=1, pipeline_parallel=8), learners=False)
    plan = plan_on_cluster(configuration(actor=2, critic=2, num_workers=2, tensor_parallel=2), learners=True)
    with (
        reserve(plan),
        pytest.raises(ValueError, match="The cluster has them, but in 1 s only"),
        reserve(plan, timeout_seconds=1.0),
    ):
        pass


def test_an_address_where_no_cluster_is_says_so_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # bound but not listening: nothing answers
        with pytest.raises(ValueError, match=rf"nothing can be reached at 127.0.0.1:{port}"):
            resolve_address(f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match="is not host:port"):
        resolve_address("ray.example")


def test_auto_where_no_cluster_runs_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray looks for processes and notes of any cluster on this machine, such as other tests': here it finds none."""
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="no Ray cluster runs on this machine; start one with `ray start --head`"):
        resolve_address("auto")


def test_a_port_that_something_else_uses_is_told_apart_from_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ValueError, match="the port is in use by something that is not a Ray head"):
            resolve_address(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join(timeout=10)
