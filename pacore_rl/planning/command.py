"""``pacore-rl plan``: reads what was asked, plans, and prints."""

from __future__ import annotations

import json
import re

from rich.console import Console

from pacore_rl.config import Config
from pacore_rl.planning.plan import Hardware, Plan, make_plan
from pacore_rl.planning.search import Settings, mend, smallest_cluster
from pacore_rl.planning.shapes import ModelShape, model_shape
from pacore_rl.planning.table import plan_json, show_plan
from pacore_rl.planning.workload import Workload, assumed_workload

_UNITS = {"": 2**30, "GIB": 2**30, "G": 2**30, "GB": 10**9, "MIB": 2**20, "TIB": 2**40, "TB": 10**12}


def read_size(text: str, name: str) -> int:
    """Bytes of ``80GiB``, ``80`` (GiB), ``2TB``.

    Raises:
        ValueError: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) == 0:
        raise ValueError(f"{name} {text} was given; it must be a size above 0, such as 80GiB, 141GB or 2TiB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def plan_recipe(
    config: Config, hardware: Hardware, work: Workload | None = None, shape: ModelShape | None = None
) -> tuple[Plan, Settings | None, Settings | None]:
    """The plan, the layout that was searched for (without ``num_gpus``), and what would mend it where it does not fit.

    Without ``num_gpus`` the smallest cluster is searched; where there is none, the recipe's own layout is shown.
    """
    shape = shape or model_shape(config.model.path)
    work = work or assumed_workload(config)
    if hardware.gpu_memory is not None and hardware.num_gpus is None:
        found = smallest_cluster(config, hardware, work, shape)
        if found is not None:
            return *found, None
    plan = make_plan(config, hardware, work, shape)
    return plan, None, None if plan.fits else mend(plan)


def run(config: Config, hardware: Hardware, work: Workload | None, console: Console, *, as_json: bool) -> bool:
    """Print the plan; whether it fits."""
    plan, searched, mending = plan_recipe(config, hardware, work)
    if as_json:
        console.print_json(json.dumps(plan_json(plan, searched=searched, mending=mending)))
    else:
        show_plan(plan, console, searched=searched, mending=mending)
    return plan.fits
