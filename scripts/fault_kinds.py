"""What ``faults.py`` breaks: a training run with its launcher, and the ways to break it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from small_disk import SmallDisk

from pacore_rl.checkpoints.manifest import step_folders
from pacore_rl.config import Config
from pacore_rl.recipes import resolved_yaml
from pacore_rl.synthesis.pool_shards import shard_paths

REPOSITORY = Path(__file__).resolve().parents[1]
RECOVER_SECONDS = 900.0
"""A run that makes no step for so long after a fault has not survived it."""
QUIET_SECONDS = 480.0
"""A controller that neither starts nor steps for so long is taken for hung, as a launcher's watchdog would."""
LITTLE_ROOM_BYTES = 1_500_000
"""Less than a learner's checkpoint, more than some steps' metrics and samples."""


class Run:
    """The run under test, and its launcher. Its run folder is on ``disk``; the log and what it reads are elsewhere."""

    def __init__(self, config: Config, folder: Path, disk: SmallDisk) -> None:
        self.config = config
        self.disk = disk
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(resolved_yaml(config))
        self.log = folder / "log.txt"
        self.num_launches = 0
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        self.num_launches += 1
        command = [sys.executable, "-m", "pacore_rl", "train", str(self.recipe), "--resume", "auto"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY)

    @property
    def controller(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def steps(self) -> int:
        """The last finished step."""
        path = self.config.run_dir / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def find(self, *words: str) -> list[psutil.Process]:
        """Processes of the run whose command line holds one of the words; Ray names a worker after what it does."""
        found: list[psutil.Process] = []
        for child in self.controller.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any(word in " ".join(child.cmdline()) for word in words):
                    found.append(child)
        return found

    def end(self) -> None:
        """Kill the controller; what Ray started goes with it, or after it."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            workers = self.controller.children(recursive=True)
            self.process.kill()
            self.process.wait()
            gone = psutil.wait_procs(workers, timeout=20)[1]
            for left in gone:  # stopped ones do not hear that their parent is gone
                with suppress(psutil.NoSuchProcess):
                    left.kill()

    def wait_past(self, step: int, limit_seconds: float) -> bool:
        """Launch again whatever ends early, until a step after ``step`` has ended."""
        deadline = time.monotonic() + limit_seconds
        seen, quiet_since = self.steps(), time.monotonic()
        while time.monotonic() < deadline:
            assert self.process is not None
            if (now := self.steps()) > step:
                return True
            if now != seen:
                seen, quiet_since = now, time.monotonic()
            if self.process.poll() is not None:
                self.launch()
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET_SECONDS:
                self.end()
                self.launch()
                quiet_since = time.monotonic()
            time.sleep(0.1)
        return False


class NotAsPromised(Exception):
    """The run did something else than the documentation says."""


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotAsPromised(otherwise)


Strike = Callable[[Run, random.Random], None]


def signal_one(words: Sequence[str], number: signal.Signals) -> Strike:
    def strike(run: Run, rng: random.Random) -> None:
        deadline = time.monotonic() + 60
        while not (found := run.find(*words)):  # a reward worker is there only once something was scored
            expect(time.monotonic() < deadline, f"no process of {words}")
            time.sleep(0.05)
        rng.choice(found).send_signal(number)

    return strike


def kill_controller(run: Run, _rng: random.Random) -> None:
    run.end()


def stop_controller(run: Run, _rng: random.Random) -> None:
    run.controller.send_signal(signal.SIGSTOP)
    time.sleep(2)  # the launcher's watchdog; QUIET_SECONDS would only take longer
    run.end()


def terminate_controller(run: Run, _rng: random.Random) -> None:
    """A scheduler's polite word: the command must save, and end with 75."""
    assert run.process is not None
    run.process.terminate()
    code = run.process.wait(timeout=RECOVER_SECONDS)
    expect(code == 75, f"SIGTERM ended the command with {code}, not with 75")


def tear_checkpoint(run: Run, rng: random.Random) -> None:
    run.end()
    latest = step_folders(run.config.run_dir / "checkpoints")[0]
    file = rng.choice(sorted(path for path in latest.rglob("*.safetensors")))
    os.truncate(file, file.stat().st_size // 2)


def leave_little_room(run: Run, _rng: random.Random) -> None:
    """Metrics and samples fit on the disk, checkpoints do not: they are left out, until there is room again."""
    said, ended = run.log.stat().st_size, run.steps()
    try:
        fill_until(run, lambda: b"a checkpoint was left out" in run.log.read_bytes()[said:], LITTLE_ROOM_BYTES)
        expect(run.wait_past(ended, RECOVER_SECONDS), "no step ended beside a checkpoint that was left out")
    finally:
        run.disk.free()


def leave_no_room(run: Run, _rng: random.Random) -> None:
    """metrics.jsonl cannot grow: the command ends, for no line may be lost; later there is room again."""
    process = run.process
    assert process is not None
    try:
        fill_until(run, lambda: process.poll() is not None)
    finally:
        run.disk.free()
    expect(process.returncode == 2, f"a full disk ended the command with {process.returncode}, not with 2")


def fill_until(run: Run, noticed: Callable[[], bool], leave_bytes: int = 0) -> None:
    """Keep the disk full, whatever a checkpoint that failed gives back."""
    deadline = time.monotonic() + RECOVER_SECONDS
    while not noticed():
        expect(time.monotonic() < deadline, "a full disk went unnoticed")
        run.disk.fill(leave_bytes)
        time.sleep(0.02)


def corrupt_pool(run: Run, rng: random.Random) -> None:
    """A byte of a shard changes: the command must refuse it by name; then it is put back."""
    run.end()
    assert run.config.data.pool is not None
    shard = rng.choice(shard_paths(run.config.data.pool))
    kept = shard.with_suffix(".kept")
    shutil.copy(shard, kept)
    content = bytearray(shard.read_bytes())
    position = rng.randrange(len(content) // 4, len(content) // 2)
    content[position] ^= 0x15
    shard.write_bytes(content)
    said = run.log.stat().st_size
    run.launch()
    assert run.process is not None
    try:
        code = run.process.wait(timeout=RECOVER_SECONDS)
    finally:
        os.replace(kept, shard)
    told = run.log.read_text()[said:]
    expect(code == 2 and str(shard) in told, f"a corrupt shard ended the command with {code}")


FAULTS: dict[str, Strike] = {
    "engine killed": signal_one(["RolloutWorker"], signal.SIGKILL),
    "engine stopped": signal_one(["RolloutWorker"], signal.SIGSTOP),
    "learner killed": signal_one(["LearnerWorker"], signal.SIGKILL),
    "learner stopped": signal_one(["LearnerWorker"], signal.SIGSTOP),
    "reward worker killed": signal_one(["function_process"], signal.SIGKILL),
    "reward worker stopped": signal_one(["function_process"], signal.SIGSTOP),
    "controller killed": kill_controller,
    "controller stopped": stop_controller,
    "controller terminated": terminate_controller,
    "checkpoint torn": tear_checkpoint,
    "disk nearly full": leave_little_room,
    "disk full": leave_no_room,
    "pool shard corrupted": corrupt_pool,
}
