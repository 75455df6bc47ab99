from __future__ import annotations

import logging
import resource
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pacore_rl.append_log import AppendLog, KeyedLog, from_line, to_line


def test_a_cache_remembers_by_the_whole_key_and_the_latest_value(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.jsonl"
    cache = KeyedLog.open(path)
    cache.put(("a", 1), {"votes": ["yes"]})
    cache.put(("a", 2), {"votes": []})
    cache.put(("a", 1), {"votes": ["yes", "é\u2028"]})
    for seen in (cache, KeyedLog.open(path)):
        assert seen.get(("a", 1)) == {"votes": ["yes", "é\u2028"]} and seen.get(("a", 2)) == {"votes": []}
        assert seen.get(("a", "1")) is None and seen.get(("a",)) is None and len(seen) == 2


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """One line without an end could be the first record of a kill, but begins otherwise."""
    path = tmp_path / "notes.json"
    path.write_bytes(b'{"precious": 1}')
    with pytest.raises(ValueError, match=r"notes\.json is no cache: .* left as it is"):
        KeyedLog.open(path)
    assert path.read_bytes() == b'{"precious": 1}'


def test_a_torn_last_line_is_removed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache.jsonl"
    cache = KeyedLog.open(path)
    cache.put(("a",), {"value": 1})
    whole = path.read_bytes()
    cache.put(("b",), {"value": 2})
    path.write_bytes(path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        cache = KeyedLog.open(path)
    assert "cache.jsonl ended in a torn record of" in caplog.text
    assert path.read_bytes() == whole and cache.get(("b",)) is None
    cache.put(("b",), {"value": 2})
    assert len(KeyedLog.open(path)) == 2


def test_damage_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    KeyedLog.open(path).put(("a",), {"value": 1})
    path.write_bytes(path.read_bytes().replace(b'"value":1', b'"value":2'))
    with pytest.raises(ValueError, match=r"damaged at line 1: its content does not match its id.*Delete that line"):
        KeyedLog.open(path)


def test_a_cache_that_changes_while_it_is_in_use_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    cache = KeyedLog.open(path)
    cache.put(("a",), {"value": 1})
    path.write_bytes(path.read_bytes().replace(b'"value":1', b'"value":2'))
    with pytest.raises(ValueError, match=r"cache\.jsonl was changed while it was in use"):
        cache.get(("a",))


def test_a_full_disk_leaves_what_was_there_and_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    cache, other = KeyedLog.open(path), KeyedLog.open(path)
    cache.put(("a",), {"value": 1})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # as on a full disk, the first part is written before the error
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
        with pytest.raises(OSError, match="too large"):
            cache.put(("b",), {"value": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and cache.get(("b",)) is None
    cache.put(("b",), {"value": 2})
    with pytest.raises(ValueError, match="another process has changed the cache"):
        other.put(("c",), {"value": 3})
    assert len(KeyedLog.open(path)) == 2


def test_lines_know_their_content(tmp_path: Path) -> None:
    record_id, line = to_line({"text": "fünf", "n": 1})
    assert from_line(line[:-1], what="log") == (record_id, {"text": "fünf", "n": 1})
    assert to_line({"text": "fünf", "n": 1})[0] == record_id != to_line({"text": "fünf", "n": 2})[0]
    for bad, reason in ((b"{}", "not a record of a log"), (line[:-2], "does not match"), (b"", "not a record")):
        with pytest.raises(ValueError, match=reason):
            from_line(bad, what="log")
    with pytest.raises(AssertionError):
        AppendLog(tmp_path / "log", what="log").append(b"half a line")


def test_a_process_that_another_thread_starts_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Between fork and exec it has every descriptor: a lock that ends with the last would outlive the append."""
    log = AppendLog(tmp_path / "log.jsonl", what="log")
    with ThreadPoolExecutor(1) as threads:
        start = partial(subprocess.run, ["true"], check=True, preexec_fn=partial(time.sleep, 0.02))
        started = [threads.submit(start) for _ in range(10)]
        while not all(each.done() for each in started):
            log.append(b"line\n")
    assert set(AppendLog(log.path, what="log").lines()) == {b"line"}
