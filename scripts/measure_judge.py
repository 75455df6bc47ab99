"""Precision, recall and F1 of a judge's decision to drop, on problems that were labelled by hand.

    python scripts/measure_judge.py --url http://127.0.0.1:8000/v1 --model gpt-oss-120b [--votes 4] [--sample FILE]

Votes are kept in --cache, so that a run that was interrupted goes on, and one with more votes asks for the others only.
The last line is JSON. Ends with 2 where the endpoint cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from data_curation.chat import EndpointDown
from data_curation.judge_filter import VERSION, JudgeFilter
from data_curation.judge_quality import SAMPLE, load_sample, quality_of
from pacore_rl.append_log import KeyedLog
from pacore_rl.config_endpoints import JudgeFilterConfig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, nargs="+", help="OpenAI-compatible endpoints of the judge")
    parser.add_argument("--model", required=True)
    parser.add_argument("--votes", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--sample", type=Path, default=SAMPLE, help="labelled problems, JSON Lines")
    parser.add_argument("--cache", type=Path, default=Path("runs/judge_votes.jsonl"))
    parser.add_argument("--retries", type=int, default=5)
    arguments = parser.parse_args()
    config = JudgeFilterConfig(
        base_urls=tuple(arguments.url),
        model=arguments.model,
        votes=arguments.votes,
        temperature=arguments.temperature,
        max_retries=arguments.retries,
    )
    labelled = load_sample(arguments.sample)
    judge = JudgeFilter(config, KeyedLog.open(arguments.cache))
    started = time.monotonic()
    try:
        ballots = judge.ballots([(one.problem, one.answer) for one in labelled])
    except EndpointDown as error:
        print(error, file=sys.stderr)
        return 2
    for one, ballot in zip(labelled, ballots, strict=True):
        if (ballot.outcome == "yes") != one.is_well_posed:
            label = "well posed" if one.is_well_posed else one.kind
            print(f"{one.id} ({label}: {one.why}): {ballot.reason(config.votes)}")
    quality = quality_of(labelled, ballots)
    rates = {name: round(getattr(quality, name), 4) for name in ("precision", "recall", "f1")}
    print(f"drop decision: precision {quality.precision:.3f}, recall {quality.recall:.3f}, F1 {quality.f1:.3f}")
    print(
        json.dumps(
            {"measure": "judge", "model": arguments.model, "prompt": VERSION, "votes": arguments.votes}
            | rates
            | asdict(quality)
            | {"num_replies": judge.num_calls, "seconds": round(time.monotonic() - started, 1)}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
