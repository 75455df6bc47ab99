"""From a pool to a training set: what a stage keeps, that it loads everywhere, and its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import pytest

from data_curation.card import write_card
from data_curation.problem_set import CurationPaths, curate_problems
from data_curation.stage_sets import load_stage_reports
from pacore_rl.config import Config
from pacore_rl.curation_stages import make_stage1
from pacore_rl.inputs import MESSAGE_VERDICTS, keep_verdicts, load_training_data
from pacore_rl.synthesis.pools import open_pool
from pacore_rl.training_sets import NOT_SCORED, load_training_set
from pacore_rl.types import PoolMessage, Verdict

Curated = Callable[..., Config]


@pytest.fixture
def curated(tmp_path: Path) -> Curated:
    """Four maths problems with 0, 1, 2 and 4 right messages of four, and one without any message."""
    source = tmp_path / "raw.jsonl"
    rows = [{"id": str(i), "problem": f"Find $x$ with $x + {i} = 10$.", "answer": str(10 - i)} for i in range(5)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**curation: Any) -> Config:
        given: dict[str, Any] = {
            "output_dir": tmp_path / "out",
            "sources": {"raw": {"path": str(source), "licence": "CC BY 4.0", "contest": "Made up"}},
        }
        data = {"path": tmp_path / "out" / "stage1"}
        config = Config.model_validate({"model": {"path": "m"}, "data": data, "curation": given | curation})
        curate_problems(config)
        pool = open_pool(CurationPaths(root=config.curation.output_dir).pool)
        pool.append([message(i, number < num) for i, num in enumerate((0, 1, 2, 4)) for number in range(4)])
        return config

    return make


def message(problem: int, correct: bool) -> PoolMessage:
    verdict = Verdict(reward=float(correct), correct=correct, outcome="scored", reason="equal", answer="7")
    return PoolMessage(
        problem_id=f"raw/{problem}", text="So \\boxed{7}.", finish="stopped", verdict=verdict, num_tokens=9, model="m"
    )


def test_stage1_keeps_what_is_seldom_right_and_it_trains_at_once(curated: Curated) -> None:
    config = curated(stages={"stage1_upper": 0.5})
    folder = make_stage1(config)
    data = load_training_data(config)
    assert [problem.id for problem in data.problems] == ["raw/1"]
    assert data.problems[0].tags == {"licence": "CC BY 4.0", "contest": "Made up", "message_accuracy": 0.25}
    assert [one.verdict.correct for one in data.pool["raw/1"]] == [True, False, False, False]
    assert data.pool["raw/1"][0] == message(1, True)
    report, by_source = load_stage_reports(CurationPaths(root=folder.parent).stage_report(1))
    assert (report.num_kept, report.num_never_right, report.num_too_easy, report.num_unscored) == (1, 1, 2, 1)
    assert by_source == {"raw": report}


def test_datasets_reads_it_in_the_released_schema(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    config = curated()
    folder = make_stage1(config)
    write_card(config)
    rows = datasets.load_dataset(str(folder), split="train")
    assert rows.num_rows == 1
    row = rows[0]
    assert row["conversation"] == [{"role": "user", "content": "Find $x$ with $x + 1 = 10$."}]
    assert row["responses"] == ["So \\boxed{7}."] * 4 and row["ground_truth"] == "9"
    assert row["message_accuracy"] == 0.25 and row["licence"] == "CC BY 4.0" and len(row["pool"]) == 4


def test_the_card_counts_every_step_and_draws_the_accuracies(curated: Curated) -> None:
    config = curated()
    make_stage1(config)
    card = write_card(config).read_text()
    assert "| read | 5 | 5 |" in card and "| kept | 5 | 5 |" in card
    assert "| raw | 5 | 5 | 4 | 1 | 2 | 1 |" in card
    assert "| raw | CC BY 4.0 | raw.jsonl |" in card and "Not measured" in card
    root = config.curation.output_dir
    assert (root / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    in_set = (root / "stage1" / "README.md").read_text()
    assert in_set.startswith("---\nconfigs:") and "data.path=" in in_set


def test_a_stage_that_keeps_nothing_is_an_error_that_says_what_to_do(curated: Curated) -> None:
    with pytest.raises(ValueError, match=r"keeps no problem.*curation\.stages"):
        make_stage1(curated(stages={"stage1_upper": 0.2}))


def test_a_problem_is_measured_only_with_enough_messages(curated: Curated) -> None:
    with pytest.raises(ValueError, match="keeps no problem"):
        make_stage1(curated(stages={"min_messages": 24}))


def test_steps_before_are_asked_for_by_name(tmp_path: Path) -> None:
    curation = {"output_dir": tmp_path / "nothing"}
    config = Config.model_validate({"model": {"path": "m"}, "data": {"path": tmp_path}, "curation": curation})
    with pytest.raises(ValueError, match="curate problems"):
        make_stage1(config)
    with pytest.raises(ValueError, match="curate problems"):
        write_card(config)


class TestReleasedSets:
    """Sets with ``responses`` and no verdicts."""

    def config(self, folder: Path, *responses: str) -> Config:
        folder.mkdir()
        row = {"conversation": [{"role": "user", "content": "Find $x$."}], "ground_truth": "7", "responses": responses}
        (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
        run = {"output_dir": folder.parent / "runs"}
        return Config.model_validate(
            {"model": {"path": "m"}, "data": {"path": folder}, "reward": {"num_workers": 1}, "run": run}
        )

    def test_their_messages_are_scored_when_they_are_loaded(self, tmp_path: Path) -> None:
        config = self.config(tmp_path / "set", "It is \\boxed{7}.", "It is \\boxed{8}.")
        (bare,) = load_training_set(tmp_path / "set").messages.values()
        assert [one.verdict for one in bare] == [NOT_SCORED, NOT_SCORED]
        (scored,) = load_training_data(config).pool.values()
        assert [one.verdict.correct for one in scored] == [True, False]

    def test_their_verdicts_are_kept_for_the_next_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.config(tmp_path / "set", "It is \\boxed{7}.", "It is \\boxed{8}.")
        first = load_training_data(config)
        assert not config.run_dir.exists(), "the run's folder is another process's, perhaps"
        keep_verdicts(config, first)

        def score_nothing(*_: object) -> None:
            raise AssertionError("they were scored again")

        with monkeypatch.context() as patched:
            patched.setattr("pacore_rl.rewards.scorer.RuleScorer.score", score_nothing)
            assert load_training_data(config) == replace(first, new_verdicts=())
        strict = config.model_copy(update={"reward": config.reward.model_copy(update={"timeout_seconds": 4.0})})
        assert len((config.run_dir / MESSAGE_VERDICTS).read_text().splitlines()) == 2
        keep_verdicts(strict, load_training_data(strict))
        assert len((config.run_dir / MESSAGE_VERDICTS).read_text().splitlines()) == 4, "other rules, other verdicts"

    def test_a_problem_without_messages_is_refused_unless_none_are_drawn(self, tmp_path: Path) -> None:
        config = self.config(tmp_path / "set")
        with pytest.raises(ValueError, match="have no message"):
            load_training_data(config)
        plain = config.model_copy(
            update={"synthesis": config.synthesis.model_copy(update={"min_messages": 0, "max_messages": 0})}
        )
        assert load_training_data(plain).pool == {}

    def test_a_path_without_a_set_says_what_it_must_be(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no training set at .*data/\*\.parquet"):
            load_training_set(tmp_path)
