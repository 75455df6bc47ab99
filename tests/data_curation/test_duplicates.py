"""Duplicates: exact after normalisation, near ones by MinHash, contradictions."""

from __future__ import annotations

import pytest
from candidates import candidate

from data_curation.duplicates import ExactDuplicates, NearDuplicates
from data_curation.records import Candidate, Sifted

LONG = (
    "In a volleyball tournament there were nine more teams from Europe than from Africa, each pair of teams played "
    "exactly once, and the Europeans won nine times as many matches as the Africans. What is the maximum number of "
    "matches that a single African team might have won?"
)


def exact(candidates: list[Candidate]) -> Sifted:
    duplicates = ExactDuplicates()
    duplicates.survey(candidates)
    return duplicates(candidates)


def test_the_first_of_equal_statements_stays() -> None:
    first = candidate("Find $x$ with $x + 3 = 10$.", id="a")
    copy = candidate("find  \\(x\\) with \\(x+3=10\\)", id="b")
    other = candidate("Find $x$ with $x - 3 = 10$.", "13", id="c")
    sifted = exact([first, copy, other])
    assert sifted.kept == (first, other)
    assert [(drop.id, drop.step, drop.reason) for drop in sifted.drops] == [("b", "exact_duplicate", "the same as a")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute $(2+3) \\times 4$.", "Compute $2+(3 \\times 4)$."),
        ("How many integers have x ≤ 3?", "How many integers have x ≥ 3?"),
        ("Find α + 2β for 5.", "Find β + 2α for 5."),
        ("Найдите сумму 3 и 5.", "Найдите произведение 3 и 5."),
        ("ผลรวมของจำนวนคี่ 3", "ผลรวมของจำนวนคู่ 3"),
        ("Find ⌊2.5⌋.", "Find ⌈2.5⌉."),
        ("Find f'(2) of f.", "Find f(2) of f."),
        ("3과 5의 합을 구하시오.", "3과 5의 곱을 구하시오."),
    ],
    ids=["brackets", "signs", "Greek", "Russian", "Thai", "floor", "prime", "Korean"],
)
def test_statements_that_differ_in_brackets_signs_or_any_script_are_two(one: str, other: str) -> None:
    """Taken for copies, they would contradict each other, and both be dropped."""
    assert len(exact([candidate(one, "1", id="a"), candidate(other, "2", id="b")]).kept) == 2
    assert len(exact([candidate(one, "1", id="a"), candidate(one.upper(), "1", id="b")]).kept) == 1


def test_copies_with_different_numbers_as_answers_are_all_dropped() -> None:
    sifted = exact([candidate("Find $x$.", "1/2", id="a"), candidate("Find $x$.", "3", id="b")])
    assert not sifted.kept and {drop.step for drop in sifted.drops} == {"conflicting_answers"}


def test_two_ways_to_write_one_answer_are_no_contradiction() -> None:
    sifted = exact([candidate("Find $x$.", "\\frac{1}{2}", id="a"), candidate("Find $x$.", "0.5", id="b")])
    assert [kept.id for kept in sifted.kept] == ["a"]


def test_the_answer_does_not_depend_on_the_batches() -> None:
    candidates = [candidate(f"Find the number {i % 3} of this.", id=str(i)) for i in range(9)]
    duplicates = ExactDuplicates()
    duplicates.survey(candidates)
    kept = [one for i in range(0, 9, 2) for one in duplicates(candidates[i : i + 2]).kept]
    assert tuple(kept) == exact(candidates).kept


def test_a_reworded_copy_is_near_and_other_numbers_are_another_problem() -> None:
    reworded = LONG.replace("the Europeans won", "the European teams won").replace("What is", "Find")
    sifted = NearDuplicates(similarity=0.7)(
        [
            candidate(LONG, id="a"),
            candidate(reworded, id="b"),
            candidate(LONG.replace("a volleyball", "a 5 volleyball"), id="c"),
            candidate(
                "What is the largest number of matches that one team can win against all the others here?", id="d"
            ),
        ]
    )
    assert [kept.id for kept in sifted.kept] == ["a", "c", "d"]
    (drop,) = sifted.drops
    assert (drop.id, drop.step) == ("b", "near_duplicate") and drop.reason.endswith("similar to a")


def test_similarity_one_looks_for_none() -> None:
    twins = (candidate(LONG, id="a"), candidate(LONG, id="b"))
    assert NearDuplicates(similarity=1.0)(twins).kept == twins
