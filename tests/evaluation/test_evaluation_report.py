from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
from evaluation_reports import reports
from rich.console import Console

from pacore_rl.evaluation.figures import plot_controls, plot_scaling
from pacore_rl.evaluation.report import load_report, save_report
from pacore_rl.evaluation.table import HEADER, markdown_table, markdown_tag_table, rich_table


def test_the_summary_holds_shares_and_their_intervals() -> None:
    before, after = (report.to_dict() for report in reports())
    for summary in (before, after):
        for name in ("message_accuracy", "majority_vote", "solo", "swapped", "synthesis"):
            low, high = summary["intervals"][name]
            assert 0 <= low <= summary[name] <= high <= 1
    assert after["synthesis"] > before["synthesis"]
    assert after["message_accuracy"] == before["message_accuracy"]
    assert [run["configuration"] for run in after["configurations"]] == [[4], [16], [8, 4]]
    assert json.loads(json.dumps(after, allow_nan=False)) == after


def test_a_report_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    _, after = reports()
    save_report(after, tmp_path / "new" / "after.json")
    assert load_report(tmp_path / "new" / "after.json") == after
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["after.json"]


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"schema_version": 99, "report": {}}', '{"schema_version": 1, "report": {}}']
)
def test_a_corrupt_report_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is not an evaluation record"):
        load_report(path)


def test_the_markdown_table_has_a_row_for_everything() -> None:
    before, after = reports()
    text = markdown_table(before, after)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(HEADER) + 1}
    assert len(lines) == 2 + 6 + 3 + 3 * 3
    for words in (
        "Message accuracy",
        "Majority vote",
        "Swapped",
        "K=[8, 4]",
        "self-consistency",
        "30 held-out problems",
    ):
        assert words in text
    synthesis = next(line for line in lines if line.startswith("| **Synthesis**"))
    assert f"{100 * after.held_out.synthesis.mean:.1f} [" in synthesis


def test_what_only_the_cached_messages_decide_has_no_change() -> None:
    """An interval around a difference of 0 would say that something was measured twice."""
    before, after = reports()
    same = markdown_table(before, after)
    held_out = after.held_out
    none_right = {**held_out.by_problem, "message_accuracy": (0.0,) * len(held_out.problem_ids)}
    others = markdown_table(before, replace(after, held_out=replace(held_out, by_problem=none_right)))
    for text, changes in ((same, ("same", "same")), (others, ("-", "same"))):
        rows = [line.split("|")[4].strip() for line in text.splitlines() if line.startswith("| M")]
        assert len(rows) == 2 and all(row.startswith(change) for row, change in zip(rows, changes, strict=True))


def test_a_report_without_configurations_leaves_its_cells_open() -> None:
    before, after = reports()
    text = markdown_table(replace(before, configurations=None), after)
    row = next(line for line in text.splitlines() if "PaCoRe K=[4]" in line)
    assert row.split("|")[2].strip() == "–"
    assert "**" in row.split("|")[3]


@pytest.mark.parametrize(("compact", "width"), [(False, 130), (True, 80)])
def test_the_console_table_fits(compact: bool, width: int) -> None:
    before, after = reports()
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(before, after, compact=compact))
    text = console.export_text()
    assert "…" not in text
    assert f"{100 * after.held_out.synthesis.mean:.1f} [" in text


def test_the_tag_table_has_a_column_for_each_value() -> None:
    _, after = reports()
    text = markdown_tag_table(after, "length")
    assert text.splitlines()[0] == "| length | 5 | 6 | 7 |"
    assert "| problems | 10 | 10 | 10 |" in text
    assert "PaCoRe K=[8, 4]" in text
    with pytest.raises(ValueError, match="no breakdown by tag 'size'; this evaluation has \\['length'\\]"):
        markdown_tag_table(after, "size")


def test_figures_show_something(tmp_path: Path) -> None:
    before, after = reports()
    plot_scaling(before, after, tmp_path / "figures" / "scaling.png")
    plot_controls(before, after, tmp_path / "figures" / "controls.png")
    for name in ("scaling", "controls"):
        pixels = matplotlib.image.imread(tmp_path / "figures" / f"{name}.png")
        height, width = pixels.shape[:2]
        assert width >= 1200
        assert height >= 600
        assert 0.005 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5
    only_after = replace(before, configurations=None)
    plot_scaling(only_after, after, tmp_path / "one_panel.png")
    with pytest.raises(ValueError, match="neither evaluation ran any K vector"):
        plot_scaling(only_after, only_after, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
