from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_fakes import PROBLEMS, Script, ScriptedAsker, evaluate, manifest_of, says

from pacore_rl.evaluation.answer_records import read_answers
from pacore_rl.evaluation.asking import Ask
from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder
from pacore_rl.evaluation.benchmark_metrics import summarise
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.plan import Reply


def right(ask: Ask) -> str:
    return ask.problem.ground_truth


def half_right(ask: Ask, sample: int) -> Reply:
    """Alone every second sample is right, at 10 tokens; a synthesis is right where a reference is, at 7."""
    if not ask.messages:
        return says(right(ask) if sample % 2 else "wrong")
    return says(right(ask) if f"[{right(ask)}]" in ask.messages else "wrong", 7, reasoning="Ref 1, reference 2")


class Killed(Exception):
    pass


def dies_at_synthesis(script: Script) -> Script:
    """The process ends once the pool is written."""

    def dies(ask: Ask, sample: int) -> Reply:
        if ask.messages:
            raise Killed
        return script(ask, sample)

    return dies


def test_accuracy_and_cost_are_counted_over_samples_then_problems(tmp_path: Path) -> None:
    result = evaluate(tmp_path, half_right, manifest_of(samples=3, configurations=[[4], [4, 2], [8]]))
    assert result.solo.mean == 0.5 and result.solo_tokens.mean == 10
    assert result.pool_size == 8
    four, two_rounds, everything = result.conditions
    assert everything.accuracy.mean == 1.0  # the whole pool is shown, and half of it is right
    assert four.num_samples == 3 and four.num_failed == 0
    assert four.ttc_tokens.mean == 4 * 10 + 7
    assert two_rounds.ttc_tokens.mean == 4 * 10 + 2 * 7 + 7
    assert everything.ttc_tokens.mean == 8 * 10 + 7
    assert everything.cross_check_words.mean == 2
    assert set(everything.pass_at) == {1, 2}  # pass_at asks for 4 and 8 too, of 3 samples


def test_the_first_round_comes_from_the_pool_and_the_others_are_generated(tmp_path: Path) -> None:
    asker = ScriptedAsker(script=half_right)
    evaluate(tmp_path, asker, manifest_of(samples=2, configurations=[[4, 2]]))
    solo = [ask for ask in asker.asks if not ask.messages]
    assert sum(ask.num_samples for ask in solo) == 8 * len(PROBLEMS)
    synthesis = [ask for ask in asker.asks if ask.messages]
    assert sorted({ask.num_samples for ask in synthesis}) == [1, 2]
    assert len(synthesis) == 2 * 2 * len(PROBLEMS)
    assert len({ask.seed for ask in asker.asks}) == len(asker.asks)


def test_emergent_correctness_counts_runs_whose_messages_were_all_wrong(tmp_path: Path) -> None:
    def script(ask: Ask, sample: int) -> Reply:
        """Problem 1 is hopeless alone, yet its synthesis is right in every second run; the others are always right."""
        if ask.problem.id != "p1":
            return says(right(ask))
        return says(right(ask) if ask.messages and ask.seed % 2 else "wrong")

    result = evaluate(tmp_path, script, manifest_of(samples=4))
    (four,) = result.conditions
    records = [r for r in read_answers(tmp_path / "answers" / "mine.jsonl") if r.problem_id == "p1"]
    share = sum(record.answers[0].verdict.correct for record in records) / 4
    assert four.emergent_correct is not None
    assert four.emergent_correct.mean == share and four.emergent_correct.num_problems == 1
    assert all(record.shown_correct == (False,) * 4 for record in records)


def test_a_run_with_an_unscored_message_is_not_one_whose_messages_were_all_wrong(tmp_path: Path) -> None:
    def script(ask: Ask, sample: int) -> Reply:
        """Round 2 of problem 1 is one wrong message and one that breaks the sandbox, elsewhere two wrong ones."""
        if ask.num_samples == 2:
            return says("crash" if ask.problem.id == "p1" and sample else "wrong")
        return says(right(ask) if ask.messages else "wrong")

    manifest = manifest_of(samples=1, configurations=[[8, 2]])
    (run,) = evaluate(tmp_path, script, manifest).conditions
    assert run.emergent_correct is not None and run.emergent_correct.num_problems == 3
    path = tmp_path / "answers" / "mine.jsonl"
    shown = {record.problem_id: record.shown_correct for record in read_answers(path)}
    assert sorted(shown.pop("p1"), key=str) == [False, None]
    assert set(shown.values()) == {(False, False)}
    # Records of earlier releases left the unscored message out, and still load.
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["shown_correct"] = [correct for correct in record["shown_correct"] if correct is not None]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (result,) = summarise(BenchmarkFolder(tmp_path))
    assert result.conditions[0].emergent_correct is not None


def test_messages_of_a_generated_round_are_scored_too(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right, manifest_of(samples=1, configurations=[[8, 2]]))
    for record in read_answers(tmp_path / "answers" / "mine.jsonl"):
        assert record.shown_correct == (True, True)


def test_nothing_is_generated_twice(tmp_path: Path) -> None:
    manifest = manifest_of(samples=2, configurations=[[4]], baselines=["sequential", "aggregation"])
    first = evaluate(tmp_path, half_right, manifest)
    again = ScriptedAsker(script=half_right)
    assert evaluate(tmp_path, again, manifest) == first
    assert again.asks == []
    # The table is made of the records alone.
    assert summarise(BenchmarkFolder(tmp_path)) == (first,)


def test_an_interrupted_evaluation_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    manifest = manifest_of(samples=4, configurations=[[4], [4, 2]], baselines=["sequential", "aggregation"])
    whole = evaluate(tmp_path / "whole", half_right, manifest)

    for limit in (3, 30, 60, 10_000):
        asked = 0

        def dies(ask: Ask, sample: int, limit: int = limit) -> Reply:
            nonlocal asked
            asked += 1
            if asked > limit:
                raise Killed
            return half_right(ask, sample)

        try:
            result = evaluate(tmp_path / "torn", dies, manifest)
        except Killed:
            for written in (tmp_path / "torn").glob("*/mine.jsonl"):
                with written.open("ab") as file:
                    file.write(b'{"id":"torn')
    assert result == whole  # pyright: ignore[reportPossiblyUnboundVariable]


def test_what_failed_is_counted_left_out_and_repeated(tmp_path: Path) -> None:
    def fails(ask: Ask, sample: int) -> Reply:
        if ask.messages and ask.problem.id == "p2":
            return Reply(text="", finish="failed", generated_tokens=0, error="the connection broke")
        return half_right(ask, sample)

    manifest = manifest_of(configurations=[[8]])
    (run,) = evaluate(tmp_path, fails, manifest).conditions
    assert run.num_failed == 2 and run.by_problem == (1.0, None, 1.0, 1.0)
    asker = ScriptedAsker(script=half_right)
    (run,) = evaluate(tmp_path, asker, manifest).conditions
    assert run.num_failed == 0 and run.by_problem == (1.0, 1.0, 1.0, 1.0)
    assert [ask.problem.id for ask in asker.asks] == ["p2", "p2"]


def test_a_condition_all_of_whose_runs_failed_is_named_and_hides_no_other(tmp_path: Path) -> None:
    def fails(ask: Ask, sample: int) -> Reply:
        return failure() if len(ask.messages) > 4 else half_right(ask, sample)

    result = evaluate(tmp_path, fails, manifest_of(samples=2, configurations=[[4], [8]]))
    assert [run.condition.key for run in result.conditions] == ["K=4"]
    assert {condition.key: num for condition, num in result.failed_conditions.items()} == {"K=8": 8}
    assert (result.num_failed_runs, result.num_missing_runs) == (8, 0)
    with pytest.raises(ValueError, match=r"every run of .*K=\[8\] failed .*; run `pacore-rl evaluate` again"):
        evaluate(tmp_path / "alone", fails, manifest_of(samples=2, configurations=[[8]]))


def test_baselines_that_failed_or_are_not_made_yet_are_counted(tmp_path: Path) -> None:
    """8 runs each of K = [8] and of the aggregation; the latter loses two to a failure, or is stopped."""

    def fails(ask: Ask, sample: int) -> Reply:
        return failure() if len(ask.messages) == 2 and ask.problem.id == "p2" else half_right(ask, sample)

    manifest = manifest_of(samples=2, configurations=[[8]], baselines=["aggregation"])
    result = evaluate(tmp_path, fails, manifest)
    assert (result.num_failed_runs, result.num_missing_runs) == (2, 0)
    path = tmp_path / "answers" / "mine.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 16
    for num_kept, num_missing in ((11, 5), (8, 8), (3, 13)):  # within the baseline, before it, within K = [8]
        path.write_text("".join(lines[:num_kept]))
        (result,) = summarise(BenchmarkFolder(tmp_path))
        assert result.num_missing_runs == num_missing
    path.unlink()
    (result,) = summarise(BenchmarkFolder(tmp_path))
    assert (result.conditions, result.num_missing_runs) == ((), 8), "what the baselines may cost is not known yet"


def failure() -> Reply:
    return Reply(text="", finish="failed", generated_tokens=0, error="the connection broke")


def crash() -> Reply:
    """The scorer's sandbox breaks on it."""
    return says("crash", 1)


@pytest.mark.parametrize("spoilt", [failure, crash])
def test_messages_that_failed_are_not_drawn_and_cost_nothing(tmp_path: Path, spoilt: Callable[[], Reply]) -> None:
    """Half a pool fails and is topped up: votes, first rounds and lengths are those of the eight that did not."""

    def half_fails(ask: Ask, sample: int) -> Reply:
        return spoilt() if not ask.messages and sample % 2 else half_right(ask, sample)

    asker = ScriptedAsker(script=half_right)
    manifest = manifest_of(samples=4, configurations=[[4]], baselines=["sequential", "aggregation"])
    with pytest.raises(Killed):
        evaluate(tmp_path, dies_at_synthesis(half_fails), manifest)
    result = evaluate(tmp_path, asker, manifest)
    assert (result.num_failed_solo, result.pool_size) == (4 * len(PROBLEMS), 8)
    assert result.solo_tokens.mean == 10
    (four,) = result.conditions
    assert four.ttc_tokens.mean == 4 * 10 + 7
    assert four.equal_ttc is not None and four.equal_ttc.num_trajectories == 5  # 47 tokens of 10 each
    kept = [ask.messages for ask in asker.asks if ask.messages and len(ask.messages) > 2]
    assert len(kept) == 4 * len(PROBLEMS) and all(len(messages) == 4 for messages in kept)
    assert not any("[crash]" in message for ask in asker.asks for message in ask.messages)


@pytest.mark.parametrize("at", ["a round between", "the closing round"])
def test_a_run_of_which_a_call_failed_is_left_out_of_every_mean_and_made_again(tmp_path: Path, at: str) -> None:
    """Of [4, 2] on problem 2: one of the two calls that read four messages, or the closing one, which reads them."""

    def fails(ask: Ask, sample: int) -> Reply:
        is_between = ask.num_samples == 2
        if ask.messages and ask.problem.id == "p2" and is_between == (at == "a round between") and sample == 0:
            return failure()
        return half_right(ask, sample)

    manifest = manifest_of(samples=1, configurations=[[4, 2]], baselines=["sequential"])
    for problem in ("p2", None):
        asker = ScriptedAsker(script=fails if problem else half_right)
        (run,) = evaluate(tmp_path, asker, manifest).conditions
        assert run.num_failed == (1 if problem else 0)
        assert [value is None for value in run.by_problem] == [id == problem for id in ("p1", "p2", "p3", "p4")]
        assert run.ttc_tokens.mean == 4 * 10 + 2 * 7 + 7, "of whole runs only"
        assert run.accuracy.num_problems == 4 - run.num_failed
    again = [ask for ask in asker.asks if ask.num_samples == 2]  # pyright: ignore[reportPossiblyUnboundVariable]
    assert [ask.problem.id for ask in again] == ["p2"]


def test_an_aggregation_of_which_a_call_failed_is_left_out_and_made_again(tmp_path: Path) -> None:
    """One of the four calls of the second of three waves."""
    num_failed = 0

    def fails(ask: Ask, sample: int) -> Reply:
        nonlocal num_failed
        if len(ask.messages) == 2 and ask.problem.id == "p2" and not num_failed:
            num_failed = 1
            return failure()
        return half_right(ask, sample)

    manifest = manifest_of(samples=1, configurations=[[8]], baselines=["aggregation"])
    for expected in (1, 0):
        (run,) = evaluate(tmp_path, fails, manifest).conditions
        assert run.equal_ttc is not None
        (aggregation,) = run.equal_ttc.others
        assert aggregation.num_failed == expected
        assert (aggregation.by_problem[1] is None) == bool(expected)
        assert aggregation.ttc_tokens.mean == 4 * 10 + 2 * 4 * 7


def test_a_record_of_an_earlier_release_tells_no_failed_calls_and_counts(tmp_path: Path) -> None:
    first = evaluate(tmp_path, half_right)
    path = tmp_path / "answers" / "mine.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for cost in record["rounds"]:
            assert cost.pop("num_failed") == 0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert summarise(BenchmarkFolder(tmp_path)) == (first,)


def test_a_pool_is_completed_not_repeated(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right, manifest_of(pool_size=8))
    asker = ScriptedAsker(script=half_right)
    evaluate(tmp_path, asker, manifest_of(pool_size=40))
    assert sum(ask.num_samples for ask in asker.asks) == 32 * len(PROBLEMS)
    assert len(MessagePool.open(tmp_path / "pools" / "mine.jsonl").messages("p1")) == 40


def test_without_compaction_whole_trajectories_are_shown(tmp_path: Path) -> None:
    asker = ScriptedAsker(script=half_right)
    result = evaluate(tmp_path, asker, manifest_of(samples=1, configurations=[], uncompacted=[[2]]))
    (run,) = result.conditions
    assert run.condition.label == "K=[2], no compaction"
    assert [ask.messages[0][:8] for ask in asker.asks if ask.messages] == ["</think>"] * len(PROBLEMS)
    assert run.ttc_tokens.mean == 2 * 10 + 7


def test_other_problems_under_the_same_ids_are_refused_and_nothing_changed(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    corrected = [dataclasses.replace(PROBLEMS[0], ground_truth="another"), *PROBLEMS[1:]]
    with pytest.raises(ValueError, match=rf"answer or reward of '{PROBLEMS[0].id}' is not what it was\); nothing"):
        evaluate(tmp_path, half_right, manifest_of(corrected), problems=corrected)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_of_before_problems_were_noted_opens_and_notes_them(tmp_path: Path) -> None:
    first = evaluate(tmp_path, half_right)
    path = tmp_path / "benchmarks.json"
    fields = json.loads(path.read_text())
    noted = fields["sets"]["mine"].pop("fingerprints")
    path.write_text(json.dumps(fields))
    again = ScriptedAsker(script=half_right)
    assert evaluate(tmp_path, again) == first and again.asks == []
    assert json.loads(path.read_text())["sets"]["mine"]["fingerprints"] == noted
    assert noted.keys() == {problem.id for problem in PROBLEMS}


def test_another_model_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right)
    before = (tmp_path / "benchmarks.json").read_bytes()
    with pytest.raises(ValueError, match="model: 'scripted' there, 'other' now"):
        evaluate(tmp_path, half_right, dataclasses.replace(manifest_of(), model="other"))
    assert (tmp_path / "benchmarks.json").read_bytes() == before


def test_a_pool_of_other_problems_is_refused(tmp_path: Path) -> None:
    """Also in a fresh folder, where no manifest says what the pool's messages were scored against."""
    evaluate(tmp_path / "first", half_right)
    (tmp_path / "second" / "pools").mkdir(parents=True)
    shutil.copy(tmp_path / "first" / "pools" / "mine.jsonl", tmp_path / "second" / "pools" / "mine.jsonl")
    corrected = [dataclasses.replace(PROBLEMS[0], ground_truth="another"), *PROBLEMS[1:]]
    with pytest.raises(ValueError, match=rf"messages of 1 problems in .*first: {PROBLEMS[0].id}"):
        evaluate(tmp_path / "second", half_right, problems=corrected)


def test_what_an_earlier_call_ran_stays_in_the_results(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right, manifest_of(configurations=[[4]]))
    result = evaluate(tmp_path, half_right, manifest_of(configurations=[[8]]))
    assert [run.condition.key for run in result.conditions] == ["K=8", "K=4"]


def test_runs_that_are_not_made_yet_are_counted(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right, manifest_of(samples=2))
    path = tmp_path / "answers" / "mine.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    (result,) = summarise(BenchmarkFolder(tmp_path))
    assert result.conditions[0].num_missing == 2 * len(PROBLEMS) - 3


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    evaluate(tmp_path, half_right)
    path = tmp_path / "answers" / "mine.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({"schema_version": 1, "problem_id": "p1"})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="line 3 is not a record of an answer"):
        summarise(BenchmarkFolder(tmp_path))
