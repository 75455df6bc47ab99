"""The way from sources to problems: counts that add up, what is done once, what a changed setting redoes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_curation.funnel import funnel_rows, load_funnel
from data_curation.problem_set import curate_problems
from data_curation.store import read_candidates, read_drops
from pacore_rl.config import Config
from pacore_rl.config_rewards import JudgeConfig
from pacore_rl.problems import load_problems

STATEMENTS = [
    "Find $x$ with $x + 3 = 10$.",
    "find $x$ with $x + 3 = 10$",  # a copy
    "In the diagram, what is the value of $y$?",  # a rule
    "A box holds 3 red balls and 4 blue balls. How many ways are there to draw two of a colour?",  # in the evaluation
    "Compute $2^{10}$ without a calculator.",
]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Config]:
    source = tmp_path / "raw.jsonl"
    rows = [json.dumps({"id": str(i), "problem": text, "answer": "7"}) for i, text in enumerate(STATEMENTS)]
    source.write_text("\n".join([*rows, "{broken"]) + "\n")
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"problem": STATEMENTS[3].replace("3", "5"), "answer": "9"}) + "\n")

    def config(**curation: Any) -> Config:
        given: dict[str, Any] = {
            "output_dir": tmp_path / "out",
            "sources": {"raw": {"path": str(source), "licence": "MIT"}},
            "arithmetic": {"num": 3, "num_chain_sums": 2},
            "decontamination": {"against": [evaluation]},
            "records_per_part": 4,
        }
        return Config.model_validate({"model": {"path": "m"}, "data": {"path": tmp_path}, "curation": given | curation})

    return config


def test_every_record_is_kept_or_dropped_once(recipe: Callable[..., Config], tmp_path: Path) -> None:
    funnel = curate_problems(recipe())
    assert funnel.read == {"raw": 6, "synthetic-arithmetic": 3, "chain_sums": 2}
    steps = {step: sum(counts.values()) for step, counts in funnel.dropped.items()}
    assert steps == {"read": 1, "image_or_link": 1, "exact_duplicate": 1, "contaminated": 1}
    assert funnel.num_read == funnel.num_kept + sum(steps.values()) == 11
    assert dict(funnel_rows(funnel))["kept"] == [2, 3, 2, 7]
    kept = load_problems(tmp_path / "out" / "problems.parquet")
    assert [problem.id for problem in kept][:2] == ["raw/0", "raw/4"]
    assert kept[0].tags == {"licence": "MIT"}
    rejects = list(read_drops(tmp_path / "out" / "rejects.jsonl"))
    assert {drop.id for drop in rejects} == {"raw/1", "raw/2", "raw/3", "raw/6"}
    assert load_funnel(tmp_path / "out" / "funnel.json") == funnel


def written(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("part-*.parquet")}


def test_what_is_there_is_not_done_again(recipe: Callable[..., Config], tmp_path: Path) -> None:
    parts = tmp_path / "out" / "parts"
    first = curate_problems(recipe())
    before = written(parts)
    assert curate_problems(recipe()) == first
    assert written(parts) == before


def test_an_interrupted_run_does_the_missing_part_only(recipe: Callable[..., Config], tmp_path: Path) -> None:
    parts = tmp_path / "out" / "parts"

    def stops(job: Callable[[Path, Path], int], jobs: Sequence[tuple[Path, Path]]) -> Iterator[int]:
        for number, (source, target) in enumerate(jobs):
            if number == 1:
                raise KeyboardInterrupt
            yield job(source, target)

    with pytest.raises(KeyboardInterrupt):
        curate_problems(recipe(), spread=stops)
    before = written(parts)
    assert "2_rules/part-00000.parquet" in before and "2_rules/part-00001.parquet" not in before
    resumed = curate_problems(recipe())
    assert before.items() <= written(parts).items()
    other = recipe(output_dir=tmp_path / "fresh")
    assert curate_problems(other) == resumed
    assert (tmp_path / "out/rejects.jsonl").read_bytes() == (tmp_path / "fresh/rejects.jsonl").read_bytes()


def test_a_changed_rule_redoes_what_follows_and_not_what_comes_before(
    recipe: Callable[..., Config], tmp_path: Path
) -> None:
    curate_problems(recipe())
    before = written(tmp_path / "out" / "parts")
    funnel = curate_problems(recipe(rules={"off": ["image_or_link"]}))
    after = written(tmp_path / "out" / "parts")
    assert "image_or_link" not in funnel.dropped and funnel.kept["raw"] == 3
    assert before["1_read/part-00000.parquet"] == after["1_read/part-00000.parquet"]
    assert before["2_rules/part-00000.parquet"] != after["2_rules/part-00000.parquet"]


def test_what_a_step_depends_on_beside_the_curations_own_settings_redoes_it(
    recipe: Callable[..., Config], tmp_path: Path
) -> None:
    """A judge that is named later, and a file that comes into a folder of problems."""
    folder = tmp_path / "sources"
    folder.mkdir()
    record = {"problem": "What is 3 + 4 of it?", "answer": "7"}
    (folder / "a.jsonl").write_text(json.dumps(record) + "\n")
    config = recipe(sources={"raw": {"path": str(folder), "licence": "MIT"}})
    first = curate_problems(config)
    before = written(tmp_path / "out" / "parts")
    judged = config.model_copy(
        update={
            "reward": config.reward.model_copy(
                update={"judge": JudgeConfig(base_url="http://127.0.0.1:9/v1", model="m")}
            )
        }
    )
    assert curate_problems(judged) == first
    after = written(tmp_path / "out" / "parts")
    redone = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert redone == {"7_unparsed_answer"}
    for reward, is_redone in (({"unsafe_local": True}, True), ({"num_workers": 2, "max_failed_share": 0.5}, False)):
        judged = judged.model_copy(update={"reward": judged.reward.model_copy(update=reward)})
        before = written(tmp_path / "out" / "parts")
        assert curate_problems(judged) == first
        assert (written(tmp_path / "out" / "parts") != before) == is_redone, reward
    (folder / "b.jsonl").write_text(json.dumps(record | {"problem": "What is 30 + 40 of them?", "answer": "70"}) + "\n")
    assert curate_problems(judged).kept["raw"] == first.kept["raw"] + 1


def test_further_filters_come_last(recipe: Callable[..., Config], tmp_path: Path) -> None:
    class DropsChains:
        name = "judge"

        def __call__(self, candidates):
            from data_curation.records import sift

            return sift(
                candidates, step="judge", reason_of=lambda c: "no" if c.problem.source == "chain_sums" else None
            )

    funnel = curate_problems(recipe(), further=[(DropsChains(), 1)])
    assert funnel.dropped["judge"] == {"chain_sums": 2} and funnel.kept["chain_sums"] == 0


def test_what_goes_on_survives_the_way_through_the_disk(recipe: Callable[..., Config], tmp_path: Path) -> None:
    curate_problems(recipe())
    first = read_candidates(tmp_path / "out/parts/1_read/part-00000.parquet")[0]
    assert (first.statement, first.licence, first.year, first.solutions) == (STATEMENTS[0], "MIT", None, ())


def test_mistakes_are_told_before_anything_is_done(recipe: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curation\.sources"):
        curate_problems(recipe(sources={}, arithmetic={}))
    with pytest.raises(ValueError, match="names no rule"):
        curate_problems(recipe(rules={"off": ["proofs"]}))
    with pytest.raises(ValueError, match=r"no problem file at .*nowhere"):
        curate_problems(recipe(decontamination={"against": [tmp_path / "nowhere.jsonl"]}))
    assert not (tmp_path / "out").exists()
    other = tmp_path / "other.jsonl"
    other.write_text('{"query": "Find $x$.", "label": "7"}\n')
    with pytest.raises(ValueError, match=r"no record of curation\.sources\.raw .*columns"):
        curate_problems(recipe(sources={"raw": {"path": str(other), "licence": "MIT"}}))
