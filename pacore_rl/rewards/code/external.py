"""Checker programs: a problem's own judge of outputs, run in a sandbox that never holds a submission.

Called as testlib's are, ``checker input output answer``. Exit codes: 0 right; 1, 2 (and 8) wrong; 7 partly right, with
the share after the word ``points``, or else at the start of what it writes; Kattis's 42 right and 43 wrong. Anything
else is the checker's own failure.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pacore_rl.rewards.code import backends
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.building import CompileError, Ready, open_program
from pacore_rl.rewards.code.sandbox import Limits, Run, SandboxError
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.stage import stage
from pacore_rl.rewards.code.suite import CheckerProgram

LIMITS = Limits(cpu_seconds=10.0, memory_mib=1024, output_mib=4)
RIGHT, WRONG, PARTIAL = (0, 42), (1, 2, 8, 43), 7
_FILES = ("input.txt", "output.txt", "answer.txt")
_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_POINTS = (re.compile(rf"\bpoints\s+{_NUMBER}"), re.compile(rf"\s*{_NUMBER}"))
"""Where a share stands: after testlib's word for it, else at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalChecker:
    """An open checker program; see :func:`open_checker`."""

    ready: Ready
    box: Path
    uid: int | None

    def share(self, given: bytes, output: bytes, answer: bytes) -> tuple[float, str]:
        """How right an output is, in [0, 1], and what the checker said. Raises ``SandboxError`` where it fails."""
        for name, content in zip(_FILES, (given, output, answer), strict=True):
            path = self.box / name
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            if self.uid is not None:
                os.chown(path, self.uid, self.uid)
        inside = self.ready.sandbox.command.box
        command = (*self.ready.run.argv[:1], *(f"{inside}/{name}" for name in _FILES))
        ran = self.ready.sandbox.run(Run(profile=self.ready.run.profile, argv=command), LIMITS)
        said = " ".join((ran.error or ran.output[:200].decode(errors="replace")).split())[:200]
        if (ran.exit_code in RIGHT and ran.ending == "ended") or ran.exit_code == 42:
            return 1.0, said
        is_crash = ran.ending in ("timeout", "memory limit", "output limit") or "Traceback" in ran.error
        if not is_crash and ran.exit_code in WRONG:
            return 0.0, said or "the checker refused it"
        if not is_crash and ran.exit_code == PARTIAL and (found := _POINTS[0].search(said) or _POINTS[1].match(said)):
            return min(1.0, float(found[1])), said
        if output != answer and self.share(given, answer, answer)[0] == 1:
            return 0.0, f"the checker cannot read it ({said})"  # and is sound otherwise: no failure of ours
        raise SandboxError(f"the checker program failed ({ran.ending}, exit code {ran.exit_code}): {said}")


@contextmanager
def open_checker(program: CheckerProgram, backend: Backend) -> Iterator[ExternalChecker]:
    """The checker in a sandbox. Raises ``SandboxError`` where it does not compile, which is no submission's fault."""
    uid = backends.next_uid()
    box = backends.make_box(backend, stage(), uid)
    try:
        source = Program(language=program.language, source=program.source)
        with open_program(source, backend, box=box, uid=uid) as ready:
            yield ExternalChecker(ready=ready, box=box, uid=uid)
    except CompileError as error:
        raise SandboxError(f"the checker program does not compile: {error}") from error
    finally:
        shutil.rmtree(box, ignore_errors=True)
