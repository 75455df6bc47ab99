"""Sources: records of many forms become candidates. What cannot be read is set aside with a reason; the rest goes on.

Read are JSON Lines, JSON arrays and Parquet files, and, through ``datasets``, folders and hub ids. Records may be in
any form of ``pacore_rl.problems`` (ours, the paper's released form, simple ones, coding problems with their tests), and
as hubs have them:

    columns      a recipe renames columns, dotted where they are nested: {ground_truth: reward_model.ground_truth}
    answer       "... #### 72" (GSM8K) is 72; without an answer, the last box of ``solution`` (MATH)
    solutions    known programs: [{lang, verdict, code}], CodeContests' {language, solution}, APPS' list of texts
    starter_code of function-call problems is shown to the solver, who could not know the function's name otherwise
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from data_curation.known_solutions import solutions_of_record
from data_curation.raw_records import RawRecord, read_records
from data_curation.records import Candidate, Drop
from data_curation.store import row_of
from pacore_rl.config_curation import SourceConfig
from pacore_rl.problems import problem_of_record
from pacore_rl.rewards.code import shapes
from pacore_rl.rewards.code.suite import TestSuite, suite_of
from pacore_rl.rewards.extract import last_boxed
from pacore_rl.types import Problem, Turn

READ = "read"
MAX_TAG_CHARACTERS = 200
"""Longer texts of a record are no tags: they would be kept in memory with the problem."""
_HASHES = re.compile(r"####\s*(.+?)\s*$")
_YEAR = re.compile(r"(?:19|20)\d\d")


def read_source(name: str, config: SourceConfig) -> Iterator[Candidate | Drop]:
    """Candidates in the order of the source, and a drop (step ``read``) for each record that could not be read.

    Ids are ``name/`` and the record's own; of two records with one id the second gets a hash of its content beside it.
    Raises ValueError where nothing can be read: no such file, not the format its name says, no such hub id.
    """
    seen: set[str] = set()
    for number, raw in enumerate(read_records(config)):
        if config.limit is not None and number >= config.limit:
            return
        if isinstance(raw, str):
            yield Drop(id=f"{name}/{number + 1}", source=name, step=READ, reason=raw)
            continue
        try:
            candidate = candidate_of(raw, name, config)
        except ValueError as error:
            excerpt = " ".join(_readable(str(raw.fields.get("problem") or raw.fields)[:200]).split())
            yield Drop(id=f"{name}/{number + 1}", source=name, step=READ, reason=_readable(str(error)), excerpt=excerpt)
            continue
        if candidate.id in seen:
            digest = hashlib.blake2b((candidate.statement + candidate.problem.ground_truth).encode(), digest_size=4)
            candidate = candidate.with_problem(id=f"{candidate.id}~{digest.hexdigest()}-{number + 1}")
        seen.add(candidate.id)
        yield candidate


def candidate_of(raw: RawRecord, name: str, config: SourceConfig) -> Candidate:
    """One record as a candidate. Raises ValueError with where it stands and what is wrong with it."""
    record = _with_named_topics(_with_answer(_renamed(raw.fields, config.columns, raw.where)))
    problem = _stripped(problem_of_record(record, raw.where), config)
    suite = _suite(problem, record, config.reward)
    reward = config.reward or ("code" if suite is not None else problem.reward)
    if suite is not None:
        problem = dataclasses.replace(
            problem, ground_truth=suite.to_json(), conversation=_with_signature(problem, record, suite)
        )
    tags = {
        key: value
        for key, value in problem.tags.items()
        if key not in _OWN_KEYS and not (isinstance(value, str) and len(value) > MAX_TAG_CHARACTERS)
    }
    if problem.source and problem.source != name:
        tags["origin"] = problem.source
    candidate = Candidate(
        problem=dataclasses.replace(problem, id=f"{name}/{problem.id}", reward=reward, source=name, tags=tags),
        licence=str(record.get("licence") or record.get("license") or config.licence),
        contest=str(record.get("contest") or config.contest),
        year=_year(record),
        responses=tuple(str(text) for text in record.get("responses") or ()),
        solutions=solutions_of_record(record) if reward == "code" else (),
    )
    _check_writable(candidate, raw.where)
    return candidate


_OWN_KEYS = frozenset("licence license contest year contest_date solution prompt reward_model".split())


def _renamed(record: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """The record under our names; a dotted name reaches into nested columns."""
    renamed = dict(record)
    for ours, theirs in columns.items():
        value: Any = record
        for part in theirs.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(
                    f"{where}: there is no column {theirs!r} (curation.sources.NAME.columns.{ours}); the record has "
                    f"{', '.join(sorted(map(str, record)))}."
                )
            value = value[part]
        renamed.pop(theirs, None)
        renamed[ours] = value
    return renamed


def _stripped(problem: Problem, config: SourceConfig) -> Problem:
    """The problem without what its source puts around every question: rules and decontamination read the question."""
    last = problem.conversation[-1]
    prefix, suffix = config.strip_prefix.strip(), config.strip_suffix.strip()
    question = last.content.strip().removeprefix(prefix).removesuffix(suffix).strip() if prefix or suffix else ""
    if not question:  # nothing to remove, or nothing left: what was given is judged as it is
        return problem
    return dataclasses.replace(
        problem, conversation=(*problem.conversation[:-1], dataclasses.replace(last, content=question))
    )


def _with_answer(record: dict[str, Any]) -> dict[str, Any]:
    """The bare answer of a record whose answer or solution text holds it."""
    record |= {key: None for key in ("answer", "ground_truth") if _is_no_number(record.get(key))}
    answer, solution = record.get("answer"), record.get("solution")
    if isinstance(answer, str) and "####" in answer and (found := _HASHES.search(answer)):
        return {**record, "answer": found[1].replace(",", "")}
    has_truth = any(record.get(key) not in (None, "", []) for key in ("answer", "ground_truth", *shapes.TEST_KEYS))
    if not has_truth and isinstance(solution, str) and (boxed := last_boxed(solution)):
        return {**record, "answer": boxed}
    return record


def _with_named_topics(record: dict[str, Any]) -> dict[str, Any]:
    """The record with topics, a list or text (TACO's), under a name of their own: our ``tags`` are named values."""
    topics = record.get("tags")
    if isinstance(topics, list):
        return {**record, "tags": {"topics": ", ".join(map(str, topics))}}
    if isinstance(topics, str) and not _is_json_object(topics):
        return {**record, "tags": {"topics": topics} if topics.strip() else {}}
    return record


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_no_number(value: Any) -> bool:
    """Whether an answer is NaN or infinite, as missing values are written; also where it is {"answer": NaN}."""
    value = value.get("answer") if isinstance(value, Mapping) else value
    return isinstance(value, float) and not math.isfinite(value)


def _check_writable(candidate: Candidate, where: str) -> None:
    """Raise ValueError for half a surrogate pair: JSON can escape one ("\\ud835"), UTF-8 (and Parquet) holds none."""
    try:
        json.dumps(row_of(candidate), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        around = _readable(error.object[max(0, error.start - 20) : error.end + 20])
        raise ValueError(f"{where}: half a surrogate pair in {around!r}; write the whole character.") from error


def _readable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _suite(problem: Problem, record: Mapping[str, Any], reward: str | None) -> TestSuite | None:
    """The tests of a coding problem, whether they came as columns or as the ground truth; None of any other problem."""
    if reward not in (None, "code"):
        return None
    truth: Any = record.get("ground_truth")
    looks_like_tests = problem.reward == "code" or reward == "code" or isinstance(truth, (Mapping, list))
    if isinstance(truth, str) and truth.lstrip().startswith(("{", "[{")):
        looks_like_tests = looks_like_tests or any(f'"{key}"' in truth[:10_000] for key in shapes.TEST_KEYS)
    if not looks_like_tests:
        return None
    return suite_of(problem.ground_truth)


def _with_signature(problem: Problem, record: Mapping[str, Any], suite: TestSuite) -> tuple[Turn, ...]:
    """The conversation, with the function that is called where the statement does not name it."""
    statement = problem.conversation[-1].content
    starter = record.get("starter_code")
    if suite.kind == "stdin" or suite.fn_name in statement:
        return problem.conversation
    shown = (
        f"Complete this program:\n```python\n{starter.rstrip()}\n```"
        if isinstance(starter, str) and suite.fn_name in starter
        else f"Write the function `{suite.fn_name}`."
    )
    last = dataclasses.replace(problem.conversation[-1], content=f"{statement.rstrip()}\n\n{shown}")
    return (*problem.conversation[:-1], last)


def _year(record: Mapping[str, Any]) -> int | None:
    for key in ("year", "contest_date"):
        if found := _YEAR.search(str(record.get(key) or "")):
            return int(found[0])
    return None
