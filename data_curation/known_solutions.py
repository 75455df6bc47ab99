"""Known programs of coding problems, as the data sets write them.

ours, Kattis   solutions: [{lang, verdict, code}]
CodeContests   solutions, incorrect_solutions: {language: [1, 3, ...], solution: [text, ...]}
APPS, TACO     solutions: JSON of a list of Python texts, all of them right
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_curation.records import Solution

RIGHT = "accepted"
_CODE_CONTESTS_LANGUAGES = ("unknown", "python2", "cpp", "python3", "java")
"""deepmind/code_contests: the enumeration in its card."""


def solutions_of_record(record: Mapping[str, Any]) -> tuple[Solution, ...]:
    """Every program of the record, in its order, without repeats; () where there is none that can be read."""
    found: dict[Solution, None] = {}
    for key, label in (("solutions", RIGHT), ("incorrect_solutions", "wrong_answer")):
        for solution in _solutions(record.get(key), label):
            found.setdefault(solution)
    return tuple(found)


def _solutions(given: Any, label: str) -> Iterator[Solution]:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError:
            given = [given]
    if isinstance(given, Mapping):
        languages, programs = given.get("language") or [], given.get("solution") or []
        for language, code in zip(languages, programs, strict=False):
            known = isinstance(language, int) and 0 <= language < len(_CODE_CONTESTS_LANGUAGES)
            yield _solution(_CODE_CONTESTS_LANGUAGES[language] if known else str(language), code, label)
    elif isinstance(given, Sequence):
        for one in given:
            if isinstance(one, str) and one.strip():
                yield _solution("python3", one, label)
            elif isinstance(one, Mapping) and isinstance(one.get("code"), str):
                verdict = str(one.get("verdict") or label)
                yield _solution(str(one.get("lang") or one.get("language") or "python3"), one["code"], verdict)


def _solution(language: str, code: str, label: str) -> Solution:
    return Solution(language=language, code=code, is_right=label == RIGHT, label=label)
