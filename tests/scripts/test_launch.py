"""The launchers: they parse, have what their schedulers need, and keep Ray's token on. None is started here."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "scripts" / "launch"
GUIDE = (LAUNCH.parents[1] / "docs" / "clusters.md").read_text()
SCRIPTS = ("ray_cluster.sh", "slurm.sbatch")


def bash(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(
        ["bash", *arguments], capture_output=True, text=True, timeout=60, env=path | environment, check=False
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(name: str) -> None:
    parsed = bash("-n", str(LAUNCH / name))
    assert parsed.returncode == 0, parsed.stderr


@pytest.mark.parametrize("name", [*SCRIPTS, "kuberay_rayjob.yaml"])
def test_each_is_documented_and_keeps_the_token_on(name: str) -> None:
    assert f"scripts/launch/{name}" in GUIDE
    text = (LAUNCH / name).read_text()
    assert "RAY_AUTH_MODE=token" in text or "authOptions" in text
    assert "RAY_AUTH_MODE=disabled" not in text


def test_a_worker_without_address_or_token_is_told_what_to_do(tmp_path: Path) -> None:
    script = str(LAUNCH / "ray_cluster.sh")
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "ray").write_text('#!/bin/sh\necho started: $RAY_AUTH_MODE "$@"\n')
    (venv / "ray").chmod(0o755)
    there = {"PACORE_VENV": str(tmp_path / "venv"), "HOME": str(tmp_path)}
    assert "HEAD_ADDRESS" in bash(script, "worker", **there).stderr
    refused = bash(script, "worker", "host:6379", **there)
    assert refused.returncode == 2 and ".ray/auth_token" in refused.stderr
    assert "head, worker" in bash(script, "boss", **there).stderr

    made = bash(script, "head", **there)
    token = tmp_path / ".ray" / "auth_token"
    assert made.returncode == 0 and "started: token start" in made.stdout and "--head" in made.stdout, made.stderr
    assert len(token.read_text()) == 64 and token.stat().st_mode & 0o077 == 0
    joined = bash(script, "worker", "host:6379", PACORE_RAY_ADDRESS="10.0.0.7", **there)
    assert "--node-ip-address=10.0.0.7" in joined.stdout and "--address=host:6379" in joined.stdout


def test_slurm_asks_for_one_task_a_node_and_a_warning_before_the_end() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = dict(
        line[len("#SBATCH --") :].split("=", 1)
        for line in text.splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert asked["ntasks-per-node"] == "1" and asked["gpus-per-node"] == "8" and asked["signal"] == "B:TERM@300"
    assert text.index("#SBATCH --") < text.index("set -euo pipefail"), "Slurm reads no option after the first command"
    assert "umask 077" in text and 'rm -f "$RAY_AUTH_TOKEN_PATH"' in text


def test_slurm_without_a_recipe() -> None:
    refused = bash(str(LAUNCH / "slurm.sbatch"))
    assert refused.returncode == 2 and "recipes/pacore_8b/stage1.yaml" in refused.stderr


def test_kuberay() -> None:
    job: dict[str, Any] = yaml.safe_load((LAUNCH / "kuberay_rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert "pacore-rl train" in spec["entrypoint"] and "cluster.address=auto" in spec["entrypoint"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    setup = (LAUNCH.parents[1] / "setup.py").read_text()
    assert f'"ray=={cluster["rayVersion"]}"' in setup
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["image"] and container["resources"]["limits"] == container["resources"]["requests"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
