"""``pacore-rl curate``: problems for the stages of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, ModelPath, Overrides, Pool, Problems, Recipe, existing, given, say_done

_HELP = """Make and filter problems for the stages of training.

Example: [cyan]pacore-rl curate stage1 RECIPE --out data/stage1.jsonl[/]

Next: [cyan]pacore-rl train RECIPE data.problems=data/stage1.jsonl[/]
"""
curate = typer.Typer(help=_HELP, rich_markup_mode="rich", no_args_is_help=True)


@curate.command()
def arithmetic(
    out: Annotated[Path, typer.Option(help="File for the problems (JSON Lines or Parquet).")],
    num: Annotated[int, typer.Option(min=1, help="Different problems to make.")] = 1000,
    low: Annotated[int, typer.Option(min=0, help="Smallest A and B.")] = 10**11,
    high: Annotated[int, typer.Option(min=1, help="Largest A and B.")] = 10**13,
    operations: Annotated[
        str, typer.Option(help="Some of add, subtract, multiply, power_mod, with commas.")
    ] = "add,subtract,multiply,power_mod",
    held_out: Annotated[
        Path | None, typer.Option(help="File for a held-out tenth, which never meets the others.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same problems; more of them begin alike.")] = 0,
    debug: Debug = False,
) -> None:
    """Make large-integer arithmetic with exact answers (paper, Appendix C; by default its A, B in [1e11, 1e13]).

    Example: [cyan]pacore-rl curate arithmetic --num 13400 --out data/arithmetic.jsonl[/]

    Small numbers for a small model: [cyan]--low 10 --high 99 --operations add,subtract[/]

    Next: [cyan]pacore-rl pool RECIPE --problems data/arithmetic.jsonl --out data/pool.jsonl[/]
    """
    with guard(debug=debug) as outputs:
        outputs.add(out, *([held_out] if held_out else []))
        from pacore_rl import curation_runs

        curation_runs.make_arithmetic(
            num=num,
            low=low,
            high=high,
            operations=[name.strip() for name in operations.split(",") if name.strip()],
            seed=seed,
            out=out,
            held_out=held_out,
        )
        say_done(out, f"pacore-rl pool RECIPE --problems {out} --out POOL.jsonl")


@curate.command()
def stage1(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="File for the problems that pass.")],
    overrides: Overrides = None,
    problems: Problems = None,
    pool: Pool = None,
    debug: Debug = False,
) -> None:
    """Keep problems whose messages are right sometimes, but seldom: 0 < message accuracy < 9/24 (15/24 for code).

    Example: [cyan]pacore-rl curate stage1 recipes/quickstart.yaml --pool data/pool.jsonl --out data/stage1.jsonl[/]

    Next: [cyan]pacore-rl train RECIPE data.problems=data/stage1.jsonl[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        source = existing(problems or config.data.problems, "--problems")
        messages = existing(given(pool, config.data.pool, "--pool", "data.pool"), "--pool")
        outputs.add(out)
        from pacore_rl import curation_runs

        curation_runs.curate_stage1(config, problems=source, pool=messages, out=out)
        say_done(out, f"pacore-rl train {recipe} data.problems={out} data.pool={messages}")


@curate.command()
def stage2(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="File for the problems that pass.")],
    overrides: Overrides = None,
    problems: Problems = None,
    pool: Pool = None,
    model: ModelPath = None,
    debug: Debug = False,
) -> None:
    """Keep problems that a stage-1 checkpoint synthesises right sometimes, not always: 0 < synthesis accuracy < 1.

    Example: [cyan]pacore-rl curate stage2 recipes/quickstart.yaml --model CHECKPOINT --out data/stage2.jsonl[/]

    Next: [cyan]pacore-rl train RECIPE model.path=CHECKPOINT data.problems=data/stage2.jsonl[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        source = existing(problems or config.data.problems, "--problems")
        messages = existing(given(pool, config.data.pool, "--pool", "data.pool"), "--pool")
        outputs.add(out)
        from pacore_rl import curation_runs

        curation_runs.curate_stage2(config, problems=source, pool=messages, out=out, model=model)
        start = model or config.model.path
        say_done(out, f"pacore-rl train {recipe} model.path={start} data.problems={out} data.pool={messages}")
