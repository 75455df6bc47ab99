"""Function calls inside a sandbox: a submission's function is called, or a checking program calls it from afar.

    sandbox of the check                   our side                        sandbox of the submission
    check(candidate)
       candidate(1, 2)   -- channel -->    relays   -- arguments -->       fork, load, function(1, 2)
                         <-------------             <-- result -----

So a check that holds expected values (HumanEval, MBPP) never shares a process with the code that it checks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_FIRST, _SECOND = 3, 4
"""Descriptors of a call's arguments and result; the first is a check's channel."""


def perform(call: str, namespace: dict[str, Any]) -> None:
    """``function NAME`` calls the submission's function (or that of its class Solution) and writes the result down.
    ``check NAME`` runs the checking program on standard input, which finds the submission's function under its name."""
    kind, _, name = call.partition(" ")
    if kind == "check":
        namespace.pop("check", None)
        namespace[name] = function = remote(name)
        exec(compile(sys.stdin.read(), "check.py", "exec", dont_inherit=True), namespace)
        # HumanEval's form defines it; it may also be the name of the submission's function.
        if (check := namespace.get("check")) is not None and check is not function:
            check(function)
        return
    from pacore_rl.rewards.code import values

    with open(_FIRST, encoding="utf-8", closefd=False) as file:
        arguments = values.loads(file.read())
    solution = namespace.get("Solution")
    function = getattr(solution(), name, None) if isinstance(solution, type) else None
    if function is None:
        function = namespace.get(name)
    if not callable(function):
        raise NameError(f"the code defines no function {name}")
    result = function(*arguments)
    with open(_SECOND, "w", encoding="utf-8", closefd=False) as file:
        file.write(values.dumps(result))


def remote(name: str) -> Any:
    """A function whose calls are performed in the submission's sandbox."""
    from pacore_rl.rewards.code import values

    channel = open(_FIRST, "rb", buffering=0, closefd=False)
    pending = bytearray()

    def function(*arguments: object) -> Any:
        request = values.dumps(list(arguments)).encode() + b"\n"
        while request:
            request = request[os.write(_FIRST, request) :]
        while b"\n" not in pending:
            received = channel.read(65_536)
            if not received:
                raise ConnectionError("nobody answers the call")
            pending.extend(received)
        line, _, rest = bytes(pending).partition(b"\n")
        pending[:] = rest
        if line == b"!":
            raise RuntimeError(f"{name} raised or did not end")
        return values.loads(line)

    return function
