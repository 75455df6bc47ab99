"""The doctor's judgements, and the doctor itself on this machine."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from pacore_rl import doctor, machine
from pacore_rl.doctor import findings, gpus, local, trials

ROOT = Path(__file__).parents[1]


class TestJudgements:
    @pytest.mark.parametrize(
        ("installed", "status"), [("2.13.0", "ok"), ("2.13.0+cpu", "ok"), ("2.14.0", "warn"), (None, "fail")]
    )
    def test_versions(self, installed: str | None, status: str) -> None:
        finding = local.judge_version("torch", "2.13.0", installed)
        assert finding.status == status
        assert bool(finding.remedy) == (status != "ok")

    @pytest.mark.parametrize(("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 99), "warn")])
    def test_python(self, version: tuple[int, int], status: str) -> None:
        assert local.judge_python("seen", version).status == status

    @pytest.mark.parametrize(("free", "status"), [(1.0, "fail"), (3.0, "warn"), (20.0, "ok")])
    def test_space(self, free: float, status: str) -> None:
        assert findings.judge_space("disk", free, 2.0, 10.0, "free some").status == status

    @pytest.mark.parametrize(
        ("free", "has_gpu", "status"),
        [(0.06, True, "fail"), (0.06, False, "warn"), (0.5, True, "warn"), (4, True, "ok")],
    )
    def test_shared_memory(self, free: float, has_gpu: bool, status: str) -> None:
        assert local.judge_shared_memory(free, has_gpu=has_gpu).status == status

    def test_the_pins_are_those_that_are_installed_by_setup(self) -> None:
        required = (ROOT / "setup.py").read_text()
        for package, pin in local.PINS.items():
            assert f'"{package}=={pin}"' in required

    def test_a_distribution_under_another_name_counts(self) -> None:
        assert local.installed_version("vllm") is not None
        assert local.installed_version("no-such-package-at-all") is None


class TestMachine:
    def test_memory_is_the_lesser_of_system_and_container(self, tmp_path: Path) -> None:
        proc, group = tmp_path / "proc", tmp_path / "group"
        proc.mkdir()
        group.mkdir()
        (proc / "meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable: 20971520 kB\n")
        assert machine.available_memory_gib(proc, group) == 20
        (group / "memory.max").write_text(f"{8 * machine.GIB}\n")
        (group / "memory.current").write_text(f"{3 * machine.GIB}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {machine.GIB}\n")
        assert machine.available_memory_gib(proc, group) == 6  # 8 - 3, and 1 of the 3 is cache that is given back
        (group / "memory.max").write_text("max\n")
        assert machine.available_memory_gib(proc, group) == 20

    def test_unknown_memory_is_none(self, tmp_path: Path) -> None:
        assert machine.available_memory_gib(tmp_path, tmp_path) is None

    def test_cpu_flags(self, tmp_path: Path) -> None:
        (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f\n")
        assert machine.cpu_flags(tmp_path) == {"fpu", "avx2", "avx512f"}

    def test_a_compiler_that_is_none(self) -> None:
        assert machine.compile_complaint("false")
        assert machine.compile_complaint("/nowhere/c++")


class TestLimits:
    def test_a_command_that_outlasts_its_limit_is_killed_with_its_children(self, tmp_path: Path) -> None:
        child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"
        begin = time.monotonic()
        code, _ = findings.run_limited([sys.executable, "-c", child], limit_seconds=1.0)
        # communicate() returns only when every holder of the pipe, the grandchild included, has ended.
        assert code is None and time.monotonic() - begin < 15

    def test_output_and_exit_code_of_one_that_ends(self) -> None:
        assert findings.run_limited([sys.executable, "-c", "print('x'); raise SystemExit(3)"], limit_seconds=30) == (
            3,
            "x\n",
        )

    def test_loopback_is_really_tried(self) -> None:
        finding = next(one for one in local.check_network() if one.name == "loopback")
        assert finding.status == "ok"
        match = re.search(r"\((\d+)\)", finding.seen)
        assert match is not None
        with socket.create_server(("127.0.0.1", int(match.group(1)))):
            pass  # the port was given back


def test_the_table_names_every_check_and_failures_decide() -> None:
    text = StringIO()
    healthy = doctor.examine(Console(file=text, width=160), quick=True)
    shown = text.getvalue()
    for name in (
        "Python",
        "torch",
        "vllm",
        "ray",
        "deepspeed",
        "transformers",
        "memory",
        "disk",
        "processor",
        "loopback",
        "sandbox",
    ):
        assert name in shown
    assert "engine start" not in shown
    assert healthy == ("failed." not in shown)


def test_nodes_of_no_cluster() -> None:
    with pytest.raises(ValueError, match="--nodes 8 was given without --address"):
        doctor.examine(Console(file=StringIO()), quick=True, num_nodes=8)


def test_the_command_ends_with_the_verdict() -> None:
    command = [sys.executable, "-m", "pacore_rl", "doctor", "--quick"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert ended.returncode == (1 if "failed. Mend" in ended.stdout else 0)


class TestGpus:
    """Judgements on what an H100's tools print; no GPU is needed."""

    SMI = "| NVIDIA-SMI 570.86.15    Driver Version: 570.86.15    CUDA Version: 12.8     |"

    def test_the_head_of_nvidia_smi(self) -> None:
        assert gpus.read_smi(self.SMI) == ("570.86.15", "12.8")
        assert gpus.read_smi("no devices were found") == (None, None)

    @pytest.mark.parametrize(
        ("torch_says", "status"),
        [
            ({"cuda": "12.6", "seen": 8}, "ok"),
            ({"cuda": "13.0", "seen": 8}, "fail"),
            ({"cuda": "12.8", "seen": 4}, "fail"),
            ({"cuda": None, "seen": 0}, "warn"),
            (None, "fail"),
        ],
    )
    def test_cuda(self, torch_says: dict[str, object] | None, status: str) -> None:
        finding = gpus.judge_cuda("570.86.15", "12.8", torch_says, 8)
        assert finding.status == status and bool(finding.remedy) == (status != "ok")

    @pytest.mark.parametrize(("torch_says", "status"), [({"seen": 8}, "warn"), ({"seen": 0}, "fail"), (None, "fail")])
    def test_a_driver_without_its_tool(self, torch_says: dict[str, object] | None, status: str) -> None:
        finding = gpus.judge_without_smi(torch_says)
        assert finding.status == status and ("torch cannot" in finding.seen) == (torch_says is None)

    @pytest.mark.parametrize(
        ("value", "status"), [("eth", "ok"), ("=eth0", "ok"), ("=eth", "fail"), ("ib0,eth0", "ok"), ("ib", "fail")]
    )
    def test_an_interface_must_be_there(self, value: str, status: str) -> None:
        finding = gpus.judge_interface("NCCL_SOCKET_IFNAME", value, frozenset({"lo", "eth0"}))
        assert finding is not None and finding.status == status

    @pytest.mark.parametrize("value", [None, "", "^lo"])
    def test_no_interface_is_named(self, value: str | None) -> None:
        assert gpus.judge_interface("NCCL_SOCKET_IFNAME", value, frozenset({"lo"})) is None


class TestTrials:
    TOLD: ClassVar = {"nodes": 2.0, "cpu": 8.0, "cpu_free": 8.0, "gpu": 16.0, "gpu_free": 16.0}

    @pytest.mark.parametrize(
        ("changes", "num_nodes", "status"), [({}, 2, "ok"), ({}, 3, "fail"), ({"gpu_free": 8.0}, None, "warn")]
    )
    def test_a_cluster(self, changes: dict[str, float], num_nodes: int | None, status: str) -> None:
        (finding,) = trials.judge_cluster("host:6379", self.TOLD | changes, num_nodes)
        assert finding.status == status and "2 nodes" in finding.seen

    def test_a_cluster_is_looked_at_again_until_its_nodes_have_joined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nodes = iter([1.0, 1.0, 2.0])

        def probe(command: list[str], limit: float) -> tuple[int, str]:
            return 0, json.dumps(self.TOLD | {"nodes": next(nodes)})

        monkeypatch.setattr(trials, "run_limited", probe)
        monkeypatch.setattr(trials, "POLL_SECONDS", 0.01)
        assert trials.check_cluster("host:6379", 2, wait_seconds=60)[0].status == "ok"
        assert next(nodes, None) is None
        nodes = iter([1.0, 2.0])
        assert trials.check_cluster("host:6379", 2)[0].status == "fail", "without a wait it says what is there now"

    def test_two_processes_add_up_a_vector(self) -> None:
        (finding,) = trials.check_all_reduce()
        assert finding.status == "ok" and "2 ranks" in finding.seen, finding.seen

    def test_a_port_that_is_taken_is_not_free(self) -> None:
        with socket.create_server(("", 0)) as server:
            assert not local._is_free(server.getsockname()[1])


def test_an_engine_really_starts() -> None:
    (finding,) = trials.check_engine()
    assert finding.status == "ok", finding.seen
