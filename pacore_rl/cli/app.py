"""The commands. Each reads its recipe first, so that a mistake in it is told at once, and loads the machinery after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pacore_rl import __version__
from pacore_rl.cli.curate import curate
from pacore_rl.cli.evaluate import evaluate
from pacore_rl.cli.export import export
from pacore_rl.cli.guard import guard
from pacore_rl.cli.infer import infer
from pacore_rl.cli.options import Debug, ModelPath, Overrides, Problems, Recipe, existing, given, say_done
from pacore_rl.cli.report import report
from pacore_rl.cli.serve import serve
from pacore_rl.cli.watch import watch

_HELP = """Reinforcement learning of parallel coordinated reasoning (PaCoRe, arXiv 2601.05593).

A model answers a problem many times in parallel, and learns to write one better answer from what it concluded.

[bold]The way of a run[/]

  1. [cyan]doctor[/]         is this machine able to run?
  2. [cyan]quickstart[/]     everything below in miniature, without a GPU
  3. [cyan]curate[/]         raw problems to curated ones, their round-1 messages, and the set of stage 1
                    ([cyan]pool[/] and [cyan]curate stage1 --out[/] do it for a file of problems)
  4. [cyan]train[/]          PPO on synthesis; [cyan]watch[/] serves its page while it goes on
  5. [cyan]curate stage2[/]  keep problems whose synthesis is sometimes right; then [cyan]train[/] again
  6. [cyan]evaluate[/]       accuracy against test-time compute, beside the baselines; held-out problems or benchmarks
  7. [cyan]report[/]         a run as a page of charts and samples; an evaluation as the paper's tables and figures
  8. [cyan]export[/]         a Hugging Face folder that vllm serve loads, with a model card
  9. [cyan]infer[/]          answer questions through a served model, in rounds; [cyan]serve[/] offers that as an API
"""
app = typer.Typer(
    name="pacore-rl", help=_HELP, rich_markup_mode="rich", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(curate, name="curate")
app.command()(evaluate)
app.command()(report)
app.command()(watch)
app.command()(export)
app.command()(infer)
app.command()(serve)


def main() -> None:
    """Entry point of the console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pacore-rl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Options of the command itself; the help text is the app's."""


@app.command()
def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe, e.g. recipes/quickstart.yaml.")
    ] = None,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print every setting with its meaning, and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print everything, start nothing: what the run would be.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on: auto takes the run's latest whole checkpoint (or begins), else the folder of a checkpoint."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a model to synthesise, by PPO on the problems and the message pool of a recipe.

    Writes into run.output_dir/run.name: metrics.jsonl, curves, checkpoints, and the resolved recipe.

    Example: [cyan]pacore-rl train recipes/quickstart.yaml trainer.steps=10[/]

    After any end: [cyan]pacore-rl train RECIPE --resume auto[/] (ends with 75 where SIGTERM came and the run was saved)

    Settings: [cyan]pacore-rl train --explain[/]  Next: [cyan]pacore-rl evaluate RECIPE --model CHECKPOINT[/]
    """
    with guard(debug=debug) as outputs:
        if explain:
            from pacore_rl.cli.explain import explain as print_settings

            return print_settings(recipe, overrides or [], Console())
        if recipe is None:
            raise ValueError("No recipe was given; name one, such as `pacore-rl train recipes/quickstart.yaml`.")
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        if dry_run:
            from pacore_rl.dry_run import dry_run as show_run

            return show_run(recipe, overrides or [], Console())
        outputs.add(config.run_dir)
        from pacore_rl import runs

        folder = runs.train(config, resume=resume)
        say_done(folder, f"pacore-rl evaluate {recipe} --model CHECKPOINT, with a checkpoint of {folder}")


@app.command()
def pool(
    recipe: Recipe,
    overrides: Overrides = None,
    problems: Problems = None,
    out: Annotated[
        Path | None, typer.Option(help="Pool to write or complete.", show_default="the recipe's data.pool")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Messages per problem.", show_default="the recipe's synthesis.pool_size")
    ] = None,
    model: ModelPath = None,
    debug: Debug = False,
) -> None:
    """Generate and score the round-1 messages from which training draws its message sets.

    A pool that is there already is completed, not written anew.

    Example: [cyan]pacore-rl pool recipes/quickstart.yaml --problems data/problems.jsonl --out data/pool.jsonl[/]

    Next: [cyan]pacore-rl curate stage1 RECIPE --pool data/pool.jsonl --out data/stage1.jsonl[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        out = given(out, config.data.pool, "--out", "data.pool")
        source = existing(given(problems, config.data.problems, "--problems", "data.problems"), "--problems")
        outputs.add(out)
        from pacore_rl import curation_runs

        curation_runs.make_pool(config, problems=source, out=out, size=size, model=model)
        say_done(out, f"pacore-rl curate stage1 {recipe} --problems {source} --pool {out} --out STAGE1.jsonl")


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Responses, JSON Lines: id, domain, response, ...")],
    out: Annotated[Path, typer.Option(help="File of the verdicts (JSON Lines).")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Responses scored at a time.", show_default="one a core")
    ] = None,
    end_of_reasoning: Annotated[
        str | None,
        typer.Option(
            help="What follows its last occurrence is judged; empty: the whole response.",
            show_default="</think>, for responses that reason in such tags",
        ),
    ] = None,
    unsafe_local: Annotated[
        bool, typer.Option("--unsafe-local", help="Run programs without a sandbox, where none can be had.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Score responses to maths and coding problems, as training does.

    Each line of FILE: id, domain (math or code), response, and answer or tests ([{input, output}]); for code also
    checker, checker_program, fn_name, time_limit_seconds, memory_limit_mib.

    Example: [cyan]pacore-rl score responses.jsonl --out verdicts.jsonl[/]

    Next: train with the same rewards, [cyan]pacore-rl train RECIPE[/]  More: docs/code_rewards.md
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.config import RewardConfig
        from pacore_rl.machine import num_cores
        from pacore_rl.reporting.progress import ProgressReport
        from pacore_rl.rewards.score_file import score_file

        source = existing(file, "FILE")
        outputs.add(out)
        config = RewardConfig(num_workers=workers or num_cores(), unsafe_local=unsafe_local)
        with ProgressReport("responses", 0) as report:
            summary = score_file(source, out, config, end_of_reasoning=end_of_reasoning, on_progress=report.reach)
        Console().print(summary.as_text(), highlight=False)
        say_done(out, "look at the reasons of those that are not scored")


@app.command()
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs of the cluster.", show_default="as few as it takes")
    ] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of one GPU.", show_default="80GiB")] = None,
    gpus_per_host: Annotated[int, typer.Option(min=1, help="GPUs of one host; an engine lies within one.")] = 8,
    host_memory: Annotated[
        str | None, typer.Option(help="Memory of one host, e.g. 2TiB.", show_default="not judged")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of the prompts.", show_default="the data's, else an assumption")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Compute what a recipe needs, before a cluster is asked for it: memory of every role, tokens, GPUs.

    Without --gpus it names the smallest cluster that fits, a lower bound of memory. Ends with 1 if the recipe does not
    fit, and says what would mend it. A recipe with run.device=cpu is planned for CPUs.

    Example: [cyan]pacore-rl plan recipes/pacore_8b/stage1.yaml --gpus 64 --gpu-memory 80GiB[/]

    Next: [cyan]pacore-rl train RECIPE --dry-run[/]
    """
    with guard(debug=debug):
        from pacore_rl.planning.command import read_size, run
        from pacore_rl.planning.plan import Hardware
        from pacore_rl.planning.workload import assumed_workload
        from pacore_rl.preflight import measured_workload
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        asked = gpus is not None or gpu_memory is not None
        hardware = Hardware(
            gpu_memory=None
            if config.run.device == "cpu" and not asked
            else read_size(gpu_memory or "80GiB", "--gpu-memory"),
            gpus_per_host=gpus_per_host,
            host_memory=None if host_memory is None else read_size(host_memory, "--host-memory"),
            num_gpus=gpus,
        )
        work = measured_workload(config) if prompt_tokens is None else None
        work = work or assumed_workload(config, prompt_tokens=prompt_tokens)
        if not run(config, hardware, work, Console(), as_json=as_json):
            raise typer.Exit(1)


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the start of an engine (minutes).")] = False,
    address: Annotated[
        str | None, typer.Option(help="Look at this Ray cluster too: HOST:PORT, or auto.", show_default="none")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes that the cluster of --address must have.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for these nodes to join.")] = 0.0,
    debug: Debug = False,
) -> None:
    """Check whether this machine can run: versions, memory, disk, GPUs, ports, compiler, collectives, an engine.

    Ends with 1 if anything fails, and says how to mend it.

    Example: [cyan]pacore-rl doctor --quick[/]  Next: [cyan]pacore-rl quickstart[/]
    """
    with guard(debug=debug):
        from pacore_rl.doctor import examine

        if not examine(Console(), quick=quick, address=address, num_nodes=nodes, wait_seconds=wait):
            raise typer.Exit(1)


@app.command()
def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of its recipe to change, e.g. actor.learning_rate=1e-4."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of problems, messages and training.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Size of the run: quick or full.", show_default="quick")] = None,
    debug: Debug = False,
) -> None:
    """The whole system in miniature, on two CPU cores: problems, pools, both stages of training, evaluation.

    One that was interrupted goes on where it was when the same command is given again.

    Example: [cyan]pacore-rl quickstart --out runs/quickstart --seed 0[/]

    Next: [cyan]pacore-rl train recipes/quickstart.yaml trainer.steps=10[/], with a recipe of your own.
    """
    with guard(debug=debug) as outputs:
        outputs.add(out)
        from pacore_rl import quickstart as miniature

        arguments = {} if preset is None else {"preset": preset}
        miniature.run(out=out, seed=seed, overrides=overrides or [], **arguments)
