"""``pacore-rl evaluate``: held-out synthesis, or public benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, ModelPath, Overrides, Recipe, existing, given, say_done

if TYPE_CHECKING:
    from pacore_rl.config import Config

SHOWN = ("table1", "table2", "equal_ttc")
"""Tables that the command prints; `pacore-rl report` writes them all."""


def evaluate(
    recipe: Recipe,
    overrides: Overrides = None,
    model: ModelPath = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Results: a JSON file, of benchmarks a folder.",
            show_default="RUN_DIR/evaluation.json, of benchmarks RUN_DIR/benchmarks",
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=SOURCE]", help="A benchmark, from the hub or a file; may be repeated."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible server to ask, instead of an engine; may be repeated."),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(help="The endpoint's name of the model.", show_default="the only one it serves")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure a model: synthesis at every K, beside votes and other baselines of the same test-time compute.

    Without benchmarks: held-out problems of the recipe, with solo and swapped references as controls. With benchmarks
    (--benchmark, or evaluation.benchmarks.sets in the recipe): every answer is kept, and an evaluation that is started
    again on its folder goes on. Names: aime_2024, aime_2025, hmmt_feb_2024, hmmt_feb_2025, math_500, imo_answerbench,
    apex, livecodebench, hle, multichallenge, or one of yours with its file. More: docs/evaluation.md

    Example: [cyan]pacore-rl evaluate recipes/quickstart.yaml --model CHECKPOINT --out runs/evaluation.json[/]

    Example: [cyan]pacore-rl evaluate recipes/mine.yaml --benchmark aime_2025 --endpoint http://127.0.0.1:8000/v1[/]

    Next: [cyan]pacore-rl report FOLDER[/] for benchmarks; else the same with the model before training.
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.recipes import load_config

        config = load_config(recipe, overrides or [])
        if benchmark:
            config = load_config(recipe, [*(overrides or []), *_as_settings(benchmark)])
        if config.evaluation.benchmarks.sets:
            folder = out or config.run_dir / "benchmarks"
            outputs.add(folder)
            _run_benchmarks(config, folder, model=model, endpoint=endpoint or [], served_model=served_model)
            return say_done(folder, f"pacore-rl report {folder}")
        if endpoint:
            raise ValueError(
                "--endpoint was given without a benchmark; an endpoint answers benchmarks only. Add --benchmark NAME, "
                "or leave --endpoint out to measure held-out problems on an engine."
            )
        held_out = given(None, config.data.held_out_problems, None, "data.held_out_problems")
        existing(held_out, "data.held_out_problems")
        existing(given(None, config.data.held_out_pool, None, "data.held_out_pool"), "data.held_out_pool")
        results = out or config.run_dir / "evaluation.json"
        outputs.add(results)
        from pacore_rl import runs

        runs.evaluate(config, model=model, out=results)
        say_done(results, f"pacore-rl evaluate {recipe} --model OTHER --out OTHER.json, to compare")


def _as_settings(benchmarks: list[str]) -> list[str]:
    """``aime_2025=data/aime.jsonl`` as an override of the recipe."""
    from pacore_rl.evaluation.benchmarks import benchmark_of

    settings: list[str] = []
    for text in benchmarks:
        name, _, source = text.partition("=")
        benchmark_of(name, source or None)
        settings.append(f"evaluation.benchmarks.sets.{name}={source or 'null'}")
    return settings


def _run_benchmarks(
    config: Config, folder: Path, *, model: str | None, endpoint: list[str], served_model: str | None
) -> None:
    from rich.markdown import Markdown

    from pacore_rl import benchmark_runs
    from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder
    from pacore_rl.evaluation.paper_tables import benchmark_tables
    from pacore_rl.reporting.terminal import console

    if endpoint:
        results = benchmark_runs.evaluate_endpoint(
            config, out=folder, endpoints=endpoint, model=model, served_model=served_model
        )
    else:
        results = benchmark_runs.evaluate_benchmarks(config, out=folder, model=model)
    name = BenchmarkFolder(folder).manifest().shown_model
    for table in benchmark_tables(results, name):
        if table.name in SHOWN:
            console.print(Markdown(table.markdown()))
