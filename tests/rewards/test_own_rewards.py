"""A user's own reward function: its verdicts count, its failures are ours and never a 0."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from reward_helpers import children_of, problem, wait_until_dead

from pacore_rl.config import CustomRewardConfig, RewardConfig
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.registry import reward_of
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Verdict

DOCS = Path(__file__).parents[2] / "docs" / "rewards.md"


@pytest.fixture(scope="module")
def own() -> Iterator[LocalScorer]:
    """The functions of ``own_rewards``, which the children find as this process does: through ``sys.path``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEN", "1")
        patch.setenv("HIDDEN", "1")
        custom = CustomRewardConfig(timeout_seconds=15, memory_gib=2, environment=("SEEN",))
        scorer = LocalScorer(RewardConfig(custom=custom), "</think>")
        before = children_of(os.getpid())
        yield scorer
        templates = tuple(children_of(os.getpid()) - before)
        scorer.close()
        assert wait_until_dead(templates, 10)


def verdict_of(scorer: LocalScorer, function: str, message: str = r"It is \boxed{3.0}") -> Verdict:
    asked = replace(problem("3", f"own_rewards:{function}"), source="here", tags={"weight": 2.5})
    return scorer.score([(asked, f"thinking</think>{message}", "stopped")]).result()[0]


@pytest.mark.parametrize(
    ("function", "reward", "correct", "answer"),
    [("half", 0.5, False, "3"), ("uses_everything", 1.0, True, "17"), ("speak", 1.0, True, "3")],
)
def test_verdicts(own: LocalScorer, function: str, reward: float, correct: bool, answer: str) -> None:
    verdict = verdict_of(own, function)
    assert (verdict.reward, verdict.correct, verdict.outcome) == (reward, correct, "scored"), verdict.reason
    assert verdict.answer == answer


def test_a_megabyte_of_message(own: LocalScorer) -> None:
    message = "é" * 1_000_000 + " 3"
    assert verdict_of(own, "half", message).reward == 0.5
    assert verdict_of(own, "uses_everything", message).answer == str(len(message))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("broken", "raised KeyError: '3'"),
        ("too_much", "returned 2.0"),
        ("not_a_number", "returned nan"),
        ("text", "raised ValueError"),
        ("nothing", "raised TypeError"),
        ("crash", "died"),
        ("leave", "died"),
        ("eat", "memory_gib"),
        ("not_a_function", "int, not a function"),
        ("missing", "no attribute 'missing'"),
    ],
)
def test_failures_are_masked(own: LocalScorer, function: str, reason: str) -> None:
    verdict = verdict_of(own, function)
    assert (verdict.outcome, verdict.correct) == ("sandbox_error", False)
    assert reason in verdict.reason and f"own_rewards:{function}" in verdict.reason


def test_a_function_that_never_returns() -> None:
    scorer = LocalScorer(RewardConfig(custom=CustomRewardConfig(timeout_seconds=1.0)), "</think>")
    assert verdict_of(scorer, "half").outcome in ("scored", "sandbox_error")  # the start does not count
    started = time.monotonic()
    verdict = verdict_of(scorer, "loop")
    scorer.close()
    assert verdict.outcome == "sandbox_error" and "reward.custom.timeout_seconds=1" in verdict.reason
    assert time.monotonic() - started < 60


def test_it_sees_the_environment_it_was_given(own: LocalScorer) -> None:
    assert verdict_of(own, "environment").correct


def test_truncated_or_unclosed_reasoning_never_reaches_it(own: LocalScorer) -> None:
    asked = problem("3", "own_rewards:speak")
    verdicts = own.score([(asked, "</think>3", "truncated"), (asked, "3, I think", "stopped")]).result()
    assert [(verdict.reward, verdict.outcome) for verdict in verdicts] == [(0.0, "truncated"), (0.0, "unparsed")]


def test_a_recipe_may_name_it_for_all_problems() -> None:
    custom = CustomRewardConfig(name="own_rewards:half")
    scorer = LocalScorer(RewardConfig(custom=custom), "</think>")
    assert scorer.score([(problem("3", "math"), "</think>3", "stopped")]).result()[0].reward == 0.5
    scorer.close()
    with pytest.raises(ValueError, match="pattern"):
        CustomRewardConfig(name="half")


def test_what_cannot_be_loaded_is_said_at_load() -> None:
    good, bad = problem("3", "own_rewards:half"), problem("3", "own_rewards:missing")
    ((found, reason), (again, shorter)) = check_ground_truths([good, bad, bad])
    assert found == again == bad and "cannot be loaded" in reason and "missing" in reason
    assert "as told of the first problem" in shorter  # once, not once a problem
    ((_, reason),) = check_ground_truths([problem("3", "no_such_package.rewards:score")])
    assert "No module named 'no_such_package'" in reason
    with pytest.raises(ValueError, match="does not name a function"):
        reward_of("a b:c")


def test_the_documented_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python title=(\S+)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["short_answers.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in sys.path
    scorer = LocalScorer(RewardConfig(custom=CustomRewardConfig(name="short_answers:score")), "</think>")
    asked = problem("3")
    messages = ["It is 3.", "It is 4.", "3 " * 300]
    verdicts = scorer.score([(asked, f"</think>{message}", "stopped") for message in messages]).result()
    scorer.close()
    assert [(verdict.reward, verdict.correct) for verdict in verdicts] == [(1.0, True), (0.0, False), (0.5, False)]


def test_a_process_that_somebody_stopped_is_not_the_function_s_fault(tmp_path: Path) -> None:
    custom = CustomRewardConfig(timeout_seconds=2, memory_gib=2)
    scorer = LocalScorer(RewardConfig(custom=custom), "</think>")
    try:
        verdict = verdict_of(scorer, "stop_once", str(tmp_path / "seen"))
        assert (verdict.reward, verdict.outcome) == (1.0, "scored"), verdict.reason
        late = verdict_of(scorer, "loop")  # its own time limit is
        assert late.outcome == "sandbox_error" and "did not return within" in late.reason
    finally:
        scorer.close()
