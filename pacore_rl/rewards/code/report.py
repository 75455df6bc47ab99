"""What ``pacore-rl doctor`` says of the sandbox: the one in use, what the attacks showed of each, and C++."""

from __future__ import annotations

from dataclasses import dataclass

from pacore_rl.rewards.code.backends import BACKENDS
from pacore_rl.rewards.code.building import cpp_complaint
from pacore_rl.rewards.code.probe import choose_backend, probe

REMEDY = "Code rewards will be refused: apt-get install bubblewrap, or use a kernel with Landlock (5.13 or newer)."


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReport:
    """For one line of a table."""

    is_usable: bool
    seen: str
    remedy: str


def report() -> SandboxReport:
    """Run the attacks, or recall what they showed."""
    try:
        backend = choose_backend()
    except (ValueError, OSError) as error:
        return SandboxReport(is_usable=False, seen=str(error), remedy=REMEDY)
    shown = [probe(backend).summary]
    shown += [f"{other}: {found}" for other in BACKENDS if other != backend and (found := probe(other).obstacle)]
    if complaint := cpp_complaint():
        shown.append(f"Python only: {complaint}")
    return SandboxReport(is_usable=True, seen="; ".join(shown), remedy="")
