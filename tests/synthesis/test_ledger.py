from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacore_rl.synthesis.draws import answered
from pacore_rl.synthesis.ledger import Charge, TTCLedger
from pacore_rl.synthesis.plan import Reply, RoundsPlan
from pacore_rl.synthesis.rounds import ProblemRounds


def charge(problem_id: str = "p", round_index: int = 0, generated: int = 1, **fields: int | bool) -> Charge:
    values = {"prompt_tokens": 100, "sample": 0, "finish": "stopped", **fields}
    return Charge(problem_id=problem_id, round_index=round_index, generated_tokens=generated, **values)  # type: ignore[arg-type]


def test_sums_by_round_and_problem_worked_by_hand() -> None:
    ledger = TTCLedger(
        [
            charge("a", 0, 10, cached_tokens=60),
            charge("a", 0, 20),
            charge("a", 1, 5, wasted_tokens=3),
            charge("b", 0, 7, is_estimated=True),
        ]
    )
    assert ledger.ttc_tokens == 42
    assert {index: cost.ttc_tokens for index, cost in ledger.by_round().items()} == {0: 37, 1: 5}
    assert {problem: cost.ttc_tokens for problem, cost in ledger.by_problem().items()} == {"a": 35, "b": 7}
    total = ledger.total
    assert (total.num_calls, total.prompt_tokens, total.cached_tokens) == (4, 400, 60)
    assert (total.wasted_tokens, total.num_estimated) == (3, 1)


def test_a_token_is_never_paid_back() -> None:
    with pytest.raises(ValueError, match="negative"):
        TTCLedger([charge(generated=-1)])


@given(
    configuration=st.lists(st.integers(1, 6), max_size=4).map(tuple),
    lengths=st.lists(st.integers(0, 50), min_size=5, max_size=5),
    retried=st.integers(0, 9),
)
def test_ttc_is_every_rounds_samples_times_their_length(
    configuration: tuple[int, ...], lengths: list[int], retried: int
) -> None:
    rounds = ProblemRounds("p", RoundsPlan.of(configuration))
    while not rounds.answers:
        call = answered(rounds.next_call(room_tokens=None), len)
        tokens = lengths[call.round_index]
        reply = Reply(
            text="</think>x", finish="stopped", generated_tokens=tokens, prompt_tokens=999, wasted_tokens=retried
        )
        rounds.receive([reply] * call.num_samples)
    sizes = (*configuration, 1)
    assert rounds.ledger.ttc_tokens == sum(size * length for size, length in zip(sizes, lengths, strict=False))
    assert rounds.ledger.total.num_calls == sum(sizes)
