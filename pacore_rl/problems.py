"""Problem files: JSON Lines (``.jsonl``, ``.jsonl.gz``), JSON arrays (``.json``, read only) and Parquet.

Three record forms are read; the first is also what :func:`save_problems` writes.

    ours      {schema_version, id, conversation: [{role, content}], ground_truth, reward, source, tags}
    released  {conversation, ground_truth, responses}: the form of the paper's training set (Appendix C)
    simple    {id, source, problem, answer}

and coding problems in the forms of ``pacore_rl.rewards.code.shapes``, whose tests become the ground truth.

``messages`` is read as ``conversation``. Keys of none of these forms become tags where they hold text or a number.
A record without an id gets one from the hash of its content.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast, get_args

from pacore_rl.rewards.code import shapes
from pacore_rl.types import Problem, Role, Turn

SCHEMA_VERSION = 1

_ROLES: tuple[str, ...] = get_args(Role)
_QUESTION_KEYS = ("problem", "question", "description", "question_content")
_KNOWN_KEYS = (
    frozenset(_QUESTION_KEYS)
    | frozenset(("schema_version", "id", "source", "reward", "tags", "responses"))
    | frozenset(("problem", "conversation", "messages", "answer", "ground_truth", "pool", "solutions"))
)
_FORMATS = ".jsonl, .jsonl.gz, .json or .parquet"

Record = Mapping[str, Any]


def load_problems(path: Path | str) -> tuple[Problem, ...]:
    """Every problem of a file, in its order.

    Raises ValueError, naming the file and the record, where the file is missing, unreadable or empty, where a record
    is corrupt or has no question or no answer, and where two records share an id.
    """
    return tuple(problem for problem, _ in _load(Path(path)))


def load_responses(path: Path | str) -> dict[str, tuple[str, ...]]:
    """The unscored messages that the released record form carries in ``responses``, by problem id.

    Raises as :func:`load_problems` does, and where a record's ``responses`` are not texts.
    """
    path = Path(path)
    responses: dict[str, tuple[str, ...]] = {}
    for number, (problem, record) in enumerate(_load(path), start=1):
        texts = record.get("responses") or ()
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in cast(Sequence[Any], texts)):
            raise ValueError(f"{path}, record {number}: `responses` must be a list of texts; correct the record.")
        responses[problem.id] = tuple(cast(Sequence[str], texts))
    return responses


def save_problems(path: Path | str, problems: Sequence[Problem]) -> None:
    """Write problems atomically, as JSON Lines or Parquet by the file's name: a reader sees the old file or the new."""
    path = Path(path)
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ValueError(f"cannot save {path}: two problems have the id {twice!r}; ids must be unique.")
    records = [_to_record(problem) for problem in problems]
    if path.name.endswith(".parquet"):
        write_atomically(path, lambda file: _write_parquet(file, records))
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        # mtime=0: the same problems give the same bytes.
        data = gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines
        write_atomically(path, lambda file: file.write(data))
    else:
        raise ValueError(f"cannot save {path}: name it .jsonl, .jsonl.gz or .parquet.")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, flush it to disk and rename it onto ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a shared file system's other readers out
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _load(path: Path) -> Iterator[tuple[Problem, Record]]:
    first_seen: dict[str, str] = {}
    for where, record in read_records(path):
        problem = problem_of_record(record, where)
        if problem.id in first_seen:
            raise ValueError(
                f"{where}: the id {problem.id!r} was already used in {first_seen[problem.id]}; "
                "ids must be unique, so rename or remove one of the two."
            )
        first_seen[problem.id] = where
        yield problem, record
    if not first_seen:
        raise ValueError(f"{path} holds no problem; give a file with at least one record.")


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Each record with where it stands, for error messages."""
    if not path.is_file():
        raise ValueError(f"no problem file at {path}; check the path (a relative one starts at the working folder).")
    name = path.name
    if name.endswith((".jsonl", ".jsonl.gz")):
        rows = _read_json_lines(path)
    elif name.endswith(".parquet"):
        rows = ((f"{path}, row {i}", row) for i, row in enumerate(_read_parquet(path), start=1))
    elif name.endswith(".json"):
        rows = ((f"{path}, record {i}", row) for i, row in enumerate(_read_json_array(path), start=1))
    else:
        raise ValueError(f"{path} is not a known format; give {_FORMATS}.")
    for where, row in rows:
        record = _as_record(row)
        if record is None:
            raise ValueError(f"{where}: expected an object with named fields, found {_shown(row)}.")
        yield where, record


def _read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # Read as bytes: only \n ends a line of JSON Lines, and text mode would also split at U+2028 and its like.
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", json.loads(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut short or not gzip ({error}); copy or download it again.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}, line {number} is not JSON in UTF-8 ({error}); correct or remove that line."
        ) from error


def _read_json_array(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8 ({error}); correct it.") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold one JSON array of records; for one record a line, name it .jsonl.")
    return cast(list[Any], rows)


def _read_parquet(path: Path) -> Iterator[Any]:
    arrow = _import_arrow()
    try:
        for batch in arrow.parquet.ParquetFile(path).iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not readable as Parquet ({error}); copy or download it again.") from error


def _import_arrow() -> Any:
    """pyarrow, which ships no types; loaded when asked for, since it is slow and JSON Lines do without."""
    importlib.import_module("pyarrow.parquet")
    return importlib.import_module("pyarrow")


def _write_parquet(file: IO[bytes], records: Sequence[Record]) -> None:
    arrow = _import_arrow()
    text = arrow.string()
    schema = arrow.schema(
        [
            ("schema_version", arrow.int32()),
            ("id", text),
            ("conversation", arrow.list_(arrow.struct([("role", text), ("content", text)]))),
            ("ground_truth", text),
            ("reward", text),
            ("source", text),
            ("tags", text),
        ]
    )
    # Tags as JSON text: their keys differ from problem to problem, Parquet's columns do not.
    rows = [{**record, "tags": json.dumps(record["tags"], ensure_ascii=False)} for record in records]
    arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), file)


def _to_record(problem: Problem) -> Record:
    return {
        "schema_version": SCHEMA_VERSION,
        "id": problem.id,
        "conversation": [{"role": turn.role, "content": turn.content} for turn in problem.conversation],
        "ground_truth": problem.ground_truth,
        "reward": problem.reward,
        "source": problem.source,
        "tags": dict(problem.tags),
    }


def problem_of_record(record: Record, where: str) -> Problem:
    """One record, in any of the forms above. Raises ValueError that begins with ``where`` and names what is wrong."""
    version = record.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: written with schema version {_shown(version)}, this release reads {SCHEMA_VERSION}; "
            "save it again with a matching release."
        )
    conversation = _conversation(record, where)
    tests = _tests(record, where)
    ground_truth = _ground_truth(record, where) if tests is None else tests
    id = record.get("id")
    if id is None or id == "":
        id = _content_id(conversation, ground_truth)
    return Problem(
        id=str(id),
        conversation=conversation,
        ground_truth=ground_truth,
        reward=_text(record, "reward", "math" if tests is None else "code", where),
        source=_text(record, "source", "", where),
        tags=_tags(record if tests is None else {k: v for k, v in record.items() if k not in shapes.KEYS}, where),
    )


def _conversation(record: Record, where: str) -> tuple[Turn, ...]:
    key = next((key for key in ("conversation", "messages") if record.get(key)), None)
    if key is None:
        question = next((record[key] for key in _QUESTION_KEYS if record.get(key)), None)
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{where}: no question; give `problem` (a text) or `conversation` (a list of turns).")
        return (Turn(role="user", content=question),)
    turns: list[Turn] = []
    given: Any = record[key]
    for turn in cast(Sequence[Any], given) if isinstance(given, Sequence) else (given,):
        fields = _as_record(turn) or {}
        role, content = fields.get("role"), fields.get("content")
        if role not in _ROLES or not isinstance(content, str):
            raise ValueError(
                f"{where}: every turn of `{key}` needs a `role` ({', '.join(_ROLES)}) and a text `content`, "
                f"found {_shown(turn)}."
            )
        turns.append(Turn(role=cast(Role, role), content=content))
    if turns[-1].role not in ("user", "tool") or not turns[-1].content.strip():
        raise ValueError(
            f"{where}: the last turn of `{key}` must be a user turn or a tool observation with text, since that is "
            f"what the model answers; it is {_shown(turns[-1].role)} with {_shown(turns[-1].content)}."
        )
    return tuple(turns)


def _ground_truth(record: Record, where: str) -> str:
    value: Any = record.get("ground_truth")
    value = record.get("answer") if value is None else value
    value = (_as_record(value) or {}).get("answer", value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value and (isinstance(value, list) or _as_record(value)):
        # Structured truths, such as the tests of a coding problem, travel as JSON text.
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{where}: no answer (`ground_truth` or `answer` is {_shown(value)}); a problem without one cannot be "
            "scored, so add it or remove the record."
        )
    return value


def _tests(record: Record, where: str) -> str | None:
    """The ground truth of a coding problem that brings its tests in a form of a data set, None of any other."""
    if record.get("ground_truth") or record.get("answer"):
        return None
    try:
        suite = shapes.suite_of_record(record)
    except ValueError as error:
        name = record.get("id")
        raise ValueError(f"{where}{f' (id {name!r})' if name else ''}: {error}") from error
    return None if suite is None else suite.to_json()


def _tags(record: Record, where: str) -> dict[str, str | int | float]:
    given: Any = record.get("tags") or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: `tags` is not JSON ({error}); correct it.") from error
    tags = _as_record(given)
    if tags is None:
        raise ValueError(f"{where}: `tags` must be an object, found {_shown(given)}.")
    extras = {key: value for key, value in record.items() if key not in _KNOWN_KEYS and value != ""}
    merged = {**extras, **tags}
    return {str(key): value for key, value in merged.items() if isinstance(value, (str, int, float))}


def _text(record: Record, key: str, default: str, where: str) -> str:
    value = record.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{where}: `{key}` must be a text, found {_shown(value)}.")
    return value


def _content_id(conversation: Sequence[Turn], ground_truth: str) -> str:
    content = json.dumps([[[turn.role, turn.content] for turn in conversation], ground_truth])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _as_record(value: object) -> Record | None:
    return cast(Record, value) if isinstance(value, Mapping) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
