from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmark_fakes import PROBLEMS, ScriptedAsker, manifest_of, says
from evaluation_fakes import FakeScorer
from matplotlib.image import imread

from pacore_rl.benchmark_runs import run_sets
from pacore_rl.evaluation.asking import Ask
from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder
from pacore_rl.evaluation.paper_report import is_evaluation, runs_of, write_paper_report
from pacore_rl.evaluation.paper_tables import tokens_text
from pacore_rl.evaluation.training_runs import load_training_run
from pacore_rl.synthesis.plan import Reply

ALL_FIGURES = ("figure1", "figure3", "figure4", "figure5")


def script(ask: Ask, sample: int) -> Reply:
    """Alone, every fourth answer is right at 1,000 tokens; with more than two references always, at 500."""
    if not ask.messages:
        return says("wrong" if sample % 4 else ask.problem.ground_truth, 1000)
    return says(ask.problem.ground_truth if len(ask.messages) > 2 else "wrong", 500)


def write_evaluation(folder: Path, *, model_path: str = "models/PaCoRe-8B") -> None:
    manifest = manifest_of(
        samples=8,
        name="aime_2025",
        configurations=[[4], [16], [32, 4], [32, 8]],
        pool_size=32,
        vote_sizes=[4, 16, 64],
        baselines=["self_consistency", "best_single"],
        sequential=[3],
        uncompacted=[[4]],
    )
    aime = dataclasses.replace(manifest.sets["aime_2025"], title="AIME 2025")
    sets = {"aime_2025": aime, "hmmt": dataclasses.replace(aime, title="HMMT")}
    manifest = dataclasses.replace(manifest, sets=sets, model_path=model_path)
    problems = dict.fromkeys(sets, PROBLEMS)
    run_sets(problems, BenchmarkFolder(folder), manifest, ScriptedAsker(script=script), FakeScorer())


def write_run(folder: Path, low: int, high: int, gain: float) -> None:
    folder.mkdir(parents=True)
    recipe = {
        "run": {"name": folder.name},
        "model": {"path": "none"},
        "data": {"problems": "none.jsonl", "pool": "none.jsonl"},
        "synthesis": {"min_messages": low, "max_messages": high},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    lines: list[str] = []
    for step in range(1, 21):
        row = {"schema": 1, "step": step, "reward/mean": gain * step / 20, "synthesis/accuracy": 0.5}
        row |= {"response/length_tokens": 1000 + step, "synthesis/cross_check_words": step / 10}
        if step % 10 == 0:
            row["heldout/synthesis"] = gain * step / 40
        if step > 5:
            row["synthesis/emergent_correct"] = 0.01 * step
        lines.append(json.dumps(row) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))


@cache
def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two benchmarks and two training runs, of which one was evaluated at two checkpoints."""
    folder = tmp_path_factory.mktemp("paper")
    write_evaluation(folder / "eval")
    write_run(folder / "runs" / "drawn", 16, 24, 0.8)
    write_run(folder / "runs" / "fixed", 4, 4, 0.4)
    for step in (10, 20):
        write_evaluation(
            folder / "runs" / "drawn" / f"at_{step}", model_path=f"drawn/checkpoints/step_0000{step}/actor"
        )
    runs = [folder / "runs" / name for name in ("drawn", "fixed")]
    written = write_paper_report(folder / "eval", folder / "out", runs=runs)
    assert written.figures == ALL_FIGURES
    return folder / "out"


def test_table_1_has_the_levels_of_every_benchmark(report: Path) -> None:
    text = (report / "table1.md").read_text()
    assert "| | AIME 2025 | HMMT |" in text.replace("|  |", "| |")
    low, medium, high = [line for line in text.splitlines() if line.startswith(("| low", "| medium", "| high"))]
    assert low.startswith("| low, K=[4] | 100.0 [")  # four problems that are all right prove little
    assert "(4.5k) |" in low and "(16k) |" in medium and "(34k) |" in high
    numbers = {(row["benchmark"], row["condition"]): row for row in rows_of((report / "table1.csv").read_text())}
    assert float(numbers["aime_2025", "solo"]["accuracy"]) == 0.25
    assert float(numbers["hmmt", "K=32,4"]["ttc_tokens"]) == 32 * 1000 + 5 * 500
    assert {row["condition"] for row in numbers.values()} == {"solo", "K=4", "K=16", "K=32,4", "K=32,8"}


def test_table_2_has_the_votes_the_pool_is_large_enough_for(report: Path) -> None:
    rows = rows_of((report / "table2.csv").read_text())
    assert [row["k"] for row in rows if row["benchmark"] == "aime_2025"] == ["1", "4", "16"]
    assert float(rows[2]["accuracy"]) < 0.05  # 8 of 32 right against 24 that agree on a wrong answer


def test_table_5_has_a_row_for_each_run(report: Path) -> None:
    rows = {row["run"]: row for row in rows_of((report / "table5.csv").read_text())}
    assert [row["message_sets"] for row in rows.values()] == ["U(16, 24)", "4"]
    assert float(rows["drawn"]["reward/mean"]) == pytest.approx(0.8 * 19.5 / 20)  # mean of the last two steps of 20
    assert float(rows["drawn"]["heldout/synthesis"]) == pytest.approx(0.4)


def test_table_8_has_the_configurations_of_more_rounds(report: Path) -> None:
    rows = rows_of((report / "table8.csv").read_text())
    assert [row["condition"] for row in rows if row["benchmark"] == "hmmt"] == ["K=32,4", "K=32,8"]


def test_the_comparison_at_equal_ttc_says_by_how_much(report: Path) -> None:
    rows = [row for row in rows_of((report / "equal_ttc.csv").read_text()) if row["condition"] == "K=16"]
    spent = {row["spent_on"]: row for row in rows if row["benchmark"] == "aime_2025"}
    assert set(spent) == {"pacore", "self_consistency", "best_single"}
    vote = spent["self_consistency"]
    assert float(vote["minus"]) == pytest.approx(1 - float(vote["accuracy"]))
    assert float(vote["ttc_tokens"]) == 16_000  # 16,500 tokens buy 16 answers and a half


def test_the_details_have_what_else_is_counted(report: Path) -> None:
    rows = rows_of((report / "details.csv").read_text())
    row = {row["condition"]: row for row in rows if row["benchmark"] == "hmmt"}["K=1,1"]
    assert (row["pass@1"], row["pass@8"], row["num_samples"]) == ("0.0", "0.0", "8")
    assert row["emergent_correct"] == "0.0"  # a single message never makes this model right
    assert row["cross-check_words"] == "0.0" and row["truncated"] == "0.0"


@pytest.mark.parametrize("name", ALL_FIGURES)
def test_figures_are_pictures_with_something_on_them(report: Path, name: str) -> None:
    picture = imread(report / f"{name}.png")
    assert picture.shape[0] > 400 and picture.shape[1] > 800
    assert math.isclose(float(picture.max()), 1.0) and float(picture.std()) > 0.05
    svg = ElementTree.fromstring((report / f"{name}.svg").read_text())
    words = " ".join(text for element in svg.iter() if (text := (element.text or "").strip()))
    expected = {
        "figure1": ["PaCoRe-8B", "AIME 2025", "HMMT", "self-consistency", "PaCoRe, more rounds"],
        "figure3": ["Train reward", "Response length", "AIME 2025, K=[16]", "pass@8, drawn"],
        "figure4": ["parallel", "sequential", "with compaction", "without compaction"],
        "figure5": ["Right where every message is wrong", "U(16, 24) messages", "4 messages"],
    }[name]
    assert [word for word in expected if word not in words] == []


def test_the_page_shows_every_figure_and_table(report: Path) -> None:
    page = (report / "report.md").read_text()
    assert [name for name in ALL_FIGURES if f"]({name}.png)" not in page] == []
    for name in ("table1", "table2", "table5", "table8", "equal_ttc", "details"):
        assert (report / f"{name}.md").read_text() in page


def test_the_same_records_give_the_same_files(report: Path) -> None:
    again = report.parent / "again"
    runs = [report.parent / "runs" / name for name in ("drawn", "fixed")]
    write_paper_report(report.parent / "eval", again, runs=runs)
    differing = [
        file.name
        for file in sorted(report.iterdir())
        if file.suffix != ".png" and file.read_bytes() != (again / file.name).read_bytes()
    ]
    assert differing == []


def test_an_evaluation_within_a_run_belongs_to_it(report: Path, tmp_path: Path) -> None:
    drawn, fixed = (report.parent / "runs" / name for name in ("drawn", "fixed"))
    assert runs_of(drawn / "at_10") == [drawn]
    assert runs_of(drawn / "at_10", [fixed]) == [fixed]
    assert runs_of(tmp_path) == []


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    assert not is_evaluation(tmp_path)
    with pytest.raises(ValueError, match=r"holds no evaluation on benchmarks .*pacore-rl evaluate RECIPE"):
        write_paper_report(tmp_path, tmp_path / "out")
    write_evaluation(tmp_path / "eval")
    assert is_evaluation(tmp_path / "eval")
    with pytest.raises(ValueError, match=r"is not the folder of a training run; it must hold metrics\.jsonl"):
        write_paper_report(tmp_path / "eval", tmp_path / "out", runs=[tmp_path])


def test_a_run_is_read_with_its_evaluations(report: Path) -> None:
    run = load_training_run(report.parent / "runs" / "drawn")
    assert [step for step, _ in run.evaluations] == [10, 20]
    assert run.num_steps == 20 and run.final("no/such") is None


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("models/PaCoRe-8B", "PaCoRe-8B"),
        ("runs/mine/checkpoints/step_000010/actor", "mine at step 10"),
        ("/data/runs/mine/checkpoints/step_000120", "mine at step 120"),
        ("served-name", "served-name"),
        ("somewhere/actor", "actor"),
    ],
)
def test_a_checkpoint_is_called_by_its_run_and_step(path: str, shown: str) -> None:
    assert dataclasses.replace(manifest_of(), model_path=path).shown_model == shown


def test_evaluations_of_one_checkpoint_count_together(tmp_path: Path) -> None:
    write_run(tmp_path / "drawn", 16, 24, 0.8)
    for name in ("bench_aime", "bench_hmmt"):
        manifest = dataclasses.replace(manifest_of(name=name, samples=1), model_path="drawn/checkpoints/step_000010")
        asker = ScriptedAsker(script=script)
        run_sets({name: PROBLEMS}, BenchmarkFolder(tmp_path / "drawn" / name), manifest, asker, FakeScorer())
    shutil.copytree(tmp_path / "drawn" / "bench_hmmt", tmp_path / "drawn" / "bench_hmmt_again")
    ((step, results),) = load_training_run(tmp_path / "drawn").evaluations
    assert step == 10 and [result.name for result in results] == ["bench_aime", "bench_hmmt"]


def test_a_benchmark_without_a_scored_solo_answer_is_named_and_hides_no_other(tmp_path: Path) -> None:
    manifest = manifest_of(samples=1, name="one", pool_size=4)
    manifest = dataclasses.replace(manifest, sets={**manifest.sets, **manifest_of(samples=1, name="two").sets})
    spoilt = [dataclasses.replace(problem, ground_truth="spoilt") for problem in PROBLEMS]

    def fails(ask: Ask, sample: int) -> Reply:
        return says("crash") if ask.problem.ground_truth == "spoilt" else script(ask, sample)

    evaluation, asker = BenchmarkFolder(tmp_path / "eval"), ScriptedAsker(script=fails)
    results = run_sets({"one": spoilt, "two": PROBLEMS}, evaluation, manifest, asker, FakeScorer())
    assert [result.name for result in results] == ["two"]
    page = write_paper_report(tmp_path / "eval", tmp_path / "out").page.read_text()
    assert "because none of their solo answers could be scored: ONE: 16 failed." in page
    alone = manifest_of(samples=1, name="one", pool_size=4)
    with pytest.raises(ValueError, match=r"no solo answer of one in .* could be generated and scored; run"):
        run_sets({"one": spoilt}, BenchmarkFolder(tmp_path / "alone"), alone, asker, FakeScorer())


def test_the_page_tells_failed_and_missing_runs_of_baselines_too(tmp_path: Path) -> None:
    """Of two benchmarks: every K = [8] run of the first fails; the second is stopped within its last baseline."""

    def fails(ask: Ask, sample: int) -> Reply:
        if len(ask.messages) == 8 and ask.problem.ground_truth.endswith("first"):
            return Reply(text="", finish="failed", generated_tokens=0, error="the connection broke")
        return script(ask, sample)

    manifest = manifest_of(samples=2, name="one", configurations=[[8]], baselines=["aggregation"])
    manifest = dataclasses.replace(manifest, sets={**manifest.sets, **manifest_of(samples=2, name="two").sets})
    first = [dataclasses.replace(problem, ground_truth=f"right{i}first") for i, problem in enumerate(PROBLEMS)]
    evaluation = BenchmarkFolder(tmp_path / "eval")
    run_sets({"one": first, "two": PROBLEMS}, evaluation, manifest, ScriptedAsker(script=fails), FakeScorer())
    answers = evaluation.answers("two")
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:-3]))
    page = write_paper_report(tmp_path / "eval", tmp_path / "out").page.read_text()
    assert "no table shows because every run of them failed: ONE, K=[8]: 8." in page
    assert "generating or scoring them failed: ONE: 8." in page
    assert "has not made yet: TWO: 3." in page


@pytest.mark.parametrize(("tokens", "text"), [(450, "450"), (1_700, "1.7k"), (50_000, "50k"), (1_873_000, "1,873k")])
def test_tokens_are_written_as_the_paper_does(tokens: float, text: str) -> None:
    assert tokens_text(tokens) == text
