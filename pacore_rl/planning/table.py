"""A plan on the terminal, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pacore_rl.planning.formulas import GIB
from pacore_rl.planning.plan import Plan
from pacore_rl.planning.roles import RolePlan, count_words
from pacore_rl.planning.search import Settings, as_overrides

_SEARCHED = (
    "That is what memory takes at least: one engine of a size that holds a full window, and the recipe's own stages, "
    "offloading and micro-batches. More engines and ranks are faster; --gpus plans the recipe's own."
)

_MORE_GPUS = "take larger or more GPUs, or a shorter window"
_WAYS = {
    "window": "take a checkpoint with more positions, stretch them with model.rope_scaling, or shorten the window",
    "host": "take hosts with more memory, or fewer ranks on each (--gpus-per-host)",
}
"""What else helps, by where it does not fit."""


def show_plan(
    plan: Plan, console: Console, *, searched: Settings | None = None, mending: Settings | None = None
) -> None:
    """Print the sums of every role, the tokens of a step, the GPUs, and the verdict.

    Args:
        searched: parallel sizes that a search chose, which the plan has.
        mending: settings with which a plan that does not fit would.
    """
    shape = plan.shape
    console.print(
        Text(f"{plan.config.model.path}: {count_words(shape.policy_parameters)} parameters").append(
            f", {count_words(shape.active_parameters)} active" if shape.num_experts else ""
        ),
        soft_wrap=True,
    )
    if searched:
        console.print(Text(f"Smallest layout: {' '.join(as_overrides(searched))}", style="cyan"), soft_wrap=True)
        console.print(Text(_SEARCHED, style="dim"), soft_wrap=True)
    for role in plan.roles:
        console.print(_role_table(role, plan))
    _say_tokens(plan, console)
    _say_cluster(plan, console)
    _say_verdict(plan, console, mending)


def _role_table(role: RolePlan, plan: Plan) -> Table:
    cpu = plan.hardware.kind == "cpu"
    processes = f"{role.processes} {'engine' if role.name == 'engine' and cpu else 'process'}"
    processes += "" if role.processes == 1 else "s" if processes.endswith("engine") else "es"
    learned = f", {count_words(role.trainable)} learn" if 0 < role.trainable < role.parameters else ""
    table = Table(title=f"{role.name}: {processes}{learned}", title_justify="left", show_footer=True)
    table.add_column("part", footer="peak")
    if not cpu:
        table.add_column("GiB a GPU", justify="right", footer=_gib(role.gpu))
    table.add_column("GiB of host memory", justify="right", footer=_gib(role.host))
    table.add_column("how", overflow="fold")
    for part in role.parts:
        amounts = [] if cpu else [_gib(part.gpu)]
        table.add_row(part.name, *amounts, _gib(part.host), Text(part.how))
    if role.asleep:
        how = "weights and states while colocated engines generate"
        table.add_row("asleep", *([] if cpu else [_gib(0)]), _gib(role.asleep), how)
    for part in (role.loading, role.first):
        if part is not None:
            amounts = [] if cpu else [_gib(part.gpu)]
            table.add_row(part.name, *amounts, _gib(part.host), Text(part.how), style="dim")
    return table


def _say_tokens(plan: Plan, console: Console) -> None:
    tokens, work = plan.tokens, plan.work
    origin = "from the data" if work.measured else "assumed; --prompt-tokens sets it"
    engines = plan.config.rollout.num_workers
    lines = [
        f"A step: {tokens.rows:,} rows; prompts of up to {work.longest_prompt:,} tokens ({origin}); responses of up to "
        f"{tokens.response:,}: at most {tokens.step:,} generated tokens.",
        f"KV cache: {tokens.cache_per_engine:,} tokens an engine; {tokens.full_sequences:,.1f} rows of full length at "
        f"once over {engines} engine{'s' * (engines != 1)}.",
        f"Learning: an actor rank passes over a step in {tokens.learner_passes:,} micro-batches.",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _say_cluster(plan: Plan, console: Console) -> None:
    hardware = plan.hardware
    if hardware.gpu_memory is not None:
        count, size = plan.num_hosts, hardware.gpus_per_host
        hosts = "no host holds an engine" if count is None else f"{count} host{'s' * (count != 1)} of {size} GPUs"
        console.print(f"{plan.placement.arithmetic()}: {hosts}.", soft_wrap=True, highlight=False)
        console.print(
            f"Fullest GPU: {_gib(plan.gpu_peak)} of {_gib(hardware.gpu_memory)} GiB.", soft_wrap=True, highlight=False
        )
    limit = f" of {_gib(hardware.host_memory)}" if hardware.host_memory is not None else ""
    console.print(f"Fullest host: {_gib(plan.host_peak)}{limit} GiB.", soft_wrap=True, highlight=False)


def _say_verdict(plan: Plan, console: Console, mending: Settings | None) -> None:
    if plan.fits:
        note = " Figures of GPUs are computed; their constants are estimates." if plan.hardware.gpu_memory else ""
        console.print(Text("It fits.", style="green").append(note, style="dim"), soft_wrap=True)
        return
    for shortfall in plan.shortfalls:
        console.print(Text(f"Does not fit: {shortfall}.", style="red"), soft_wrap=True)
    if mending:
        console.print(Text(f"It would fit with: {' '.join(as_overrides(mending))}", style="yellow"), soft_wrap=True)
    else:
        ways = dict.fromkeys(_WAYS.get(shortfall.where, _MORE_GPUS) for shortfall in plan.shortfalls)
        console.print(
            Text(f"None of the settings tried here mends it: {'; and '.join(ways)}.", style="yellow"), soft_wrap=True
        )


def plan_json(plan: Plan, *, searched: Settings | None = None, mending: Settings | None = None) -> dict[str, Any]:
    """The plan as plain values; memory in bytes."""
    tokens = plan.tokens
    return {
        "model": {
            "path": plan.config.model.path,
            "parameters": plan.shape.policy_parameters,
            "active_parameters": plan.shape.active_parameters,
        },
        "roles": {role.name: _role_json(role) for role in plan.roles},
        "tokens": {
            "rows_per_step": tokens.rows,
            "longest_prompt": tokens.prompt,
            "longest_response": tokens.response,
            "generated_per_step": tokens.step,
            "kv_cache_per_engine": tokens.cache_per_engine,
            "full_rows_at_once": round(tokens.full_sequences, 2),
            "prompts_measured": plan.work.measured,
        },
        "gpus": {
            "needed": plan.num_gpus,
            "sum": plan.placement.arithmetic(),
            "hosts": plan.num_hosts,
            "peak_bytes": plan.gpu_peak,
            "memory_bytes": plan.hardware.gpu_memory,
        },
        "host": {"peak_bytes": plan.host_peak, "memory_bytes": plan.hardware.host_memory},
        "fits": plan.fits,
        "shortfalls": [str(shortfall) for shortfall in plan.shortfalls],
        "layout": dict(searched or {}),
        "mending": dict(mending or {}),
    }


def _role_json(role: RolePlan) -> dict[str, Any]:
    return {
        "processes": role.processes,
        "parameters": role.parameters,
        "trainable": role.trainable,
        "gpu_bytes": role.gpu,
        "host_bytes": role.host,
        "sleeping_host_bytes": role.asleep,
        "loading_gpu_bytes": role.loading.gpu if role.loading else 0,
        "loading_host_bytes": role.loading.host if role.loading else 0,
        "first_rank_host_bytes": role.host_of_first,
        "parts": [
            {"name": part.name, "gpu_bytes": part.gpu, "host_bytes": part.host, "how": part.how} for part in role.parts
        ],
    }


def _gib(amount: int) -> str:
    return f"{amount / GIB:,.2f}"
