"""scripts/summarize_seeds.py ends in one line of JSON that says which claims hold in which seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from evaluation_reports import reports

from pacore_rl.evaluation.report import EvaluationReport, save_report

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "summarize_seeds.py"


def write_seed(folder: Path, before: EvaluationReport, after: EvaluationReport) -> None:
    """What a quickstart leaves of its evaluations; the same problems stand for the long ones."""
    summary: dict[str, object] = {"seconds": 60.0}
    for when, report in {"before": before, "after": after}.items():
        save_report(report, folder / f"{when}_held_out.json")
        save_report(report, folder / f"{when}_long.json")
        summary |= {when: report.to_dict(), f"long_{when}": report.to_dict()}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_claims_hold_where_they_hold_in_every_seed(tmp_path: Path) -> None:
    guessing, synthesising = reports()
    write_seed(tmp_path / "seed_0", before=guessing, after=synthesising)
    write_seed(tmp_path / "seed_7", before=guessing, after=guessing)  # learned nothing

    def last_line(*seeds: str) -> dict[str, dict[str, dict[str, bool]]]:
        command = [sys.executable, str(SCRIPT), str(tmp_path), *seeds]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    alone, both = last_line("0"), last_line("0", "7")
    learned = "synthesis minus majority_vote above 0.20"
    assert alone["claims"]["after_in_every_seed"][learned]
    assert alone["claims"]["after_beyond_the_interval"][learned]
    assert not alone["claims"]["before_in_any_seed"][learned]
    assert not both["claims"]["after_in_every_seed"][learned]
    assert not alone["claims"]["after_in_every_seed"]["at least 256 held-out problems"]  # there are thirty
    assert list(both["seeds"]) == ["0", "7"]
    assert both["seeds"]["7"]["after"] == guessing.to_dict()
