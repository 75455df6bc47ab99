"""``pacore-rl doctor``: can this machine run? Every check looks at the thing itself, and names a remedy.

A check is a function that returns findings; ``CHECKS`` lists them. None imports Ray, vLLM or DeepSpeed here: what must
be imported to be judged is imported in a process of its own, with a time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pacore_rl.doctor.findings import Finding, Status
from pacore_rl.doctor.gpus import check_gpu, check_nccl
from pacore_rl.doctor.local import (
    check_compiler,
    check_disk,
    check_memory,
    check_network,
    check_ports,
    check_processor,
    check_python,
    check_sandbox,
    check_shared_memory,
    check_torchvision,
    check_versions,
)
from pacore_rl.doctor.trials import check_all_reduce, check_cluster, check_engine

_COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}

Check = Callable[[], list[Finding]]
CHECKS: tuple[Check, ...] = (
    check_python,
    check_versions,
    check_torchvision,
    check_memory,
    check_disk,
    check_shared_memory,
    check_processor,
    check_gpu,
    check_nccl,
    check_compiler,
    check_network,
    check_ports,
    check_sandbox,
    check_all_reduce,
    check_engine,
)
SLOW_CHECKS: tuple[Check, ...] = (check_engine,)


def examine(
    console: Console,
    *,
    quick: bool,
    address: str | None = None,
    num_nodes: int | None = None,
    wait_seconds: float = 0.0,
) -> bool:
    """Run every check, print the table, and say whether none failed.

    Args:
        quick: leave out the start of an engine.
        address: of a Ray cluster that is looked at too.
        num_nodes: that the cluster must have.
        wait_seconds: for them to join.

    Raises:
        ValueError: nodes are wanted of no cluster.
    """
    if num_nodes is not None and address is None:
        raise ValueError(
            f"--nodes {num_nodes} was given without --address; name the cluster whose nodes are counted: --address "
            "HOST:PORT, or auto."
        )
    findings: list[Finding] = []
    checks = [check for check in CHECKS if not (quick and check in SLOW_CHECKS)]
    for check in checks:
        with console.status(f"{(check.__doc__ or check.__name__).splitlines()[0]}"):
            findings += check()
    if address is not None:
        with console.status("Ray cluster"):
            findings += check_cluster(address, num_nodes, wait_seconds)
    console.print(_table(findings), soft_wrap=False)
    failed = [finding for finding in findings if finding.status == "fail"]
    if failed:
        console.print(
            f"[red]{len(failed)} failed.[/] Mend these first: {', '.join(finding.name for finding in failed)}."
        )
    else:
        console.print("[green]This machine can run.[/] Next: pacore-rl quickstart")
    return not failed


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(title="pacore-rl doctor", title_justify="left", show_lines=False)
    for column in ("check", "", "seen", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        status = Text(finding.status, style=_COLOURS[finding.status])
        table.add_row(finding.name, status, Text(finding.seen), Text(finding.remedy))
    return table
