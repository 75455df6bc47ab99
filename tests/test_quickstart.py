"""The whole quickstart in its smallest size, on the real engine and the shipped base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pacore_rl import quickstart
from pacore_rl.evaluation.report import load_report
from pacore_rl.problems import load_problems
from pacore_rl.quickstart.phases import NUM_PHASES
from pacore_rl.reporting.jsonl import read_metrics

METRICS = {
    "reward/mean",
    "response/length_tokens",
    "response/truncated_share",
    "messages/accuracy",
    "messages/majority_vote",
    "synthesis/accuracy",
    "synthesis/emergent_correct",
    "synthesis/cross_check_words",
    "synthesis/cross_check_words_any_case",
    "policy/entropy",
    "policy/clip_share",
    "policy/grad_norm",
    "policy/logprob_gap_mean",
    "critic/explained_variance",
    "critic/grad_norm",
    "throughput/generated_tokens_per_second",
    "time/generate",
    "time/score",
    "time/learn",
    "time/sync",
}
"""What the paper plots, and what tells of the run's health."""
REPEATABLE = ("reward/mean", "policy/loss", "policy/grad_norm", "critic/loss", "response/length_tokens")
EVALUATIONS = ("before", "after", "long_before", "long_after")
SHARES = ("message_accuracy", "majority_vote", "solo", "swapped", "synthesis")


def test_every_phase_runs_and_a_quickstart_that_was_cut_off_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_smallest(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    for when in ("before", "after"):
        assert all(0 <= summary[when][share] <= 1 for share in SHARES)
        assert load_report(folder / f"{when}_held_out.json").to_dict() == summary[when]
    steps = training_steps(folder)
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert [row["policy/weight_version"] for row in steps] == [0, 1, 2]
    assert steps[0].keys() >= METRICS
    for name in ("scaling.png", "scaling_long.png", "controls.png", "curves.png", "table.md", "recipe.yaml"):
        assert (folder / name).stat().st_size > 0, name
    training = {problem.id for problem in load_problems(folder / "data" / "train_candidates.jsonl")}
    held_out = {problem.id for problem in load_problems(folder / "data" / "held_out_candidates.jsonl")}
    assert not training & held_out
    assert {problem.id for problem in load_problems(folder / "data" / "stage1.jsonl")} <= training
    assert (folder / "checkpoints" / "step_000003" / "actor" / "model.safetensors").exists()

    told = capsys.readouterr().out
    for phase in range(1, NUM_PHASES + 1):
        assert f"{phase}/{NUM_PHASES} " in told
    assert "Held-out problems" in told, "the table"
    assert f"pacore-rl report {folder}" in told, "what to look at"
    assert f"pacore-rl train {folder}/recipe.yaml" in told, "what to do next"

    kept = [folder / "data" / name for name in ("train_pool.jsonl", "stage2_pool.jsonl")]
    kept += [folder / f"before_{name}.json" for name in ("held_out", "long")]
    written = {path: path.stat().st_mtime_ns for path in kept}
    outdated = folder / "after_long.json"
    of_before = outdated.stat().st_mtime_ns
    for name in ("summary.json", "after_held_out.json"):  # as if it had been cut off within stage 2
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / "step_000003")
    run_smallest(tmp_path)
    again = training_steps(folder)
    assert [row["step"] for row in again] == [1, 2, 3]
    for before, after in zip(steps, again, strict=True):
        assert {key: before[key] for key in REPEATABLE} == {key: after[key] for key in REPEATABLE}
    now = json.loads((folder / "summary.json").read_text())
    assert [now[name] for name in EVALUATIONS] == [summary[name] for name in EVALUATIONS] and now["seconds"] is None
    assert {path: path.stat().st_mtime_ns for path in kept} == written, "nothing is made twice"
    assert outdated.stat().st_mtime_ns > of_before, "what later weights had said is evaluated anew"

    (folder / "summary.json").unlink()
    with pytest.raises(ValueError, match="unfinished quickstart of other settings"):
        run_smallest(tmp_path, seed=1)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("run.name=short", "--out names its folder"),
        ("run={name: short}", "--out names its folder"),
        ("trainer.steps=10", "--preset says"),
        ("data.pool=mine.jsonl", "trains on yours"),
    ],
)
def test_settings_that_follow_from_its_options_are_refused(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"is not for a quickstart's overrides: .*{told}"):
        quickstart.run(out=tmp_path / "quickstart", overrides=[override])
    assert not (tmp_path / "quickstart").exists()


def test_where_no_checkpoint_is_whole_it_is_refused_and_nothing_undone(tmp_path: Path) -> None:
    overrides = ["logging.wandb_project=null"]
    config = quickstart.configuration(tmp_path / "quickstart", seed=0, overrides=overrides)
    quickstart.take_up(config, "smoke")
    (config.run_dir / "metrics.jsonl").write_text('{"schema": 1, "step": 1}\n')
    (config.run_dir / "checkpoints" / "step_000001").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"none of the 1 checkpoints .* is whole.*--out"):
        quickstart.run(out=tmp_path / "quickstart", preset="smoke", overrides=overrides)
    assert (config.run_dir / "metrics.jsonl").read_text()


def run_smallest(tmp_path: Path, seed: int = 0) -> Path:
    return quickstart.run(
        out=tmp_path / "quickstart",
        seed=seed,
        preset="smoke",
        overrides=[
            "ppo.problems_per_step=2",
            "ppo.responses_per_problem=4",
            "evaluation.configurations=[[2],[2,2]]",
            "evaluation.self_consistency_pool=4",
            "rollout.num_workers=1",
            "rollout.kv_cache_gib=0.25",
            "logging.wandb_project=null",
            "trainer.checkpoint_every_steps=1",
        ],
    )


def training_steps(folder: Path) -> list[dict[str, float]]:
    return [dict(row) for row in read_metrics(folder / "metrics.jsonl") if "time/step" in row]
