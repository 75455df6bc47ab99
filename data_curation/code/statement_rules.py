"""Rules on the statements of coding problems. Each takes a statement and its tests and gives a reason, or None."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pacore_rl.rewards.code.suite import TestSuite

MIN_CHARACTERS = 40
MAX_CHARACTERS = 20_000

_IMAGE = re.compile(r"<image>|!\[[^\]]*\]\(|\\includegraphics|<img\b", re.IGNORECASE)
_EXAMPLES = re.compile(r"^\W{0,4}(?:sample|example|note)s?\b", re.IGNORECASE | re.MULTILINE)
"""Where a statement has said all, and only shows."""
_INTERACTIVE = re.compile(
    r"\binteractive (?:problem|task)\b|\bflush(?:ing)? (?:the )?(?:standard )?output", re.IGNORECASE
)
_SEVERAL_ANSWERS = re.compile(
    r"(?:print|output|report|find|return|you may|you can)[^.\n]{0,60}"
    r"\bany (?:one )?(?:of them|such|valid|possible|order)"
    r"|if there (?:are|is) (?:multiple|several|more than one|many)[^.\n]{0,80}\b(?:any|either)\b"
    r"|\bany (?:correct|valid) (?:answer|solution|output)\b",
    re.IGNORECASE,
)
_READS = re.compile(r"\binputs?\b|\bstdin\b|\bgiven\b|\bread\b", re.IGNORECASE)
_PRINTS = re.compile(r"\boutputs?\b|\bstdout\b|\bprint|\bdisplay\b|\bwrite\b|\breport\b", re.IGNORECASE)

Rule = Callable[[str, TestSuite], str | None]


def length(statement: str, suite: TestSuite) -> str | None:
    """Too short to say anything, or longer than any contest's."""
    num = len(statement.strip())
    if num < MIN_CHARACTERS:
        return f"the statement has {num} characters, at least {MIN_CHARACTERS} are needed"
    return f"the statement has {num} characters, at most {MAX_CHARACTERS} are read" if num > MAX_CHARACTERS else None


def image(statement: str, suite: TestSuite) -> str | None:
    """An image that is not there, in what defines the task: pictures of the examples may be missing."""
    found = _IMAGE.search(_EXAMPLES.split(statement, maxsplit=1)[0])
    return f"the statement shows an image ({found[0]})" if found else None


def interactive(statement: str, suite: TestSuite) -> str | None:
    """The program would talk with a judge; ours only reads and prints."""
    found = _INTERACTIVE.search(statement)
    return f"the problem is interactive ({found[0]!r})" if found else None


def several_answers(statement: str, suite: TestSuite) -> str | None:
    """Several outputs are right, and nothing but a comparison with one of them judges."""
    if suite.kind != "stdin" or suite.checker_program is not None:
        return None
    found = _SEVERAL_ANSWERS.search(statement)
    return f"several outputs are right and there is no checker program ({found[0][:80]!r})" if found else None


def no_format(statement: str, suite: TestSuite) -> str | None:
    """It does not say what is read, or what is printed."""
    if suite.kind != "stdin":
        return None
    missing = [name for name, words in (("input", _READS), ("output", _PRINTS)) if not words.search(statement)]
    return f"the statement does not describe its {' and '.join(missing)}" if missing else None


def unnamed_function(statement: str, suite: TestSuite) -> str | None:
    """A function is called whose name the statement does not tell."""
    if suite.kind == "stdin" or re.search(rf"\b{re.escape(suite.fn_name)}\b", statement):
        return None
    return f"the statement does not name the function that its tests call ({suite.fn_name})"


RULES: Mapping[str, Rule] = {
    "code_length": length,
    "code_image": image,
    "code_interactive": interactive,
    "code_several_answers": several_answers,
    "code_no_format": no_format,
    "code_unnamed_function": unnamed_function,
}
"""By the name that the funnel counts them under, in the order in which they are asked."""


def first_reason(statement: str, suite: TestSuite) -> tuple[str, str] | None:
    """(rule, reason) of the first rule that drops the problem."""
    for name, rule in RULES.items():
        if reason := rule(statement, suite):
            return name, reason
    return None
