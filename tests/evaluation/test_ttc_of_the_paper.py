"""The paper's test-time compute (table 1): two published rows give the lengths, the ledger must give the rows back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_fakes import evaluate, manifest_of
from evaluation_fakes import problem_of

from pacore_rl.evaluation.asking import Ask
from pacore_rl.synthesis.levels import LEVELS
from pacore_rl.synthesis.plan import Reply

PUBLISHED = {  # thousands of tokens of PaCoRe-8B at low, medium and high
    "AIME 2025": (255, 908, 1873),
    "HMMT Feb 2025": (243, 869, 1796),
    "IMO-AnswerBench": (306, 1080, 2258),
    "Apex": (362, 1280, 2679),
    "LiveCodeBench": (188, 659, 1391),
    "HLE (text)": (196, 694, 1451),
    "MultiChallenge": (13, 45, 95),
}
PROBLEM = problem_of(1)


def lengths(low: float, medium: float) -> tuple[int, int]:
    """a and f in tokens from TTC([4]) = 4 a + f and TTC([16]) = 16 a + f, both in thousands."""
    a = round(1000 * (medium - low) / 12)
    return a, round(1000 * low) - 4 * a


@pytest.mark.parametrize("benchmark", PUBLISHED)
def test_a_model_with_the_papers_lengths_costs_what_table_1_says(benchmark: str, tmp_path: Path) -> None:
    low, medium, high = PUBLISHED[benchmark]
    a, f = lengths(low, medium)
    assert a > f > 0  # reading messages is shorter than starting from nothing

    def script(ask: Ask, sample: int) -> Reply:
        return Reply(text="</think>[right1]", finish="stopped", generated_tokens=f if ask.messages else a)

    manifest = manifest_of([PROBLEM], samples=1, configurations=[*LEVELS.values()], pool_size=32)
    result = evaluate(tmp_path, script, manifest, problems=[PROBLEM])
    assert result.solo_tokens.mean == a
    costs = {run.condition.configuration: run.ttc_tokens.mean for run in result.conditions}
    # One round: TTC([K]) = a K + f exactly, which is the published row but for the rounding of a to a whole token.
    assert costs[4,] == 4 * a + f == 1000 * low
    assert costs[16,] == 16 * a + f == pytest.approx(1000 * medium, abs=6)
    # Two rounds: 32 a + 4 f + f, if whoever reads 32 messages or 4 writes as much as who reads 4 or 16. The published
    # row, which had no part in a and f, is 1.4% to 2.9% below that on every benchmark: they write a little less.
    assert costs[32, 4] == 32 * a + 5 * f
    assert 1.013 < costs[32, 4] / (1000 * high) < 1.030


def test_the_ledger_is_linear_in_k_on_uneven_lengths(tmp_path: Path) -> None:
    """With lengths that differ by sample and problem, a and f are means: the whole pool is drawn, so exactly."""
    problems = [problem_of(1), problem_of(2)]

    def script(ask: Ask, sample: int) -> Reply:
        index = int(ask.problem.id[1:])
        tokens = 17 * index if ask.messages else 100 * index + sample
        return Reply(text="</think>[wrong]", finish="stopped", generated_tokens=tokens, prompt_tokens=9_999)

    manifest = manifest_of(problems, samples=3, configurations=[[8]], pool_size=8)
    result = evaluate(tmp_path, script, manifest, problems=problems)
    a, f = (103.5 + 203.5) / 2, (17 + 34) / 2
    assert result.solo_tokens.mean == a
    assert result.conditions[0].ttc_tokens.mean == 8 * a + f  # prompts are not charged


def test_what_a_retried_call_wasted_is_kept_apart(tmp_path: Path) -> None:
    def script(ask: Ask, sample: int) -> Reply:
        reply = Reply(text="</think>[wrong]", finish="stopped", generated_tokens=10)
        return replace(reply, wasted_tokens=500) if ask.messages else reply

    manifest = manifest_of([PROBLEM], samples=1, configurations=[[4]])
    result = evaluate(tmp_path, script, manifest, problems=[PROBLEM])
    assert result.conditions[0].ttc_tokens.mean == 4 * 10 + 10
