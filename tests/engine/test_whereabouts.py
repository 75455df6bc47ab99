"""The end of a worker that cannot end itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil

from pacore_rl.engine.whereabouts import kill_family

CHILD = "import time; time.sleep(600)"
PARENT = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {CHILD!r}]).pid, flush=True); {CHILD}"


def test_a_worker_goes_with_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))
        worker.send_signal(signal.SIGSTOP)  # as one that is hung
        begun = psutil.Process(worker.pid).create_time()
        kill_family(worker.pid, begun - 60)  # one that had the pid before
        assert worker.poll() is None and child.is_running()
        kill_family(worker.pid, begun)
        assert worker.wait(10) == -signal.SIGKILL
        _, alive = psutil.wait_procs([child], timeout=10)
        assert not alive
    kill_family(worker.pid, begun)  # it is gone: nothing to do
