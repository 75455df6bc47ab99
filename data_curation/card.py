"""The data set card: what came in, what each step took, how hard the rest is, and under which licences it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_curation.accuracy_plot import plot_accuracies
from data_curation.funnel import Funnel, funnel_rows, load_funnel
from data_curation.problem_set import ARITHMETIC_LICENCE, CurationPaths
from data_curation.rule_quality import RuleQuality, measure_rules
from data_curation.stage_sets import FILE, load_stage_reports
from data_curation.stages import StageReport
from pacore_rl.config import Config
from pacore_rl.problems import write_atomically

CARD, PICTURE = "README.md", "accuracy.png"
_STAGES = {1: "message accuracy", 2: "synthesis accuracy"}
Reports = Mapping[int, tuple[StageReport, Mapping[str, StageReport]]]


def write_card(config: Config) -> Path:
    """Write the card and its picture into the folder of the recipe, and beside the data of each stage.

    Raises ValueError where there is no funnel yet.
    """
    paths = CurationPaths(root=config.curation.output_dir)
    funnel = load_funnel(paths.funnel)
    reports = {
        number: load_stage_reports(paths.stage_report(number))
        for number in _STAGES
        if paths.stage_report(number).is_file()
    }
    data = config.curation.rules.labelled_data
    quality = None if data is None else measure_rules(data, config.curation.rules)
    folders = [paths.root, *(paths.stage(number) for number in reports)]
    if reports:
        for folder in folders:
            plot_accuracies(folder / PICTURE, {number: report for number, (report, _) in reports.items()})
    for folder in folders:
        text = card_text(config, funnel, reports, quality, has_data=folder != paths.root)
        write_atomically(folder / CARD, lambda file, text=text: file.write(text.encode()))
    return paths.root / CARD


def card_text(
    config: Config, funnel: Funnel, reports: Reports, quality: Sequence[RuleQuality] | None, *, has_data: bool
) -> str:
    """The card as Markdown; ``has_data``: with the header by which ``datasets`` finds the Parquet file."""
    sections = [
        _header() if has_data else "",
        f"# {config.run.name}: curated problems\n",
        "Made by `pacore-rl curate` of PaCoRe-RL (arXiv 2601.05593, Appendix C).\n",
        f"{funnel.num_read:,} records were read, {funnel.num_kept:,} problems came through every step.\n",
        *_funnel_section(funnel),
        *_stages_section(funnel, reports),
        *_quality_section(quality),
        *_decontamination_section(config),
        *_examples_section(funnel),
        *_licences_section(config),
        *_columns_section(has_data),
    ]
    return "\n".join(section for section in sections if section).rstrip() + "\n"


def _header() -> str:
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {FILE}\n---\n"


def _funnel_section(funnel: Funnel) -> list[str]:
    rows = [[name, *map(_count, counts)] for name, counts in funnel_rows(funnel)]
    return ["## Problems by source and step\n", _table(["", *funnel.read, "all"], rows)]


def _stages_section(funnel: Funnel, reports: Reports) -> list[str]:
    """Counts by source and stage, as Table 7 of the paper gives them."""
    if not reports:
        return []
    sections = ["## Problems by source and stage\n"]
    columns = ["source", "read", "curated"]
    for number in reports:
        columns += [f"stage {number}: measured", "never right", "too easy", f"stage {number}"]
    rows: list[list[str]] = []
    for source in funnel.read:
        row = [source, _count(funnel.read[source]), _count(funnel.kept.get(source, 0))]
        for _, by_source in reports.values():
            row += _stage_counts(by_source.get(source))
        rows.append(row)
    total = ["all", _count(funnel.num_read), _count(funnel.num_kept)]
    for report, _ in reports.values():
        total += _stage_counts(report)
    sections.append(_table(columns, [*rows, total]))
    sections.append(f"![Histograms of accuracy]({PICTURE})\n")
    return sections


def _stage_counts(report: StageReport | None) -> list[str]:
    if report is None:
        return ["."] * 4
    measured = report.num_problems - report.num_unscored
    return [_count(number) for number in (measured, report.num_never_right, report.num_too_easy, report.num_kept)]


def _quality_section(quality: Sequence[RuleQuality] | None) -> list[str]:
    title = "## Quality rules on problems labelled by hand\n"
    if quality is None:
        return [title, "Not measured: `curation.rules.labelled_data` names no folder of the labelled problems.\n"]
    rows = [
        [one.split, str(one.num), str(one.num_labelled_drop), f"{one.precision:.3f}", f"{one.recall:.3f}"]
        for one in quality
    ]
    missed = [f"- {one.split}: {case}" for one in quality for case in one.wrong]
    return [
        title,
        "Of the decision to drop a problem. The rules were mended on the dev half; their author had read both.\n",
        _table(["split", "problems", "labelled drop", "precision", "recall"], rows),
        *(["Wrong decisions:\n", "\n".join(missed) + "\n"] if missed else []),
    ]


def _decontamination_section(config: Config) -> list[str]:
    settings = config.curation.decontamination
    if not settings.against and not settings.held_out_contests:
        return ["## Decontamination\n", "None: the recipe names no evaluation files.\n"]
    lines = [f"- {path.name} (sha256 {_digest(path)})" for path in settings.against]
    lines += [
        f"- contest {contest.name}{', ' + ', '.join(map(str, contest.years)) if contest.years else ', every year'}"
        for contest in settings.held_out_contests
    ]
    how = f"Exact with digits masked, and {settings.ngram_words} words in a row, against:\n"
    return ["## Decontamination\n", how, "\n".join(lines) + "\n"]


def _examples_section(funnel: Funnel) -> list[str]:
    lines: list[str] = []
    for step, examples in funnel.examples.items():
        num = sum(funnel.dropped[step].values())
        lines.append(f"- **{step}** ({num:,}): " + "; ".join(_example(example) for example in examples))
    return (
        ["## What each step dropped\n", "Examples by id, with the reason.\n", "\n".join(lines) + "\n"] if lines else []
    )


def _example(example: Mapping[str, str]) -> str:
    reason = " ".join(example["reason"].split())
    shown = reason if len(reason) <= 110 else reason[:107] + "..."
    return f"`{example['id']}`: {_escaped(shown)}"


def _licences_section(config: Config) -> list[str]:
    rows = [[name, source.licence, Path(source.path).name] for name, source in config.curation.sources.items()]
    arithmetic = config.curation.arithmetic
    for name, num in (("synthetic-arithmetic", arithmetic.num), ("chain_sums", arithmetic.num_chain_sums)):
        if num:
            rows.append([name, ARITHMETIC_LICENCE, "generated"])
    return [
        "## Licences\n",
        "As the recipe states them; records that name their own keep it in the column `licence`.\n",
        _table(["source", "licence", "from"], rows, align="---"),
    ]


def _columns_section(has_data: bool) -> list[str]:
    if not has_data:
        return []
    return [
        "## Use\n",
        "`pacore-rl train RECIPE data.path=THIS_FOLDER`, or `datasets.load_dataset(THIS_FOLDER)`.\n",
        "`conversation`, `responses` and `ground_truth` are as in the released PaCoRe-Train-8k. `pool` holds every "
        "message with its verdict, tokens and how it ended.\n",
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "---:") -> str:
    """Markdown; ``align`` of every column but the first."""
    lines = [columns, ["---", *[align] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _count(number: int) -> str:
    return f"{number:,}" if number else "."


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
