r"""The reward of mathematical answers: cheap certain rules first, then math-verify in a process that can be killed.

1. equal normal forms are right; two rational numbers are compared exactly; two words are compared as words;
2. what a computer algebra system could choke on is refused unread (``guard``);
3. the rest is a ``Question`` for a checker process (``checker_process``), which re-checks every yes of math-verify.
"""

from __future__ import annotations

import re
from fractions import Fraction

from pacore_rl.rewards import guard
from pacore_rl.rewards.base import Question, Reward, Tools, failed, right, unparsed, wrong
from pacore_rl.rewards.exact import NO_ANSWER
from pacore_rl.rewards.extract import MAX_ANSWER_CHARACTERS, last_boxed
from pacore_rl.rewards.normal import canonical, canonical_integer, normal_ground_truth, normalise, rational
from pacore_rl.types import Verdict

DECIMAL_ABSOLUTE = Fraction(1, 10**6)
DECIMAL_RELATIVE = Fraction(1, 10**5)
"""A decimal stands for a number that is not an integer when it is this close, in both senses."""
NOISE = Fraction(1, 10**9)
"""Relative error of a computation in floating point."""

_PLAIN_DECIMAL = re.compile(r"[+-]?[0-9]*\.[0-9]+")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\{\s*percent\s*\})$")
_CHOICES = re.compile(r"\(?[A-J](?:(?:[,;]| ?(?:and|\\text\{ ?and ?\}) ?)[A-J])+\)?")
_TOUCHING_CHOICES = re.compile(r"[A-J]{2,}")
_MATRIX = re.compile(r"^\\begin\{[pb]matrix\}")
_LABELLED = re.compile(r"\\(?:textbf|text|textrm|mathrm|mathbf)\{\(([A-J])\)\s*\}\s*(.+)")
_LETTER = re.compile(r"[^a-zA-Z]*(?:\\(?:textbf|text|textrm|mathrm|mathbf)\{)?\(?[A-J]\)?\}?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\{([^{}\\]*)\}")
_WORD = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]+)*|[\u4e00-\u9fff]+")
_PLAIN_WORD = re.compile(r"[A-Z]?[a-z]{2,}(?: [A-Za-z]?[a-z]*)*")
_SHORT_WORDS = frozenset({"no", "odd", "yes"})


def settle(message: str, ground_truth: str) -> Verdict | Question:
    boxed = last_boxed(message)
    answer = normalise(boxed) if boxed is not None else ""
    if not answer:
        return unparsed(NO_ANSWER)
    expected = normal_ground_truth(ground_truth)
    shown = canonical(answer)
    answer, expected = _without_labels(answer, expected)
    decided = same_by_rule(answer, expected)
    if decided is not None:
        return right(shown, "equal to the ground truth") if decided else wrong(shown, "not equal")
    if len(expected) > MAX_ANSWER_CHARACTERS:
        return wrong(shown, "not the text of the ground truth, which is too long to be computed")
    if reason := guard.refusal(answer) or guard.refusal(expected):
        return wrong(shown, f"not the text of the ground truth, and not computed: {reason}")
    return Question(reward="math", answer=answer, ground_truth=expected)


def _without_labels(answer: str, expected: str) -> tuple[str, str]:
    r"""``\textbf{(B)} 12`` may be answered by its letter or by its value; two labels must agree."""
    labelled, expected_labelled = _LABELLED.fullmatch(answer), _LABELLED.fullmatch(expected)
    if labelled and expected_labelled:
        return (
            (labelled[2], expected_labelled[2])
            if labelled[1] == expected_labelled[1]
            else (labelled[1], expected_labelled[1])
        )
    if expected_labelled:
        return answer, expected_labelled[1 if _LETTER.fullmatch(answer) else 2]
    if labelled:
        return labelled[1 if _LETTER.fullmatch(expected) else 2], expected
    return answer, expected


def same_by_rule(answer: str, expected: str) -> bool | None:
    """True or False where a rule settles it, None where algebra is needed. Both in normal form."""
    if answer == expected:
        return True
    integer, expected_integer = canonical_integer(answer), canonical_integer(expected)
    if integer is not None and expected_integer is not None:
        return integer == expected_integer
    number, expected_number = rational(answer), rational(expected)
    if number is not None and expected_number is not None:
        return _same_number(*number, *expected_number, digits=_decimal_places(answer))
    if "%" in answer or "%" in expected:
        percentage = _same_percentage(answer, expected)
        if percentage is not None:
            return percentage
    chosen = _choices(expected)
    if chosen is not None:
        return _choices(answer, may_touch=True) == chosen
    word, expected_word = _word(answer), _word(expected)
    if word is not None and expected_word is not None:
        # Algebra would read words as products of letters, and find "ab" equal to "ba".
        return _fold(word, expected_word) == _fold(expected_word, expected_word)
    for one, other in ((answer, expected), (expected, answer)):
        if rational(one) is not None and (_MATRIX.search(other) or len(_word(other) or "") > 2):
            return False  # a number is neither a matrix nor a word
    return None


def _same_number(
    value: Fraction, is_decimal: bool, expected: Fraction, expected_is_decimal: bool, *, digits: int
) -> bool:
    """Equal, or one a decimal that stands for the other: close, and no farther than its last digit explains."""
    if value == expected:
        return True
    if expected.denominator == 1 or not (is_decimal or expected_is_decimal):
        return False
    gap = abs(value - expected)
    if gap > DECIMAL_ABSOLUTE or gap > DECIMAL_RELATIVE * abs(expected):
        return False
    # 0.100001 is not 0.1 rounded or cut off; 0.30000000000000004 is a computer's 0.3.
    was_rounded = gap < Fraction(1, 10**digits)
    return was_rounded or not is_decimal or gap <= NOISE * abs(expected)


def _decimal_places(text: str) -> int:
    return len(text.partition(".")[2]) if _PLAIN_DECIMAL.fullmatch(text) else 0


def _same_percentage(answer: str, expected: str) -> bool | None:
    """Where one is a percentage, the other may be the share (0.5 for 50%) or leave the sign out (50 for 50%)."""
    number, expected_number = rational(_PERCENT.sub("", answer)), rational(_PERCENT.sub("", expected))
    if number is None or expected_number is None:
        return None
    value, wanted = number[0], expected_number[0]
    if bool(_PERCENT.search(answer)) == bool(_PERCENT.search(expected)):
        return value == wanted
    if "%" in expected:
        return value in (wanted, wanted / 100)
    # 50% where 50 was asked for names the unit; 0.25% where 0.25 was asked for is another number.
    return value / 100 == wanted or (value == wanted and wanted >= 1)


def _choices(text: str, *, may_touch: bool = False) -> frozenset[str] | None:
    """The letters of several choices (``A, C``; as an answer also ``AC``), None of anything else."""
    if _CHOICES.fullmatch(text) or (may_touch and _TOUCHING_CHOICES.fullmatch(text)):
        return frozenset(letter for letter in text if letter in "ABCDEFGHIJ")
    return None


def _word(text: str) -> str | None:
    """The text where it is a word or a phrase of letters (at least two), out of its ``\\text{}``."""
    bare = _TEXT.sub(r"\1", text).strip(" .")
    return bare if _WORD.fullmatch(bare) else None


def _fold(word: str, expected: str) -> str:
    """Letter case matters in ``AB`` or ``Aa``, not in what is written like an ordinary word."""
    ordinary = (len(expected) > 2 and _PLAIN_WORD.fullmatch(expected)) or expected.lower() in _SHORT_WORDS
    bare = word.replace(" ", "")
    return bare.casefold() if ordinary else bare


def answer(question: Question, tools: Tools) -> Verdict:
    """Ask a checker process."""
    shown = canonical(question.answer)
    reply = tools.checkers.ask(question.answer, question.ground_truth)
    match reply.outcome:
        case "equal":
            return right(shown, reply.detail, reply.seconds)
        case "different":
            return wrong(shown, reply.detail, reply.seconds)
        case "timeout":
            return Verdict(
                reward=0.0,
                correct=False,
                outcome="timeout",
                reason=reply.detail,
                answer=shown,
                seconds=reply.seconds,
            )
        case "failed":
            return failed(reply.detail, shown, reply.seconds)


def inspect_ground_truth(ground_truth: str) -> str | Question | None:
    """None where a rule shows that an answer can match, a reason where none can, else a question for a checker."""
    expected = normal_ground_truth(ground_truth)
    if not expected:
        return "the ground truth is empty"
    if len(expected) > MAX_ANSWER_CHARACTERS:
        return f"the ground truth has {len(expected)} characters; answers have at most {MAX_ANSWER_CHARACTERS}"
    boxed = last_boxed(f"\\boxed{{{expected}}}")
    if boxed is None or normalise(boxed) != expected:
        return "the ground truth, put into a box, is not read back as itself (are its braces balanced?)"
    if rational(expected) is not None or _word(expected) is not None:
        return None
    if reason := guard.refusal(expected):
        return f"only its own text can match the ground truth, because it is not computed: {reason}"
    expected = _without_labels(expected, expected)[1]
    return Question(reward="math", answer=expected, ground_truth=expected)


REWARD = Reward(settle=settle, answer=answer, inspect_ground_truth=inspect_ground_truth)
