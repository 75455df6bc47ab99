"""Verdicts on disk, one small file each, shared by any number of processes."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from pacore_rl.problems import write_atomically


class JudgeCache:
    """Yes or no by everything that the verdict depends on. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: tuple[str | int, ...]) -> bool | None:
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            record = json.loads(path.read_bytes())
            return bool(record["verdict"]) if record["key"] == list(key) else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            # A disk that lost the file's content: the judge is asked again and writes it anew.
            logging.getLogger(__name__).warning("%s is not a remembered verdict (%s); asking again", path, error)
            return None

    def put(self, key: tuple[str | int, ...], verdict: bool) -> None:
        path = self._path(key)
        if path is not None:
            content = json.dumps({"key": list(key), "verdict": verdict}).encode()
            write_atomically(path, lambda file: file.write(content))

    def _path(self, key: tuple[str | int, ...]) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:40]}.json"
