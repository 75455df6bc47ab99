"""The rounds by themselves: nothing is generated here."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pacore_rl.synthesis.draws import answered
from pacore_rl.synthesis.plan import Call, Reply, RoundsPlan, Stragglers
from pacore_rl.synthesis.rounds import ProblemRounds
from pacore_rl.types import Finish


def reply(text: str, finish: Finish = "stopped") -> Reply:
    return Reply(text=text, finish=finish, generated_tokens=len(text))


def letters(messages: Sequence[str]) -> int:
    return sum(map(len, messages))


def next_call(rounds: ProblemRounds, room: int | None = None) -> Call:
    return answered(rounds.next_call(room_tokens=room), letters)


def closing(final: Reply) -> ProblemRounds:
    rounds = ProblemRounds("p", RoundsPlan.of(()))
    next_call(rounds)
    rounds.receive([final])
    return rounds


@pytest.mark.parametrize(
    ("final", "outcome", "text"),
    [
        (reply("a</think> 4 "), "answered", "4"),
        (reply("never closes"), "unclosed", None),
        (reply("a</think>  "), "unclosed", None),
        (reply("a</think>half", "truncated"), "truncated", "half"),
        (reply("never closes", "truncated"), "truncated", None),
        (reply("", "empty"), "empty", None),
        (reply("", "overflow"), "overflow", None),
        (reply("", "failed"), "failed", None),
        (reply("a</think>ha", "unfinished"), "unfinished", "ha"),
    ],
)
def test_how_the_closing_round_ends_is_typed_and_never_an_empty_text(
    final: Reply, outcome: str, text: str | None
) -> None:
    (answer,) = closing(final).answers
    assert (answer.outcome, answer.text) == (outcome, text)
    assert answer.reply is final


def test_each_round_has_its_own_compaction() -> None:
    plan = RoundsPlan.of((1, 1), compaction=("none", "after_reasoning", "after_reasoning"))
    rounds = ProblemRounds("p", plan)
    next_call(rounds)
    rounds.receive([reply("one</think>1")])
    assert next_call(rounds).messages == ("one</think>1",)
    rounds.receive([reply("two</think>2")])
    assert next_call(rounds).messages == ("2",)


def test_messages_that_do_not_fit_are_dropped_whole_and_counted() -> None:
    rounds = ProblemRounds("p", RoundsPlan.of((4,), seed=3))
    next_call(rounds)
    rounds.receive([reply(f"</think>{letter * 10}") for letter in "abc"] + [reply("", "failed")])
    call = next_call(rounds, room=25)
    assert len(call.messages) == 2 and set(call.messages) < {"a" * 10, "b" * 10, "c" * 10}
    assert (call.num_dropped, rounds.num_dropped) == (2, 2)


def test_where_no_message_fits_the_problem_is_asked_plainly() -> None:
    rounds = ProblemRounds("p", RoundsPlan.of((2,)))
    next_call(rounds)
    rounds.receive([reply("</think>" + "a" * 10)] * 2)
    call = next_call(rounds, room=5)
    assert (call.messages, call.num_dropped, call.is_final) == ((), 2, True)


def test_the_order_is_fresh_for_every_problem_and_round_and_fixed_by_the_seed() -> None:
    def order(problem_id: str, seed: int) -> tuple[str, ...]:
        rounds = ProblemRounds(problem_id, RoundsPlan.of((8,), seed=seed))
        next_call(rounds)
        rounds.receive([reply(f"</think>{i}") for i in range(8)])
        return next_call(rounds).messages

    orders = {order(problem_id, seed) for problem_id in "abcd" for seed in range(4)}
    assert len(orders) == 16
    assert order("a", 0) == order("a", 0)


def test_a_round_cut_before_anything_ended_leaves_the_messages_of_the_round_before() -> None:
    rounds = ProblemRounds("p", RoundsPlan.of((2, 3)))
    next_call(rounds)
    rounds.receive([reply("</think>one"), reply("</think>two")])
    assert set(next_call(rounds).messages) == {"one", "two"}
    rounds.receive([reply("half a thought", "unfinished")] * 3)
    call = next_call(rounds)
    assert call.is_final and set(call.messages) == {"one", "two"}


def test_several_answers_share_the_rounds_before() -> None:
    rounds = ProblemRounds("p", RoundsPlan.of((2,), num_answers=3))
    next_call(rounds)
    rounds.receive([reply("</think>x")] * 2)
    call = next_call(rounds)
    assert (call.num_samples, call.is_final) == (3, True)
    assert len({call.sample_seed(i) for i in range(3)}) == 3
    rounds.receive([reply("</think>1"), reply("", "failed"), reply("</think>3")])
    assert [answer.text for answer in rounds.answers] == ["1", None, "3"]


def test_stragglers_are_left_only_after_the_deadline_and_with_a_quorum() -> None:
    policy = Stragglers(quorum=0.75, deadline_seconds=10)
    assert not policy.is_enough(3, 4, 9.9)
    assert policy.is_enough(3, 4, 10)
    assert not policy.is_enough(2, 4, 1_000)
    assert policy.is_enough(4, 4, 0)
    rounds = ProblemRounds("p", RoundsPlan.of((4,), stragglers=policy))
    assert next_call(rounds).stragglers is policy
    rounds.receive([reply("</think>x")] * 4)
    assert next_call(rounds).stragglers is None  # the closing round waits


@pytest.mark.parametrize("wrong", [{"quorum": 0}, {"quorum": 1.1}, {"deadline_seconds": -1}])
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Stragglers(**{"quorum": 0.5, "deadline_seconds": 1.0, **wrong})


def test_a_plan_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="empty round"):
        RoundsPlan.of((4, 0))
    with pytest.raises(ValueError, match="3 compactions were given for 2 rounds"):
        RoundsPlan.of((4,), compaction=("none", "none", "none"))
    with pytest.raises(ValueError, match="not known"):
        RoundsPlan.of((4,), compaction="last_line")
    with pytest.raises(ValueError, match="at least one"):
        RoundsPlan.of((4,), num_answers=0)


def test_rounds_may_be_skipped_to_the_closing_one() -> None:
    rounds = ProblemRounds("p", RoundsPlan.of((2, 3, 4)))
    assert rounds.num_trajectories_left == 10
    next_call(rounds)
    rounds.receive([reply("</think>x")] * 2)
    assert rounds.num_trajectories_left == 8
    rounds.skip_to_closing()
    assert rounds.num_trajectories_left == 1
    call = next_call(rounds)
    assert (call.is_final, call.round_index, call.messages) == (True, 3, ("x", "x"))
    rounds.receive([reply("</think>y")])
    assert rounds.answers[0].text == "y" and list(rounds.ledger.by_round()) == [0, 3]
