"""``pacore-rl train --dry-run``: checks, networks on the meta device, layout, plan, recipe; no worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pacore_rl.config import Config, LearnerConfig
from pacore_rl.inputs import data_files, data_is_there, load_checked_problems, load_training_data
from pacore_rl.planning.command import plan_recipe
from pacore_rl.planning.formulas import GIB
from pacore_rl.planning.placement import plan_placement
from pacore_rl.planning.plan import Hardware
from pacore_rl.planning.table import show_plan
from pacore_rl.planning.workload import assumed_workload
from pacore_rl.preflight import MetaModels, check_run, measured_workload
from pacore_rl.recipes import load_config, origins
from pacore_rl.settings import plain, values_of
from pacore_rl.types import Problem

ASSUMED_GPU_MEMORY = 80 * GIB
"""Where this machine has no GPU to ask."""


def dry_run(recipe: Path, overrides: Sequence[str], console: Console) -> None:
    """Print what a run would be; starts no worker and writes nothing.

    Raises:
        ValueError: what the run itself would refuse.
    """
    config = load_config(recipe, overrides)
    data = config.data
    problems = _checked(config)
    models = check_run(config, problems)
    for file in data_files(data):
        if not file.exists():
            text = Text(f"{file} is not there yet: prompts are assumed, and the run will need it.", "yellow")
            console.print(text, soft_wrap=True)
    _say_models(config, models, console)
    console.print(_layout(config))
    if models.shape is None:
        text = Text(f"No plan for this architecture ({models.architecture}): its memory is unknown.", "yellow")
        console.print(text, soft_wrap=True)
    else:
        work = measured_workload(config, problems) or assumed_workload(config)
        plan, _, mending = plan_recipe(config, hardware_here(config), work, models.shape)
        show_plan(plan, console, mending=mending)
    _say_recipe(config, origins(recipe, overrides), console)
    console.print(Text("Nothing was started.", style="green"))


def _checked(config: Config) -> tuple[Problem, ...] | None:
    """The problems, as the run itself checks them with their messages; None where they are not there yet."""
    if data_is_there(config.data):
        return load_training_data(config).problems
    problems = config.data.problems
    return load_checked_problems(problems, config.reward) if problems is not None and problems.is_file() else None


def hardware_here(config: Config) -> Hardware:
    """This machine, or, for a run that joins a cluster, GPUs of a common size, as many as the recipe asks for."""
    import torch

    visible = torch.cuda.is_available()
    if config.run.device == "cpu" or (config.run.device == "auto" and not visible and config.cluster.address is None):
        return Hardware(gpu_memory=None)
    memory = torch.cuda.get_device_properties(0).total_memory if visible else ASSUMED_GPU_MEMORY
    local = visible and config.cluster.address is None
    asked = plan_placement(config, kind="cuda").num_slots
    return Hardware(gpu_memory=memory, num_gpus=torch.cuda.device_count() if local else asked)


def _say_models(config: Config, models: MetaModels, console: Console) -> None:
    for line in (
        f"Policy: {models.architecture}, {models.policy_parameters:,} parameters, from {config.model.path}",
        f"Critic: the same trunk, {models.critic_parameters:,} parameters, head {models.head}",
    ):
        console.print(Text(line), soft_wrap=True)


def _layout(config: Config) -> Table:
    """Who computes how many rows."""
    table = Table(title="Layout of a step", title_justify="left")
    for column in (
        "role",
        "ranks",
        "groups",
        "rows of a group",
        "optimizer steps",
        "rows of a group and optimizer step",
    ):
        table.add_column(column, justify="left" if column == "role" else "right")
    learners: tuple[tuple[str, LearnerConfig, int], ...] = (
        ("actor", config.actor, config.ppo.actor_minibatches),
        ("critic", config.critic, config.ppo.critic_minibatches),
    )
    for name, learner, minibatches in learners:
        groups = learner.num_ranks // learner.sequence_parallel
        rows = config.ppo.rows_per_step / groups  # in the mean: groups share out costs, not rows
        cells = (learner.num_ranks, groups, f"{rows:g}", minibatches, f"{rows / minibatches:g}")
        table.add_row(name, *(str(cell) for cell in cells))
    rollout = config.rollout
    size = rollout.tensor_parallel * rollout.pipeline_parallel
    per_engine = config.ppo.rows_per_step / rollout.num_workers
    table.add_row("engine", str(rollout.num_workers * size), str(rollout.num_workers), f"{per_engine:g}", "", "")
    return table


def _say_recipe(config: Config, where: Mapping[str, str], console: Console) -> None:
    """Every setting as an override spells it, each with the place that set it."""
    console.print(Text("\nThe recipe, resolved:", style="bold"))
    for key, value in values_of(config).items():
        if isinstance(value, BaseModel):  # its settings follow
            continue
        line = Text(f"  {key}={plain(value)}").append(f"  # {where.get(key, 'default')}", style="dim")
        console.print(line, soft_wrap=True)
