"""Before and after, as a table for the console (rich) and for documents (Markdown)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from pacore_rl.evaluation.configurations import ConfigurationResult, ConfigurationsResult, SelfConsistencyPoint
from pacore_rl.evaluation.held_out import QUANTITIES
from pacore_rl.evaluation.report import EvaluationReport
from pacore_rl.evaluation.statistics import Estimate, paired_difference

T = TypeVar("T")

LABELS = {
    "message_accuracy": "Message accuracy",
    "majority_vote": "Majority vote, equal messages",
    "solo": "Solo (no references)",
    "swapped": "Swapped references",
    "synthesis": "Synthesis",
    "emergent_correct": "Synthesis, all messages wrong",
}
MARGIN_LABELS = {"majority_vote": "majority vote", "swapped": "swapped", "solo": "solo"}
HEADER = ("", "before", "after", "change", "TTC before", "TTC after")
MISSING = "–"
OF_THE_MESSAGES = ("message_accuracy", "majority_vote")
"""Of the cached messages alone, which before and after read alike: nothing was measured twice that could differ."""
SAME_MESSAGES = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: texts for the six columns, and whether a rule follows it."""

    label: str
    before: str
    after: str
    change: str = MISSING
    ttc_before: str = MISSING
    ttc_after: str = MISSING
    emphasis: bool = False
    ends_section: bool = False

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        return self.label, self.before, self.after, self.change, self.ttc_before, self.ttc_after


def table_rows(before: EvaluationReport, after: EvaluationReport) -> list[Row]:
    """The lines of the table: shares on equal messages, then each configuration beside votes of equal cost."""
    rows = [_held_out_row(name, before, after) for name in QUANTITIES]
    rows += [_margin_row(name, before, after) for name in after.held_out.synthesis_minus]
    rows[-1] = replace(rows[-1], ends_section=True)
    known = [report.configurations for report in (before, after) if report.configurations is not None]
    for configuration in dict.fromkeys(run.configuration for result in known for run in result.configurations):
        rows += _configuration_rows(configuration, before.configurations, after.configurations)
    return rows


def rich_table(
    before: EvaluationReport,
    after: EvaluationReport,
    *,
    title: str = "Before and after training",
    compact: bool = False,
) -> Table:
    """The table for a console of 130 columns, or, compact, of 80: without the change, long labels wrapped."""
    columns = (0, 1, 2, 5) if compact else range(len(HEADER))
    table = Table(title=title, caption=_caption(after), title_justify="left", caption_justify="left")
    if compact:
        table.box = box.SIMPLE
    for index in columns:
        table.add_column(HEADER[index], justify="left" if index == 0 else "right", no_wrap=index > 0)
    for row in table_rows(before, after):
        style = "bold" if row.emphasis else ""
        table.add_row(*(Text(row.cells[index], style=style) for index in columns), end_section=row.ends_section)
    return table


def report_table(report: EvaluationReport, *, title: str) -> Table:
    """One report by itself: shares and test-time compute."""
    table = Table(title=title, caption=_caption(report), title_justify="left", caption_justify="left")
    for header in ("", "share", "TTC"):
        table.add_column(header, justify="right" if header else "left")
    for row in table_rows(report, report):
        table.add_row(row.label, row.after, row.ttc_after, end_section=row.ends_section)
    return table


def markdown_table(before: EvaluationReport, after: EvaluationReport) -> str:
    """The same table in Markdown, with a line on how to read it."""
    rows = table_rows(before, after)
    lines = [_markdown_line(HEADER), "|---|" + "--:|" * (len(HEADER) - 1)]
    for row in rows:
        lines.append(_markdown_line([f"**{c}**" if row.emphasis and c != MISSING else c for c in row.cells]))
    lines += ["", _caption(after)]
    return "\n".join(lines) + "\n"


def markdown_tag_table(report: EvaluationReport, tag: str) -> str:
    """The shares, and the accuracy of each configuration, for each value of one tag (e.g. the problem's length).

    Raises:
        ValueError: the tag has no breakdown in this report.
    """
    groups = report.held_out.by_tag.get(tag)
    if groups is None:
        raise ValueError(f"no breakdown by tag {tag!r}; this evaluation has {sorted(report.held_out.by_tag)}.")
    values = list(groups)
    lines = [_markdown_line([tag, *values]), "|---|" + "--:|" * len(values)]
    sizes = [groups[value]["message_accuracy"].num_problems for value in values]
    lines.append(_markdown_line(["problems", *(str(size) for size in sizes)]))
    for name in QUANTITIES:
        lines.append(_markdown_line([LABELS[name], *(_share(groups[value].get(name)) for value in values)]))
    for run in report.configurations.configurations if report.configurations else ():
        for key, label in _run_labels(run):
            by_value = run.by_tag.get(tag, {})
            lines.append(_markdown_line([label, *(_share(by_value.get(value, {}).get(key)) for value in values)]))
    return "\n".join(lines) + "\n"


def _caption(report: EvaluationReport) -> str:
    num_problems = len(report.held_out.problem_ids)
    return f"{num_problems} held-out problems; percent, 95% intervals over problems. TTC: generated tokens per answer."


def configuration_name(configuration: Sequence[int]) -> str:
    """``K=[8, 4]``, as the paper writes it."""
    return f"K=[{', '.join(str(k) for k in configuration)}]"


def _margin_row(name: str, before: EvaluationReport, after: EvaluationReport) -> Row:
    margins = [report.held_out.synthesis_minus.get(name) for report in (before, after)]
    return Row(label=f"  synthesis minus {MARGIN_LABELS[name]}", before=_points(margins[0]), after=_points(margins[1]))


def _held_out_row(name: str, before: EvaluationReport, after: EvaluationReport) -> Row:
    # Only solo's cost is all its own: the others read cached messages, which another model may have paid for.
    tokens = [
        f"{report.held_out.generated_tokens[name].mean:,.0f}" if name == "solo" else MISSING
        for report in (before, after)
    ]
    change = MISSING
    if before.held_out.problem_ids == after.held_out.problem_ids:
        values = [report.held_out.by_problem[name] for report in (before, after)]
        is_read = name in OF_THE_MESSAGES and values[0] == values[1]
        change = SAME_MESSAGES if is_read else _change(*values)
    return Row(
        label=LABELS[name],
        before=_share(getattr(before.held_out, name)),
        after=_share(getattr(after.held_out, name)),
        change=change,
        ttc_before=tokens[0],
        ttc_after=tokens[1],
        emphasis=name == "synthesis",
    )


def _configuration_rows(
    configuration: tuple[int, ...], before: ConfigurationsResult | None, after: ConfigurationsResult | None
) -> list[Row]:
    runs = [_find(result, configuration) for result in (before, after)]
    points = [run.equal_ttc if run else None for run in runs]
    votes = [str(point.k) if point else MISSING for point in points]
    same_problems = before is not None and after is not None and before.problem_ids == after.problem_ids

    def change(values: Sequence[ConfigurationResult | SelfConsistencyPoint | None]) -> str:
        first, second = values
        return _change(first.by_problem, second.by_problem) if same_problems and first and second else MISSING

    return [
        Row(
            label=f"PaCoRe {configuration_name(configuration)}",
            before=_share(runs[0].accuracy if runs[0] else None),
            after=_share(runs[1].accuracy if runs[1] else None),
            change=change(runs),
            ttc_before=_tokens(runs[0], lambda run: run.ttc_tokens.mean),
            ttc_after=_tokens(runs[1], lambda run: run.ttc_tokens.mean),
            emphasis=True,
        ),
        Row(
            label=f"  self-consistency @{'/'.join(dict.fromkeys(votes))}, equal TTC",
            before=_share(points[0].accuracy if points[0] else None),
            after=_share(points[1].accuracy if points[1] else None),
            change=change(points),
            ttc_before=_tokens(points[0], lambda point: point.ttc_tokens),
            ttc_after=_tokens(points[1], lambda point: point.ttc_tokens),
        ),
        Row(
            label="  PaCoRe minus self-consistency",
            before=_points(runs[0].minus_self_consistency if runs[0] else None),
            after=_points(runs[1].minus_self_consistency if runs[1] else None),
            ends_section=True,
        ),
    ]


def _find(result: ConfigurationsResult | None, configuration: tuple[int, ...]) -> ConfigurationResult | None:
    runs = result.configurations if result else ()
    return next((run for run in runs if run.configuration == configuration), None)


def _run_labels(run: ConfigurationResult) -> tuple[tuple[str, str], ...]:
    return (
        ("accuracy", f"PaCoRe {configuration_name(run.configuration)}"),
        ("self_consistency", f"self-consistency @{run.equal_ttc.k}, equal TTC"),
    )


def _share(estimate: Estimate | None) -> str:
    """``37.7 [33.1, 42.4]``, in percent."""
    if estimate is None:
        return MISSING
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _change(before: Sequence[float | None], after: Sequence[float | None]) -> str:
    """The paired difference after - before in points, on the problems where both are defined."""
    if all(a is None or b is None for a, b in zip(after, before, strict=True)):
        return MISSING
    return _points(paired_difference(after, before))


def _points(difference: Estimate | None) -> str:
    """``+25.8 [+20.1, +31.4]``, in percentage points."""
    if difference is None:
        return MISSING
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _tokens(item: T | None, tokens: Callable[[T], float]) -> str:
    return MISSING if item is None else f"{tokens(item):,.0f}"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.strip() for cell in cells) + " |"
