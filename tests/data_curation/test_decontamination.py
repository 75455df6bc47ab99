"""Decontamination: planted leaks are found, clean problems stay; window hashes agree with the plain definition."""

from __future__ import annotations

import random
from collections.abc import Sequence

from candidates import candidate
from hypothesis import given
from hypothesis import strategies as st

from data_curation.decontamination import Decontamination, HeldOutContests, build_index
from data_curation.normal_text import all_window_hashes, masked_words, normal_words, window_hashes
from data_curation.records import Candidate
from pacore_rl.config_curation import HeldOutContest
from pacore_rl.types import Problem
from scripts.bench.decontamination import plant


def problems(texts: Sequence[str]) -> list[Problem]:
    return [candidate(text, id=f"eval-{i}").problem for i, text in enumerate(texts)]


def test_planted_leaks_are_all_found_and_no_clean_problem_is_lost() -> None:
    rng = random.Random(1)
    vocabulary = [f"w{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(2000)]
    evaluation = [
        " ".join(str(rng.randint(1, 99)) if i % 9 == 0 else rng.choice(vocabulary) for i in range(rng.randint(80, 150)))
        for _ in range(200)
    ]
    leaks, clean = plant(rng, vocabulary, evaluation, 64)
    assert (len(leaks), len(clean)) == (300, 1000)
    found = build_index(problems(evaluation)).find(leaks + clean)
    assert all(found[:300])
    assert not any(found[300:])


def test_a_leak_names_the_evaluation_problem() -> None:
    text = "A box holds 3 red balls and 4 blue balls. How many ways are there to draw two of the same colour?"
    filter = Decontamination(index=build_index(problems(["Another problem altogether, about circles.", text])))
    sifted = filter([candidate(text.replace("3", "17").replace("4", "20"), id="a"), candidate("Find $x$.", id="b")])
    assert [kept.id for kept in sifted.kept] == ["b"]
    assert sifted.drops[0].reason == "the same as eval-1, numbers aside"


def test_short_statements_must_have_the_same_numbers_too() -> None:
    index = build_index(problems(["Compute $17 + 25$."]))
    assert index.find(["Compute 17+25", "Compute $18 + 25$."]) == ["the same as eval-0, numbers aside", None]


def test_an_index_of_nothing_finds_nothing() -> None:
    assert build_index([]).find(["Any text of a problem"]) == [None]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "7"]), max_size=9), max_size=5), st.integers(1, 4))
def test_window_hashes_are_equal_for_equal_windows_only(texts: list[list[str]], size: int) -> None:
    hashes, counts = all_window_hashes(texts, size)
    windows = [tuple(words[i : i + size]) for words in texts for i in range(len(words) - size + 1)]
    assert counts.tolist() == [max(len(words) - size + 1, 0) for words in texts]
    assert len(hashes) == len(windows)
    assert len(set(zip(hashes.tolist(), windows, strict=True))) == len(set(windows)) == len(set(hashes.tolist()))


def test_window_hashes_do_not_depend_on_what_stands_around() -> None:
    words = normal_words("one two three four five six")
    assert window_hashes(words, 3)[2] == window_hashes(words[2:5], 3)[0]


def test_words_are_compared_without_the_signs_around_them() -> None:
    assert normal_words("Let $x^2 = 1{,}5$; “find” \\(x\\).") == ["let", "x", "2", "1", "5", "find", "x"]
    assert normal_words("求 x+1 的值") == ["求", "x", "1", "的", "值"]
    assert normal_words("a−b", signs=True) == ["a", "-", "b"]
    assert masked_words(["a", "3", "5", "b", "4"]) == ["a", "#", "b", "#"]


def test_contests_are_held_out_by_name_and_year() -> None:
    def of(contest: str, year: int | None, id: str) -> Candidate:
        given = candidate("Find $x$.", id=id)
        return Candidate(problem=given.problem, contest=contest, year=year)

    filter = HeldOutContests(
        contests=(HeldOutContest(name="AIME", years=(2024, 2025)), HeldOutContest(name="HMMT Feb"))
    )
    sifted = filter(
        [
            of("AIME", 2024, "a"),
            of("AIME", 2019, "b"),
            of("", None, "aime_2025/1"),
            of("", None, "hmmt_feb_2019/3"),
            of("", None, "claimed/2024"),
        ]
    )
    assert [kept.id for kept in sifted.kept] == ["b", "claimed/2024"]
    assert [drop.reason for drop in sifted.drops] == [
        "AIME 2024 is held out",
        "AIME 2025 is held out",
        "HMMT Feb is held out",
    ]
