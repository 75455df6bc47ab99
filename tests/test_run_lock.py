"""Two processes cannot work in one run's folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pacore_rl.run_lock import run_lock

HOLDER = """
import sys, time
from pathlib import Path
from pacore_rl.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_until_its_process_ends_however_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"another process is at work in {folder}"), run_lock(folder):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run_lock(folder):
        pass
    with run_lock(folder):  # again, by the same process
        pass
