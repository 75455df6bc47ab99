"""What the checks of coding problems make of real files: counts by reason, and the time it takes.

    python scripts/check_code_curation.py FILE ... [--limit 60] [--workers 2] [--cache FILE]

Reads any file that curation reads. Problems go through statement rules, tests, known solutions and the choice of a
checker; no model is asked. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from data_curation.code.pipeline import CodeFilter
from data_curation.records import Candidate, Drop
from data_curation.sources import read_source
from pacore_rl.append_log import KeyedLog
from pacore_rl.config import RewardConfig
from pacore_rl.config_curation import SourceConfig
from pacore_rl.config_endpoints import CodeCurationConfig
from pacore_rl.machine import num_cores
from pacore_rl.spread import Processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, default=60, help="records of each file, from the first on")
    parser.add_argument("--workers", type=int, default=num_cores())
    parser.add_argument("--cache", type=Path, help="remembers what was found; default: nothing is remembered")
    options = parser.parse_args()
    summary: dict[str, dict[str, int | float]] = {}
    for file in options.files:
        name = file.name.partition(".")[0]
        records = list(read_source(name, SourceConfig(path=str(file), licence="see its source", limit=options.limit)))
        candidates = [record for record in records if isinstance(record, Candidate)]
        drops = [record for record in records if isinstance(record, Drop)]
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            cache = KeyedLog.open(options.cache or Path(folder) / "code.jsonl")
            sift = CodeFilter(
                CodeCurationConfig(), RewardConfig(), cache, spread=Processes(num_workers=options.workers)
            )
            sifted = sift(candidates)
        seconds = time.monotonic() - started
        for one in (*drops, *sifted.drops):
            print(f"{one.id}: {one.step}: {one.reason[:160]}")
        reasons = Counter(one.step for one in (*drops, *sifted.drops))
        summary[name] = {
            "read": len(records),
            **dict(reasons.most_common()),
            "kept": len(sifted.kept),
            **dict(sift.counts),
            "seconds": round(seconds, 1),
        }
    print(json.dumps({"check": "code_curation", "workers": options.workers, "files": summary}))


if __name__ == "__main__":
    main()
