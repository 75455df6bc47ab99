"""What happened to a run beside its steps: restarts, engines that were replaced. One JSON object a line, never cut."""

from __future__ import annotations

import json
import time
from pathlib import Path

EVENTS = "events.jsonl"
SCHEMA = 1


def record_event(run_dir: Path, event: str, **fields: str | int | float) -> None:
    """Append one event, with the time in seconds since 1970."""
    line = json.dumps({"schema": SCHEMA, "time_seconds": round(time.time(), 3), "event": event, **fields})
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / EVENTS).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
