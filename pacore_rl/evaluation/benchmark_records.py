"""The forms that benchmarks are published in, each turned into a record that ``pacore_rl.problems`` reads.

A record that is in such a form already (a converted file) passes as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

Record = Mapping[str, Any]

LIVECODEBENCH_WINDOW = (date(2024, 8, 1), date(2025, 5, 31))
"""Contests of August 2024 to May 2025: the paper's LiveCodeBench 2408-2505."""

_IDS = ("ID", "unique_id", "problem_idx")
_PLAIN_DROPPED = ("solution", "url", "problem_type")
_HLE_KEPT = ("answer_type", "category", "raw_subject")
_LCB_DROPPED = ("question_content", "question_title", "question_id", "platform", "contest_id")


def plain(record: Record) -> Record:
    """MathArena, HuggingFaceH4, files of ours: ``problem`` and ``answer``, with an id of whatever numbers them."""
    form = {key: value for key, value in record.items() if key.lower() not in _PLAIN_DROPPED and key not in _IDS}
    for name in ("Problem", "Answer"):
        if name in form:
            form[name.lower()] = form.pop(name)
    id = next((record[key] for key in ("id", *_IDS) if record.get(key) not in (None, "")), None)
    return form if id is None else {**form, "id": str(id)}


def imo_answerbench(record: Record) -> Record:
    """google-deepmind/superhuman: ``Problem ID``, ``Problem``, ``Short Answer``, ``Category``."""
    if "Problem" not in record:
        return plain(record)
    return {
        "id": record.get("Problem ID"),
        "problem": record["Problem"],
        "answer": record.get("Short Answer"),
        "category": record.get("Category") or "",
        "subcategory": record.get("Subcategory") or "",
    }


def livecodebench(record: Record) -> Record | None:
    """livecodebench: ``question_content``, packed tests, ``contest_date``; only contests of the paper's window."""
    if "question_content" not in record:
        return record
    held = str(record.get("contest_date") or "")[:10]
    if held and not LIVECODEBENCH_WINDOW[0] <= date.fromisoformat(held) <= LIVECODEBENCH_WINDOW[1]:
        return None
    starter = str(record.get("starter_code") or "")
    question = str(record["question_content"])
    if starter:
        question += f"\n\nComplete this starter code:\n```python\n{starter}\n```"
    kept = {key: value for key, value in record.items() if key not in _LCB_DROPPED and value is not None}
    return {**kept, "contest_date": held, "id": record.get("question_id"), "problem": question}


def hle(record: Record) -> Record | None:
    """cais/hle: ``question``, ``answer``, ``image``; questions with an image are left out, as in the paper."""
    if record.get("image"):
        return None
    if "question" not in record:
        return record
    kept = {key: record[key] for key in _HLE_KEPT if record.get(key) is not None}
    return {**kept, "id": record.get("id"), "problem": record["question"], "answer": record.get("answer")}


def multichallenge(record: Record) -> Record:
    """MultiChallenge: ``CONVERSATION``, and the question that a judge answers about the model's reply.

    Copies of the set differ in the case of their columns.
    """
    columns = {key.upper(): value for key, value in record.items()}
    if "TARGET_QUESTION" not in columns:
        return record
    given: Any = columns.get("CONVERSATION") or columns.get("PROMPT") or ()
    turns = json.loads(given) if isinstance(given, str) and given.lstrip().startswith("[") else given
    rubric = {"question": columns["TARGET_QUESTION"], "expected": columns.get("PASS_CRITERIA") or "YES"}
    return {
        "id": columns.get("QUESTION_ID"),
        "conversation": turns,
        "ground_truth": json.dumps(rubric, ensure_ascii=False),
        "axis": columns.get("AXIS") or "",
    }
