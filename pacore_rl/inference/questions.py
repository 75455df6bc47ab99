"""Questions to be answered, one JSON object a line.

::

    {"id": "p1", "prompt": "What is 2 + 2?"}
    {"id": "p2", "messages": [{"role": "user", "content": "..."}], "ground_truth": {"answer": "4"}}

The second is the form of the paper's released script. ``problem``, ``question`` and ``conversation`` are read too, so
that problem files of this project serve as questions. A line without an id gets ``req_0`` for the first line of the
file and so on, as in that script.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.inference.conversation import Message, slot_of

_PROMPT_KEYS = ("prompt", "problem", "question")
_CONVERSATION_KEYS = ("messages", "conversation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A conversation whose latest user turn or tool observation awaits an answer."""

    id: str
    messages: tuple[Message, ...]

    @property
    def fingerprint(self) -> str:
        """Of what is asked, whatever its id: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.messages, sort_keys=True).encode()).hexdigest()[:16]


def load_questions(path: Path) -> tuple[Question, ...]:
    """Every question of a ``.jsonl`` or ``.jsonl.gz`` file, in its order.

    Raises ValueError, naming the file and the line, for a line that is no question, a question without a user turn, an
    id that comes twice, and a file without any question.
    """
    if not path.is_file():
        raise ValueError(
            f"no file of questions at {path}; check the path (a relative one starts at the working folder)."
        )
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, record in _records(path):
        question = _question(record, len(questions), f"{path}, line {number}")
        if question.id in lines:
            raise ValueError(
                f"{path}, line {number}: the id {question.id!r} was already used in line {lines[question.id]}; ids "
                "must be unique, since answers are told apart by them."
            )
        lines[question.id] = number
        questions.append(question)
    if not questions:
        raise ValueError(
            f'{path} holds no question; give at least one line such as {{"id": "p1", "prompt": "2 + 2?"}}.'
        )
    return tuple(questions)


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    try:
        # Read as bytes: only \n ends a line of JSON Lines, and text mode would also split at U+2028 and its like.
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("it is no object")
                yield number, record
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}, line {number} cannot be read ({error}); every line must be one JSON object in UTF-8."
        ) from error


def _question(record: Mapping[str, Any], index: int, where: str) -> Question:
    given = record.get("id")
    id = f"req_{index}" if given is None or given == "" else str(given)
    conversation = next((record[key] for key in _CONVERSATION_KEYS if record.get(key)), None)
    if conversation is not None:
        messages = _messages(conversation, where)
    else:
        prompt = next((record[key] for key in _PROMPT_KEYS if record.get(key)), None)
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{where}: no question; give `prompt` (a text) or `messages` (a list of turns).")
        messages = ({"role": "user", "content": prompt},)
    try:
        slot_of(messages)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Question(id=id, messages=messages)


def _messages(given: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(given, list) or not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in given
    ):
        raise ValueError(f"{where}: `messages` must be a list of objects with a `role` and a `content`.")
    return tuple(given)
