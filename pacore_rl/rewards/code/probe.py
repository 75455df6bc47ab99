"""Which sandbox this machine gets: the first one that every attack fails against.

The attacks run for real, once per machine, user and version of this code; what they showed is remembered in a file. A
sandbox that was not seen to hold is not used: where none holds, code rewards are refused with the reasons.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pacore_rl.problems import write_atomically
from pacore_rl.rewards.code import attacks, backends
from pacore_rl.rewards.code.attacks import ATTACKS, Attack
from pacore_rl.rewards.code.backends import BACKENDS, Backend
from pacore_rl.rewards.code.sandbox import Limits, Run, Sandbox, SandboxError
from pacore_rl.rewards.code.stage import run_folder, shared_folder, stage

SandboxChoice = Literal["auto", "bubblewrap", "landlock", "chroot"]
LIMITS = Limits(cpu_seconds=1.0, wall_factor=1.0, memory_mib=256, output_mib=2)
PATIENT_LIMITS = replace(LIMITS, wall_factor=30.0)
NUM_SANDBOXES = 2
"""Some attacks only wait for their time limit; the others go on beside them."""
_DECOY_SECONDS = 600
_chosen: dict[str, Backend] = {}
_refused: dict[str, str] = {}
"""Why no backend was chosen; in this process only, since a busy machine may be the reason."""
_choosing = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the attacks showed of one backend."""

    backend: Backend
    obstacle: str | None
    """Why it could not be tried; then there are no leaks to speak of."""
    leaks: tuple[tuple[str, str], ...]
    """(attack, what it got), of those that succeeded."""
    num_attacks: int
    seconds: float

    @property
    def holds(self) -> bool:
        return self.obstacle is None and not self.leaks

    @property
    def summary(self) -> str:
        if self.obstacle is not None:
            return f"{self.backend}: {self.obstacle}"
        if not self.leaks:
            return f"{self.backend}: {self.num_attacks} attacks, all blocked"
        shown = "; ".join(f"{name} ({got[:80]})" for name, got in self.leaks[:3])
        return f"{self.backend}: {len(self.leaks)} of {self.num_attacks} attacks succeeded: {shown}"


def choose_backend(wanted: SandboxChoice = "auto", *, unsafe_local: bool = False) -> Backend:
    """The backend to run programs in. Raises ``ValueError`` with what failed and the remedy where there is none."""
    if unsafe_local:
        return "none"
    with _choosing:
        if wanted in _refused:
            raise ValueError(_refused[wanted])
        if wanted not in _chosen:
            try:
                _chosen[wanted] = _choose(wanted, probe)
            except ValueError as error:
                _refused[wanted] = str(error)  # asked again for every program
                raise
        return _chosen[wanted]


def _choose(wanted: SandboxChoice, probe: Callable[[Backend], Probe]) -> Backend:
    failures: list[str] = []
    for backend in BACKENDS if wanted == "auto" else (wanted,):
        found = probe(backend)
        if found.holds:
            return backend
        failures.append(found.summary)
    raise ValueError(
        "code rewards need a sandbox, and none holds on this machine.\n  "
        + "\n  ".join(failures)
        + "\nInstall bubblewrap (Debian: apt-get install bubblewrap) where unprivileged namespaces are allowed, use a "
        "kernel with Landlock (5.13 or newer), or run as root. Only on a machine that you can afford to lose to a "
        "model's code: reward.unsafe_local=true."
    )


def probe(backend: Backend, *, fresh: bool = False) -> Probe:
    """What the attacks show of a backend, from memory where they have run here before."""
    obstacle = backends.obstacle(backend)
    if obstacle is not None:
        return Probe(backend=backend, obstacle=obstacle, leaks=(), num_attacks=0, seconds=0.0)
    memory = shared_folder() / f"probe-{backend}-{_circumstances()}.json"
    if memory.is_file() and not fresh:
        known: dict[str, Any] = json.loads(memory.read_text())
        return Probe(backend=backend, obstacle=None, leaks=tuple(map(tuple, known.pop("leaks"))), **known)
    found = run_attacks(backend)
    if found.holds:  # a failure may be the machine's of this moment: it is tried again by the next process
        content = {"leaks": found.leaks, "num_attacks": found.num_attacks, "seconds": found.seconds}
        write_atomically(memory, lambda file: file.write(json.dumps(content).encode()))
    return found


def run_attacks(backend: Backend, selected: tuple[Attack, ...] = ATTACKS) -> Probe:
    """Run attacks in sandboxes of a backend, or in none."""
    started = time.monotonic()
    uid = backends.next_uid()
    with _bait(uid) as bait, ThreadPoolExecutor(NUM_SANDBOXES) as threads:
        try:
            lots = [selected[number::NUM_SANDBOXES] for number in range(NUM_SANDBOXES)]
            found = list(threads.map(lambda lot: _run_lot(backend, lot, bait, uid), lots))
        except SandboxError as error:
            seconds = time.monotonic() - started
            return Probe(backend=backend, obstacle=str(error), leaks=(), num_attacks=0, seconds=seconds)
        leaks = {name: got for part in found for name, got in part.items()} | bait.disturbances()
    order = [attack.name for attack in selected]
    ranked = sorted(leaks.items(), key=lambda leak: order.index(leak[0]) if leak[0] in order else len(order))
    return Probe(
        backend=backend,
        obstacle=None,
        leaks=tuple(ranked),
        num_attacks=len(selected),
        seconds=round(time.monotonic() - started, 2),
    )


def _run_lot(backend: Backend, lot: tuple[Attack, ...], bait: _Bait, uid: int | None) -> dict[str, str]:
    """Leaks by attack. An attack that ends the runner has leaked; the next one gets another sandbox."""
    leaks: dict[str, str] = {}
    left = list(lot)
    while left:
        with Sandbox(backend, uid=uid) as sandbox:
            while left:
                attack = left.pop(0)
                try:
                    got = _attack(sandbox, attack, bait)
                except SandboxError as error:
                    leaks[attack.name] = f"it brought the sandbox down: {error}"
                    break
                if got:
                    leaks[attack.name] = got
    return leaks


def _attack(sandbox: Sandbox, attack: Attack, bait: _Bait) -> str:
    source = f"HOST = {bait.addresses!r}\n{attacks.PRELUDE}\n{attack.source}\n"
    complaint = sandbox.load(source.encode())
    assert complaint is None, f"attack {attack.name!r}: {complaint}"
    got = ""
    for number in range(1, attack.num_tests + 1):
        ran = sandbox.run(Run(), LIMITS, stdin=b"%d\n" % number)
        if ran.ending == "timeout" and not attack.ends_at_time_limit:  # a busy machine is no proof that it failed
            ran = sandbox.run(Run(), PATIENT_LIMITS, stdin=b"%d\n" % number)
        said = ran.output[: 1 << 16].decode(errors="replace")
        if "LEAK" in said or bait.secret in said + ran.error:
            got = " ".join(said.split())[:200]
    return got


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bait:
    """What attacks are after: each thing of ours that a submission must not reach, in a harmless copy."""

    secret: str
    expected: str
    """An expected output: held here, and nowhere in a sandbox."""
    addresses: dict[str, str | int]
    folder: Path
    server: socket.socket
    decoy: subprocess.Popen[bytes]

    def disturbances(self) -> dict[str, str]:
        """What an attack did to the host, whatever it said of it."""
        found: dict[str, str] = {}
        if self.decoy.poll() is not None:
            found["signal our side"] = "a process of the host was killed"
        if written := {path.name for path in self.folder.iterdir()} - _BAIT_NAMES:
            found["write beside the host's files"] = f"written: {', '.join(sorted(written))[:80]}"
        self.server.setblocking(False)
        try:
            self.server.accept()[0].close()
            found["connect to a server"] = "a server of the host was reached"
        except BlockingIOError:
            pass
        return found


_BAIT_NAMES = frozenset(("secret", "link", "socket", "neighbour"))


@contextmanager
def _bait(uid: int | None) -> Iterator[_Bait]:
    """Set it out, readable to all, and take it away again."""
    secret, expected = f"SECRET-{secrets.token_hex(8)}", f"EXPECTED-{secrets.token_hex(8)}"
    with ExitStack() as stack:
        top = Path(tempfile.mkdtemp(dir=run_folder(), prefix="bait-"))
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        folder = top / "host"
        folder.mkdir()
        for name in ("secret", "neighbour"):
            (folder / name).write_text(secret)
        (folder / "link").symlink_to(folder / "secret")
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        unix.bind(str(folder / "socket"))
        unix.listen()
        abstract_name = f"pacore-rl-{secrets.token_hex(8)}"
        abstract.bind("\0" + abstract_name)
        abstract.listen()
        for path in (top, folder, folder / "socket"):
            path.chmod(0o777)
        decoy = _decoy(uid, secret)
        stack.callback(decoy.wait)
        stack.callback(decoy.kill)
        yield _Bait(
            secret=secret,
            expected=expected,
            addresses={
                "port": server.getsockname()[1],
                "unix": str(folder / "socket"),
                "abstract": abstract_name,
                "secret": str(folder / "secret"),
                "neighbour": str(folder / "neighbour"),
                "link": str(folder / "link"),
                "folder": str(folder),
                "pid": decoy.pid,
                "memory_mib": LIMITS.memory_mib,
                "output_mib": LIMITS.output_mib,
            },
            folder=folder,
            server=server,
            decoy=decoy,
        )


def _decoy(uid: int | None, secret: str) -> subprocess.Popen[bytes]:
    """A process in our place, of the same user as the sandboxes: killing it is no loss."""
    python = stage().root / "py"
    user: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.Popen[bytes](
        [str(python / "bin" / "python"), "-I", "-S", "-c", f"import time; time.sleep({_DECOY_SECONDS})"],
        env={"SECRET": secret, "LD_LIBRARY_PATH": str(python / "lib")},
        cwd="/",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **user,
    )


def _circumstances() -> str:
    """A name for everything that a probe's outcome depends on."""
    digest = hashlib.sha256(stage().version.encode())
    for module in ("attacks", "backends", "probe", "sandbox", "stage"):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    digest.update(" ".join(os.uname()).encode())
    digest.update(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    status = Path("/proc/self/status").read_text().splitlines()
    digest.update("".join(line for line in status if line.startswith(("Cap", "NoNewPrivs", "Seccomp", "Uid"))).encode())
    if program := shutil.which("bwrap"):
        digest.update(f"{program} {Path(program).stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
