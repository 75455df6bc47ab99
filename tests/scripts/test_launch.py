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
    assert asked["ntasks-per-node"] == "1" and asked["gpus-per-node"] == "8" and asked["signal"] == "B:TERM@900"
    assert text.index("#SBATCH --") < text.index("set -euo pipefail"), "Slurm reads no option after the first command"
    assert "umask 077" in text and 'rm -f "$RAY_AUTH_TOKEN_PATH"' in text


def test_slurm_without_a_recipe() -> None:
    refused = bash(str(LAUNCH / "slurm.sbatch"))
    assert refused.returncode == 2 and "recipes/pacore_8b/stage1.yaml" in refused.stderr


STUBS = {
    "scontrol": 'case $1 in show) echo node1 ;; requeue) echo requeued >>"$SEEN" ;; esac',
    "srun": """while [ "${1#--}" != "$1" ]; do shift; done
trap 'kill -KILL "$task"; exit 137' TERM  # as Slurm's does
"$@" &
task=$!
wait $task""",
    "hostname": "echo 10.0.0.1",
    "ray": "exit 0",
    "python": "echo token",
    "pacore-rl": """if [ "$1" = doctor ] && [ -n "$WARNED" ]; then kill -TERM "$(cut -d " " -f 4 /proc/$PPID/stat)"; fi
if [ "$1" = train ]; then
  echo "$@" >>"$SEEN"
  [ "$WAITS" = deaf ] || trap 'exit 75' TERM
  if [ -n "$WAITS" ]; then kill -TERM "$PPID"; for _ in $(seq 100); do sleep 0.1; done; fi
  exit "$STATUS"
fi""",
}
"""What the job calls, in as few words as it needs."""


def slurm_job(folder: Path, status: int, **environment: str) -> tuple[int, bool, str]:
    """The job where the run ends with ``status``: its exit status, whether it was queued again, and what it said."""
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    for name, body in STUBS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    seen = folder / "seen"
    seen.unlink(missing_ok=True)
    slurm = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1"}
    ended = bash(
        str(LAUNCH / "slurm.sbatch"), "recipe.yaml", **slurm, SEEN=str(seen), STATUS=str(status), **environment
    )
    lines = seen.read_text().splitlines() if seen.exists() else []
    trained = [] if "WARNED" in environment else ["train recipe.yaml cluster.address=10.0.0.1:20007 --resume auto"]
    assert [line for line in lines if line != "requeued"] == trained, ended.stderr
    assert not (folder / "runs" / ".ray-token-7").exists()
    return ended.returncode, "requeued" in lines, ended.stderr


@pytest.mark.parametrize("status", [0, 2, 130, 143])
def test_slurm_does_not_queue_again_what_is_done_or_yours_to_mend(tmp_path: Path, status: int) -> None:
    assert slurm_job(tmp_path, status)[:2] == (status, False)


def test_slurm_queues_again_what_was_saved_and_a_few_times_what_failed(tmp_path: Path) -> None:
    twice = {"PACORE_MAX_FAILURES": "2"}
    assert slurm_job(tmp_path, 137, **twice)[:2] == (137, True)
    assert slurm_job(tmp_path, 75, **twice)[:2] == (75, True)  # it had gone on: the count begins anew
    assert [slurm_job(tmp_path, 1, **twice)[1] for _ in range(2)] == [True, True]
    status, queued, said = slurm_job(tmp_path, 1, **twice)
    assert (status, queued) == (1, False) and "more than 2 times in a row (PACORE_MAX_FAILURES)" in said


def test_slurm_lets_the_run_save_itself_before_the_time_limit(tmp_path: Path) -> None:
    assert slurm_job(tmp_path, 0, WAITS="1")[:2] == (75, True)


def test_slurm_queues_again_a_run_that_had_nothing_to_save_by_then(tmp_path: Path) -> None:
    """SIGTERM ends it on the spot: 143, which without the warning would be a wish of the user's."""
    assert slurm_job(tmp_path, 0, WAITS="deaf")[:2] == (1, True)


def test_slurm_starts_no_run_that_was_warned_before_it_began(tmp_path: Path) -> None:
    once = {"WARNED": "1", "PACORE_MAX_FAILURES": "1"}
    status, queued, said = slurm_job(tmp_path, 0, **once)
    assert (status, queued) == (1, True) and "more time (--time)" in said
    assert slurm_job(tmp_path, 0, **once)[:2] == (1, False)


def test_kuberay() -> None:
    job: dict[str, Any] = yaml.safe_load((LAUNCH / "kuberay_rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert "pacore-rl train" in spec["entrypoint"] and "cluster.address=auto" in spec["entrypoint"]
    assert spec["entrypoint"].endswith("--resume auto") and spec["backoffLimit"] > 0
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
