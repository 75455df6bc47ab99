"""Peak memory of a learner on CPU, measured, against what ``pacore-rl plan`` computes for it.

    python scripts/bench/plan_memory.py [RECIPE] [KEY=VALUE ...]

Writes problems and a pool with the lengths of the quickstart's, plans the recipe from them, then runs the real
``LearnerWorker`` (one rank, DeepSpeed) of each role in a process of its own: the log-probs or values of a step's rows,
and an update, twice. A process's peak is its VmHWM. The plan counts the libraries as ``runtime``, a constant; the bench
prints what is resident before the model loads beside it. Target: every peak within 15% of the plan; the last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from step import write_data

from pacore_rl.config import Config
from pacore_rl.planning.formulas import MIB
from pacore_rl.planning.plan import Hardware, make_plan
from pacore_rl.preflight import measured_workload
from pacore_rl.recipes import load_config
from pacore_rl.types import TokenRows

TARGET = 0.15
ROLES = ("actor", "critic")
LIMIT_SECONDS = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/quickstart.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--worker", choices=ROLES, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.worker:
        return measure(options.worker, load_config(options.recipe, options.overrides))
    with tempfile.TemporaryDirectory() as folder:
        data = [f"data.problems={folder}/problems.jsonl", f"data.pool={folder}/pool.jsonl"]
        overrides = [
            *data,
            "data.held_out_problems=null",
            "data.held_out_pool=null",
            "evaluation.every_steps=0",
            *options.overrides,
        ]
        config = load_config(options.recipe, overrides)
        write_data(config, num_problems=4 * config.ppo.problems_per_step)
        compare(config, options.recipe, overrides)


def compare(config: Config, recipe: Path, overrides: Sequence[str]) -> None:
    """Plan, measure each role, print a line for each and the JSON."""
    work = measured_workload(config)
    assert work is not None
    plan = make_plan(config, Hardware(gpu_memory=None), work)
    found: dict[str, dict[str, float]] = {}
    for role, planned in zip(ROLES, plan.roles, strict=False):
        measured = _measure_apart(role, recipe, overrides)
        found[role] = {
            "planned_mib": round(planned.host / MIB, 1),
            "measured_mib": measured["peak_mib"],
            "ratio": round(planned.host / MIB / measured["peak_mib"], 4),
            "runtime_planned_mib": round(planned.parts[0].host / MIB, 1),
            "runtime_measured_mib": measured["runtime_mib"],
        }
        print(f"{role}: {found[role]}")
    worst = max((role["ratio"] for role in found.values()), key=lambda ratio: abs(ratio - 1))
    print(
        json.dumps(
            {
                "bench": "plan_memory",
                "ratio": worst,
                "target": TARGET,
                "met": abs(worst - 1) <= TARGET,
                "mean_prompt_tokens": work.mean_prompt,
                "rows": config.ppo.rows_per_step,
                "roles": found,
            }
        )
    )


def _measure_apart(role: str, recipe: Path, overrides: Sequence[str]) -> dict[str, float]:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(recipe), *overrides, "--worker", role]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, env=environment, check=False)
    if ended.returncode:
        raise RuntimeError(f"the {role} ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def measure(role: str, config: Config) -> None:
    """In the child: a learner's work of two steps, and its peak."""
    import deepspeed  # noqa: F401  (part of what is resident before a model is)

    from pacore_rl.engine.learner_worker import LearnerWorker
    from pacore_rl.engine.placement import Device

    tokens = _rows(config)
    runtime = _status_mib("VmRSS")
    worker = LearnerWorker(
        role="actor" if role == "actor" else "critic", rank=0, config=config, device=Device(kind="cpu", cpu_threads=1)
    )
    worker.start(worker.rendezvous())
    zeros_A = np.zeros(tokens.num_actions, np.float32)
    for step in (1, 2):
        worker.log_probs(tokens) if role == "actor" else worker.values(tokens)
        worker.update(tokens, zeros_A, zeros_A + np.float32(0.1), step=step)
    worker.close()
    print(json.dumps({"peak_mib": round(_status_mib("VmHWM"), 1), "runtime_mib": round(runtime, 1)}))


def _rows(config: Config) -> TokenRows:
    """Step 1's prompts as the trainer draws them, with random responses of the full budget."""
    from pacore_rl.problems import load_problems
    from pacore_rl.synthesis.draws import draw_messages, draw_problems, draw_rng, fit_to_window
    from pacore_rl.synthesis.message_pool import MessagePool
    from pacore_rl.tokenizer import load_tokenizer

    assert config.data.problems is not None and config.data.pool is not None
    tokenizer, pool = load_tokenizer(config.model.path), MessagePool.open(config.data.pool)
    rng, length = np.random.default_rng(0), config.sampling.max_response_tokens
    prompts, responses = [], []
    for problem in draw_problems(load_problems(config.data.problems), config.ppo.problems_per_step, seed=0, step=0):
        draws = draw_rng(0, "messages", 1, problem.id)
        least, most = config.synthesis.min_messages, config.synthesis.max_messages
        _, prompt = fit_to_window(
            problem,
            draw_messages(pool.messages(problem.id), least, most, draws),
            tokenizer,
            window_tokens=config.model.context_window_tokens,
            reserve_tokens=config.sampling.answer_reserve_tokens,
            rng=draws,
        )
        for _ in range(config.ppo.responses_per_problem):
            prompts.append(prompt)
            responses.append(rng.integers(3, 500, length, dtype=np.int32))
    return TokenRows(prompts=tuple(prompts), responses=tuple(responses))


def _status_mib(key: str) -> float:
    """A figure of /proc/self/status. ru_maxrss would count what the parent held when it started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
