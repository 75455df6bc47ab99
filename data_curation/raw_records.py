"""Raw records of a source, read tolerantly: a bad line is told of in its place and the next one is read."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.config_curation import SourceConfig

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """Named fields, and where they stand."""

    fields: Mapping[str, Any]
    where: str


def read_records(config: SourceConfig) -> Iterator[RawRecord | str]:
    """Every record of a source in order; in the place of an unreadable one, what is wrong with it.

    Raises ValueError where the source as a whole cannot be read: missing, or not of the format that its name says.
    """
    path = Path(config.path).expanduser()
    if path.name.endswith(_SUFFIXES):
        if not path.is_file():
            raise ValueError(
                f"no source at {path}; check curation.sources.NAME.path (a relative path starts at {Path.cwd()})."
            )
        rows = _rows_of_file(path)
    else:
        rows = _rows_of_data_set(config)
    for where, row in rows:
        if isinstance(row, Mapping):
            yield RawRecord(fields=row, where=where)
        else:
            yield row if isinstance(row, str) else f"{where}: not an object with named fields"


def _rows_of_file(path: Path) -> Iterator[tuple[str, Any]]:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _rows_of_lines(path)
    if path.name.endswith(".parquet"):
        return _rows_of_parquet(path)
    return _rows_of_array(path)


def _rows_of_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # As bytes: only \n ends a line of JSON Lines, and text mode would also split at U+2028 and its like.
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                if not line.strip():
                    continue
                try:
                    yield where, json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                    yield where, f"{where} is not JSON in UTF-8 ({error})"
                except ValueError:  # the only other one of json.loads
                    yield where, _holds_long_integer(where)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        if number == 0:
            raise ValueError(f"{path} is cut short or not gzip ({error}); copy or download it again.") from error
        yield str(path), f"{path} is cut short after line {number} ({error}); what follows is lost"


def _rows_of_array(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_bytes(), parse_int=_integer)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8 ({error}); correct it.") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold one JSON array of records; for one record a line, name it .jsonl.")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, record {number}"
        yield where, _holds_long_integer(where) if _has_long_integer(row) else row


class _LongInteger:
    """Stands for an integer with more digits than Python converts."""


def _integer(digits: str) -> int | _LongInteger:
    try:
        return int(digits)
    except ValueError:
        return _LongInteger()


def _has_long_integer(value: Any) -> bool:
    values = [value]
    while values:  # not recursive: what json.loads can nest may be deeper than a function can
        value = values.pop()
        if isinstance(value, _LongInteger):
            return True
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return False


def _holds_long_integer(where: str) -> str:
    most = sys.get_int_max_str_digits()
    return f"{where} holds an integer of more than {most:,} digits; write it as text, or remove the record"


def _rows_of_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    arrow: Any = importlib.import_module("pyarrow")
    importlib.import_module("pyarrow.parquet")
    number = 0
    try:
        for batch in arrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (arrow.ArrowException, OSError) as error:
        if number == 0:
            raise ValueError(f"{path} is not readable as Parquet ({error}); copy or download it again.") from error
        yield str(path), f"{path} is damaged after row {number} ({error}); what follows is lost"


def _rows_of_data_set(config: SourceConfig) -> Iterator[tuple[str, Any]]:
    """A folder or a hub id, through ``datasets``; its files are memory-mapped, not loaded."""
    import datasets  # late: it is slow to import

    try:
        rows = datasets.load_dataset(config.path, config.subset, split=config.split)
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise ValueError(
            f"the data set {config.path!r} (subset {config.subset}, split {config.split}) cannot be loaded: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason was given'}. Check its "
            f"name, and the network or HF_HOME; a file must end in {', '.join(_SUFFIXES)}."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{config.path}, row {number}", row
