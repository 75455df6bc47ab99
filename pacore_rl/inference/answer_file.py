"""The answers of a batch: one JSON object a line, appended as each problem ends.

::

    {"schema_version":1,"id":"p1","outcome":"answered","answer":"4","reasoning":"...","ttc_tokens":812,"rounds":[...],...}

``answer`` is null where there is none, and ``outcome`` says why (``pacore_rl.synthesis.plan.Outcome``). ``num_failed``
counts calls of any round that failed: an answer beside such calls read fewer messages than its level says. Every line
carries the settings it was made under, and a file holds one setting only.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pacore_rl.inference.answering import Answered
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.jsonl import cut_torn_line

SCHEMA_VERSION = 1

_LINES_BEGIN = b'{"schema_version":'


class AnswerFile:
    """Open for appending, by one process at a time. Use as a context manager."""

    def __init__(self, path: Path, settings: Mapping[str, Any], questions: Mapping[str, str]) -> None:
        """Open or create the file, and read what it holds.

        Lines of ``questions`` of which calls failed are removed, for they are answered anew; others are kept.

        Args:
            questions: fingerprints (``Question.fingerprint``) of what is asked now, by id.

        Raises:
            ValueError: another process writes to it, it was made under other settings or answers another question
                under the id of one, or a line is no answer.
        """
        self.path = path
        self._questions = questions
        self._settings = json.loads(json.dumps(settings))  # as it is read back
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_name(f".{path.name}.lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing to {path}; wait for it, or give another file.") from None
        _require_answer_file(path)
        cut_torn_line(path)
        self.done: dict[str, Mapping[str, Any]] = {}
        """The records of the file by id; none of which calls failed."""
        self.unasked: list[Mapping[str, Any]] = []
        """Those of which calls failed, of questions that are not asked now."""
        num_failed = self._read()
        if num_failed:
            kept = [*self.unasked, *self.done.values()]
            write_atomically(path, lambda file: file.writelines(_line(record) for record in kept))
        self._file: BinaryIO | None = None

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.close()
        self.path.with_name(f".{self.path.name}.lock").unlink(missing_ok=True)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        if self._file is None:  # so that a batch that cannot begin leaves no file
            self._file = self.path.open("ab", buffering=0)
        view = memoryview(_line(record))
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())

    def _read(self) -> int:
        """The number of problems in the file that are asked now and of which calls failed."""
        num_failed = 0
        for number, line in enumerate(self.path.open("rb") if self.path.exists() else (), start=1):
            where = f"{self.path}, line {number}"
            try:
                record = json.loads(line)
                version, id, settings = record["schema_version"], record["id"], record["settings"]
                has_failed = record["outcome"] == "failed" or num_failed_calls(record) > 0
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{where} is no answer of a batch ({error!r}); give another file with -o.") from error
            if version != SCHEMA_VERSION or settings != self._settings:
                other = {key for key in (*settings, *self._settings) if settings.get(key) != self._settings.get(key)}
                raise ValueError(
                    f"{where} was made under other settings ({', '.join(sorted(other)) or 'schema_version'}); give the "
                    "same ones to go on with it, or another file with -o."
                )
            asked = self._questions.get(id)
            if asked is not None and record.get("question", asked) != asked:  # lines of earlier releases do not say
                raise ValueError(
                    f"{where} answers another question under the id {id!r} than the one asked now; ids that are left "
                    "out are positions of lines, so give ids, or another file with -o."
                )
            if has_failed and asked is None:
                self.unasked.append(record)
            elif has_failed:
                num_failed += 1
            else:
                self.done[id] = record
        return num_failed


def _require_answer_file(path: Path) -> None:
    """Refuse a file of something else before anything in it is taken for the torn line of a crash."""
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(len(_LINES_BEGIN))
    if head != _LINES_BEGIN[: len(head)]:
        raise ValueError(
            f"{path} exists and holds no answers of a batch (its lines would begin with {_LINES_BEGIN.decode()}); "
            "it is left as it is: give another file with -o."
        )


def num_failed_calls(record: Mapping[str, Any]) -> int:
    """Calls of all rounds that failed, through no fault of the model: an overflow or a truncation is none."""
    return sum(finish == "failed" for one in record["rounds"] for finish in one["finishes"])


def answer_record(answered: Answered, settings: Mapping[str, Any], *, question: str, seconds: float) -> dict[str, Any]:
    """The line of a problem; ``question`` is its fingerprint."""
    rounds = answered.rounds
    (answer,) = answered.answers
    final = answered.completions[-1][0]
    reasoning = final.reasoning or answer.reply.text.rpartition(rounds.plan.end_of_reasoning)[0] or None
    by_round = rounds.ledger.by_round()
    return {
        "schema_version": SCHEMA_VERSION,
        "id": rounds.problem_id,
        "question": question,
        "outcome": answer.outcome,
        "answer": answer.text,
        "reasoning": reasoning,
        "error": answer.reply.error or None,
        "ttc_tokens": rounds.ledger.ttc_tokens,
        "num_dropped": rounds.num_dropped,
        "num_failed": sum(completion.finish == "failed" for one in answered.completions for completion in one),
        "seconds": round(seconds, 3),
        "rounds": [
            {
                "round": call.round_index,
                "num_samples": call.num_samples,
                "messages": list(call.messages),
                "finishes": [completion.finish for completion in completions],
                "prompt_tokens": by_round[call.round_index].prompt_tokens,
                "cached_tokens": by_round[call.round_index].cached_tokens,
                "generated_tokens": by_round[call.round_index].generated_tokens,
                "wasted_tokens": by_round[call.round_index].wasted_tokens,
                "num_estimated": by_round[call.round_index].num_estimated,
            }
            for call, completions in zip(rounds.calls, answered.completions, strict=True)
        ],
        "settings": dict(settings),
    }


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
