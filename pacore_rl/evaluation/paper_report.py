"""``pacore-rl report`` on an evaluation: the paper's tables and figures, made of records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pacore_rl.evaluation.benchmark_folder import MANIFEST, BenchmarkFolder
from pacore_rl.evaluation.benchmark_metrics import summarise, unscored_benchmarks
from pacore_rl.evaluation.benchmark_results import BenchmarkResult
from pacore_rl.evaluation.paper_figures import write_figures
from pacore_rl.evaluation.paper_tables import PaperTable, benchmark_tables, message_set_table
from pacore_rl.evaluation.training_runs import is_training_run, load_training_run
from pacore_rl.problems import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperReport:
    """What was written."""

    tables: tuple[PaperTable, ...]
    figures: tuple[str, ...]
    """Names without suffix."""
    page: Path
    """Markdown, all of it."""


def is_evaluation(folder: Path) -> bool:
    """Whether the folder holds an evaluation on benchmarks (``pacore-rl evaluate --benchmark``)."""
    return (folder / MANIFEST).is_file()


def write_paper_report(folder: Path, out: Path, *, runs: Sequence[Path] = ()) -> PaperReport:
    """Write into ``out`` what there are records for: Tables 1, 2, 8 and Figures 1, 4 from the evaluation in
    ``folder``, Table 5 and Figures 3, 5 from training runs.

    Args:
        folder: an evaluation.
        runs: folders of training runs; none: the run whose folder holds the evaluation, where there is one.

    Raises:
        ValueError: there is no evaluation, a run is none, or records cannot be read.
    """
    evaluation = BenchmarkFolder(folder)
    model = evaluation.manifest().shown_model
    results = summarise(evaluation)
    if not results:
        raise ValueError(f"{folder} holds no answers yet; let `pacore-rl evaluate` finish a benchmark first.")
    trained = [load_training_run(run) for run in runs_of(folder, runs)]
    of_runs = message_set_table(trained)
    tables = (*benchmark_tables(results, model), *([of_runs] if of_runs else []))
    figures = write_figures(results, trained, model, out)
    for table in tables:
        _write(out / f"{table.name}.md", table.markdown())
        _write(out / f"{table.name}.csv", table.csv())
    page = out / "report.md"
    _write(page, _page(model, results, unscored_benchmarks(evaluation, results), tables, figures))
    return PaperReport(tables=tables, figures=figures, page=page)


def runs_of(folder: Path, runs: Sequence[Path] = ()) -> list[Path]:
    """The training runs that belong to an evaluation: those given, or else the run whose folder it lies in, if any."""
    holder = folder.resolve().parent
    return list(runs) or ([holder] if is_training_run(holder) else [])


def _page(
    model: str,
    results: Sequence[BenchmarkResult],
    unscored: Mapping[str, int],
    tables: Sequence[PaperTable],
    figures: Sequence[str],
) -> str:
    parts = [f"# {model}", ""]
    parts += [f"![{name}]({name}.png)\n" for name in figures]
    parts += [table.markdown() for table in tables]
    failed = {result.title: result.num_failed_solo + result.num_failed_runs for result in results}
    missing = {result.title: result.num_missing_runs for result in results}
    unshown = {
        f"{result.title}, {condition.label}": num
        for result in results
        for condition, num in result.failed_conditions.items()
    }
    if unscored:
        listing = ", ".join(f"{title}: {num} failed" for title, num in unscored.items())
        parts.append(f"Benchmarks that no table shows because none of their solo answers could be scored: {listing}.")
    if unshown:
        parts.append(f"Conditions that no table shows because every run of them failed: {_counts(unshown)}.")
    parts.append(f"Runs left out because generating or scoring them failed: {_counts(failed)}.")
    parts.append(f"Runs that the evaluation has not made yet: {_counts(missing)}.\n")
    return "\n".join(parts)


def _counts(by_title: Mapping[str, int]) -> str:
    return ", ".join(f"{title}: {num}" for title, num in by_title.items() if num) or "none"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
