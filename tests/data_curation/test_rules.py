"""Quality rules: what each drops and what it must leave, and their quality on problems labelled by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from candidates import candidate

from data_curation.requests import questions, squeezed
from data_curation.rule_quality import measure_rules
from data_curation.rules import ALL_RULES, RULES, ParsedAnswers, TextRules
from pacore_rl.config import RewardConfig
from pacore_rl.config_curation import RulesConfig

DATA = Path(os.environ.get("PACORE_DATA", Path(__file__).parents[3] / "shared" / "data"))
DROPPED = [
    ("empty", "$ $", "7"),
    ("length", "Find $x$.", "7"),
    ("image_or_link", "What is the area? ![](https://example.org/a.png)", "7"),
    ("image_or_link", "The [function](https://example.org/wiki/f) $f$ is even. Find $f(0)$.", "7"),
    ("image_or_link", "In the diagram, what is the value of $y$?", "7"),
    ("image_or_link", "The line divides the shaded region in half. Find its area.", "7"),
    ("image_or_link", "如图，求三角形 $ABC$ 的面积。", "7"),
    ("multi_part", "Let $f(x)=x^2$. (a) Find $f(2)$. (b) Determine all $x$ with $f(x)=9$.", "9"),
    ("multi_part", "1) How many raccoons are there at first?\n2) After how many years are there 100?", "6"),
    ("multi_part", "(1) 求 $a$ 的值； (2) 求最大值。", "6"),
    ("open_ended", "Prove that $n^2 + n$ is even for every integer $n$.", "n^2+n"),
    ("open_ended", "If $|z|=1$, show that $z^{-1}$ is the conjugate of $z$.", "1"),
    ("open_ended", "Provide an example of a group that is not abelian.", "Q_8"),
    ("several_answers", "How many problems did Andrea solve? How many answers to this question are there?", "5"),
    ("open_ended", "What is the number $a$? How did the participant determine it?", "7"),
    ("several_answers", "Who will arrive first? How long after will the other arrive?", "20"),
    ("no_request", "Suppose that $\\ell(n)$ has the letters of $n$ in English, for example $\\ell(11)=6$.", "14"),
    ("cut_off", "Find the smallest positive integer $x$ such that", "12"),
    ("states_answer", "Find the sum of the digits of $2^{63}$. Answer: 959.", "959"),
    ("prose_answer", "Find all $n$ for which the number is an integer.", "All positive integers"),
    ("prose_answer", "Find all $n$ for which such polynomials exist.", "odd $n$"),
    ("prose_answer", "What is the probability of exactly one more soup?", "C(4030,2016)/2^{4030}"),
]
KEPT = [
    ("Given the sequences (a) $(0,1,2)$, (b) $(2,2,1)$, (c) $(3,3,3)$, how many belong to a graph?", "2"),
    ("A function satisfies (i) $f(1)=1$, (ii) $f(n+1)=2f(n)$. Find $f(10)$.", "512"),
    ("Find, with proof, the smallest constant $c$ such that $f(x) \\le cx$.", "2"),
    ("Find the number of girls. Don't forget to justify your answer.", "12"),
    ("Find all real numbers $k$ for which there is exactly one root.", "-9/4, 9/4"),
    ("Enter the ordered pair $(a,c)$ for which this holds.", "(6,2)"),
    ("Six people sit for a group picture. In how many ways can they be seated?", "720"),
    ('He asked: "Who broke it?" All said: "Who knows?" Who broke the mirror?', "Walter"),
    ("What is $x$ in degrees? If the answer is $x^\\circ$, what is the value of $x$?", "30"),
    ("Then the sum of the squares of these two roots is $\\qquad$", "3"),
    ("Compute $42!/40!$ without a calculator.", "1,722"),
    ("How many dollars are left?", "\\text{12 dollars}"),
    ("Let $\\mathcal{D}$ be the diagram. Does the limit of the diagram $D$ exist?", "Yes"),
]


def dropped_by(statement: str, answer: str) -> str | None:
    drop = TextRules(config=RulesConfig()).first_drop(candidate(statement, answer))
    return None if drop is None else drop.step


@pytest.mark.parametrize(("rule", "statement", "answer"), DROPPED)
def test_a_rule_drops(rule: str, statement: str, answer: str) -> None:
    assert dropped_by(statement, answer) == rule


@pytest.mark.parametrize(("statement", "answer"), KEPT)
def test_no_rule_drops(statement: str, answer: str) -> None:
    assert dropped_by(statement, answer) is None


def test_every_rule_has_an_example_here() -> None:
    assert {rule for rule, _, _ in DROPPED} == set(RULES)


def test_a_rule_can_be_switched_off_and_an_unknown_one_is_refused() -> None:
    proof = candidate("Prove that $n^2 + n$ is even for every integer $n$.", "0")
    assert TextRules(config=RulesConfig(off=("open_ended",)))([proof]).kept == (proof,)
    with pytest.raises(ValueError, match=r"proofs.*no rule.*open_ended"):
        TextRules(config=RulesConfig(off=("proofs",)))


@pytest.mark.parametrize(("filling", "short"), [("\n" * 19_000, "\n"), (" " * 19_000, " "), (" \n" * 9_000, "\n")])
def test_long_whitespace_changes_no_verdict(filling: str, short: str) -> None:
    """Read as it is, each rule would take minutes: their patterns try every way to share it out."""
    for name, (rule, _) in RULES.items():
        verdicts = [
            rule(candidate(f"Let x be the number that is{between}Find x.", f"1{between}2"), RulesConfig())
            for between in (filling, short)
        ]
        assert name in ("empty", "length") or verdicts[0] == verdicts[1], name


def test_whitespace_and_brackets_do_not_change_what_is_asked() -> None:
    text = "A (who?) said (so) \n\n  that. What is $x$?\n \nHow many\n are there？ Why"
    assert questions(squeezed(text)) == questions(text) == ("What is x ?", "are there？")
    assert questions("Who is it? She asked (who?). How many\tare there？") == ("Who is it?", "How many are there？")
    assert squeezed(" a \n\n b\t c ") == " a\nb c "


def test_rules_for_maths_leave_coding_problems_alone() -> None:
    code = candidate("Print the sum of the numbers. (a) Read them. Find n. (b) Find the sum.", "[]", reward="code")
    assert TextRules(config=RulesConfig())([code]).kept == (code,)


def test_a_drop_says_where_why_and_of_what() -> None:
    sifted = TextRules(config=RulesConfig())([candidate("In the diagram, what is $y$?", id="s/1")])
    (drop,) = sifted.drops
    assert (drop.id, drop.source, drop.step) == ("s/1", "s", "image_or_link")
    assert "In the diagram" in drop.reason and drop.excerpt == "In the diagram, what is $y$?"


def test_answers_that_their_reward_does_not_read_back_are_dropped() -> None:
    fine = candidate("Find $x$ with $2x = 1$.", "\\frac{1}{2}", id="s/1")
    bad = candidate("Find $x$ with $2x = 1$.", "\\frac{1}{2", id="s/2")
    sifted = ParsedAnswers(reward=RewardConfig(num_workers=1))([fine, bad])
    assert sifted.kept == (fine,)
    assert [drop.id for drop in sifted.drops] == ["s/2"] and sifted.drops[0].step == "unparsed_answer"
    assert "unparsed_answer" in ALL_RULES


@pytest.mark.skipif(not (DATA / "math_train").is_dir(), reason="the labelled problem files are not here")
def test_rules_decide_as_a_reader_does() -> None:
    dev, held_out = measure_rules(DATA, RulesConfig())
    assert (dev.split, held_out.split) == ("dev", "held_out")
    assert dev.num + held_out.num == 200
    for quality in (dev, held_out):
        assert quality.precision >= 0.9 and quality.recall >= 0.9, quality.wrong
