"""``pacore-rl curate``: problems for the stages of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, ModelPath, Overrides, Pool, Problems, Recipe, existing, given, say_done

if TYPE_CHECKING:
    from pacore_rl.config import Config

_HELP = """From raw problems to the training sets of both stages (paper, Appendix C).

[bold]The way of a set[/], all of it resumable, in the folder curation.output_dir of the recipe

  1. [cyan]problems[/]  sources through quality rules, duplicates, decontamination, judge, code checks
  2. [cyan]pools[/]     round-1 messages of every problem, scored
  3. [cyan]stage1[/]    keep 0 < message accuracy < 9/24 (code 15/24); then [cyan]train[/]
  4. [cyan]stage2[/]    keep 0 < synthesis accuracy < 1 under the trained checkpoint; then [cyan]train[/] again
  5. [cyan]card[/]      the funnel by source, histograms, licences

Example: [cyan]pacore-rl curate problems recipes/curation/maths.yaml[/]

Next: [cyan]pacore-rl curate pools RECIPE[/]
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


Source = Annotated[
    list[str] | None,
    typer.Option("--source", help="Only problems of this source; may be given again.", show_default="all"),
]
Out = Annotated[
    Path | None,
    typer.Option(help="File for the problems that pass, in place of a training set.", show_default="a training set"),
]


@curate.command()
def problems(recipe: Recipe, overrides: Overrides = None, debug: Debug = False) -> None:
    """Read every source of the recipe, and sift: rules, held-out contests, duplicates, decontamination, answers, judge.

    Writes problems.parquet, rejects.jsonl (every record that was dropped, with the reason) and the funnel. What was
    done before, with the same settings, is not done again.

    Rules, for curation.rules.off: empty, length, image_or_link, multi_part, open_ended, several_answers, no_request,
    cut_off, states_answer, prose_answer, unparsed_answer.

    Example: [cyan]pacore-rl curate problems recipes/curation/maths.yaml curation.sources.dapo.limit=1000[/]

    Next: [cyan]pacore-rl curate pools RECIPE[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        outputs.add(config.curation.output_dir)
        from pacore_rl import curation_stages

        say_done(curation_stages.make_problems(config), f"pacore-rl curate pools {recipe}")


@curate.command()
def pools(
    recipe: Recipe, overrides: Overrides = None, source: Source = None, model: ModelPath = None, debug: Debug = False
) -> None:
    """Generate and score the round-1 messages of the curated problems (24 each, unless the recipe says otherwise).

    From the endpoint of curation.pools.endpoint, or from vLLM engines that Ray starts. A pool that is there already is
    completed.

    Example: [cyan]pacore-rl curate pools recipes/curation/maths.yaml --source synthetic-arithmetic[/]

    Next: [cyan]pacore-rl curate stage1 RECIPE[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        outputs.add(config.curation.output_dir)
        from pacore_rl import curation_stages

        pool = curation_stages.make_pools(config, sources=source or (), model=model)
        say_done(pool, f"pacore-rl curate stage1 {recipe}")


@curate.command()
def stage1(
    recipe: Recipe,
    out: Out = None,
    overrides: Overrides = None,
    problems: Problems = None,
    pool: Pool = None,
    debug: Debug = False,
) -> None:
    """Keep problems whose messages are right sometimes, but seldom: 0 < message accuracy < 9/24 (15/24 for code).

    Of the recipe's curated problems it makes a training set, OUT/stage1. With --out (and --problems and --pool, or
    data.problems and data.pool of the recipe) it filters a file of problems instead.

    Example: [cyan]pacore-rl curate stage1 recipes/curation/maths.yaml[/]

    Or: [cyan]pacore-rl curate stage1 recipes/quickstart.yaml --pool data/pool.jsonl --out data/stage1.jsonl[/]

    Next: [cyan]pacore-rl train RECIPE data.path=OUT/stage1[/], or data.problems=data/stage1.jsonl
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        if _is_curated(out, problems, pool):
            outputs.add(config.curation.output_dir)
            from pacore_rl import curation_stages

            folder = curation_stages.make_stage1(config)
            return say_done(folder, f"pacore-rl train {recipe} data.path={folder}")
        source, messages, out = _files(config, out, problems, pool)
        outputs.add(out)
        from pacore_rl import curation_runs

        curation_runs.curate_stage1(config, problems=source, pool=messages, out=out)
        say_done(out, f"pacore-rl train {recipe} data.problems={out} data.pool={messages}")


@curate.command()
def stage2(
    recipe: Recipe,
    out: Out = None,
    overrides: Overrides = None,
    problems: Problems = None,
    pool: Pool = None,
    model: ModelPath = None,
    debug: Debug = False,
) -> None:
    """Keep problems that a stage-1 checkpoint synthesises right sometimes, not always: 0 < synthesis accuracy < 1.

    Of the recipe's curated problems it makes a training set, OUT/stage2; with --out it filters a file of problems.

    Example: [cyan]pacore-rl curate stage2 recipes/curation/maths.yaml --model CHECKPOINT[/]

    Or: [cyan]pacore-rl curate stage2 recipes/quickstart.yaml --model CHECKPOINT --out data/stage2.jsonl[/]

    Next: [cyan]pacore-rl train RECIPE model.path=CHECKPOINT data.path=OUT/stage2[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        start = model or config.model.path
        if _is_curated(out, problems, pool):
            outputs.add(config.curation.output_dir)
            from pacore_rl import curation_stages

            folder = curation_stages.make_stage2(config, model=model)
            return say_done(folder, f"pacore-rl train {recipe} model.path={start} data.path={folder}")
        source, messages, out = _files(config, out, problems, pool)
        outputs.add(out)
        from pacore_rl import curation_runs

        curation_runs.curate_stage2(config, problems=source, pool=messages, out=out, model=model)
        say_done(out, f"pacore-rl train {recipe} model.path={start} data.problems={out} data.pool={messages}")


@curate.command()
def card(recipe: Recipe, overrides: Overrides = None, debug: Debug = False) -> None:
    """Write the data set card (README.md and accuracy.png) of what the recipe has made so far.

    Counts of every step by source, histograms of accuracy, quality of the rules, evaluation files, licences.

    Example: [cyan]pacore-rl curate card recipes/curation/maths.yaml[/]

    Next: [cyan]pacore-rl train RECIPE data.path=OUT/stage1[/]
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        outputs.add(config.curation.output_dir)
        from pacore_rl import curation_stages

        written = curation_stages.make_card(config)
        say_done(written, f"pacore-rl train {recipe} data.path={config.curation.output_dir / 'stage1'}")


def _is_curated(out: Path | None, problems: Path | None, pool: Path | None) -> bool:
    """Whether the stage is one of the recipe's curated problems. Raises ValueError for half of the other way."""
    if out is None and (problems is not None or pool is not None):
        raise ValueError(
            "--problems or --pool was given without --out; add --out FILE to filter a file of problems, or give none "
            "of the three to make a training set of the recipe's curated problems."
        )
    return out is None


def _files(config: Config, out: Path | None, problems: Path | None, pool: Path | None) -> tuple[Path, Path, Path]:
    """The file of problems, their pool, and the file to write."""
    assert out is not None, "asked for before"
    source = existing(given(problems, config.data.problems, "--problems", "data.problems"), "--problems")
    messages = given(pool, config.data.pool, "--pool", "data.pool")
    return source, messages if messages.is_dir() else existing(messages, "--pool"), out
