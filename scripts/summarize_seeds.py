"""What several quickstarts with different seeds show together.

    python scripts/summarize_seeds.py FOLDER SEED...

Reads ``summary.json`` and the evaluation records of ``FOLDER/seed_<SEED>``. Prints a line for each seed and claim, then
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pacore_rl.evaluation.report import EvaluationReport, load_report

MARGIN = 0.20
"""Points that synthesis must be above each control."""
CONTROLS = ("majority_vote", "swapped", "solo")


def claims(report: EvaluationReport, hardest: EvaluationReport) -> dict[str, tuple[float, float]]:
    """Each claim as two numbers: it holds where the first exceeds the second.

    A comparison of two ways to answer is a difference paired by problem: "above" means that the lower end of its 95%
    interval is above 0.
    """
    single, rounds, long_rounds = report.held_out, report.configurations, hardest.configurations
    assert rounds is not None and long_rounds is not None, "the quickstart evaluates configurations"
    own_votes = {run.configuration: run.minus_self_consistency.low for run in rounds.configurations}
    controls = {
        f"synthesis above {name} + {MARGIN:.2f}": (single.synthesis.mean, getattr(single, name).mean + MARGIN)
        for name in CONTROLS
    }
    return controls | {
        "at least 256 held-out problems": (len(single.problem_ids), 255),
        "K=[16] above K=[4]": (rounds.difference((16,), (4,)).low, 0.0),
        "K=[4] above self-consistency": (own_votes[(4,)], 0.0),
        "K=[16] above self-consistency": (own_votes[(16,)], 0.0),
        "K=[8, 4] above K=[4] on the hardest": (long_rounds.difference((8, 4), (4,)).low, 0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", nargs="+")
    options = parser.parse_args()
    summaries = {
        seed: json.loads((options.folder / f"seed_{seed}" / "summary.json").read_text()) for seed in options.seeds
    }
    held: dict[str, dict[str, list[bool]]] = {"before": {}, "after": {}}
    for seed, summary in summaries.items():
        print(f"seed {seed}: {summary['after']['num_problems']} held-out problems, {summary['seconds']:.0f} s")
        for when in held:
            run = options.folder / f"seed_{seed}"
            found = claims(load_report(run / f"{when}_held_out.json"), load_report(run / f"{when}_long.json"))
            for claim, (value, bound) in found.items():
                held[when].setdefault(claim, []).append(value > bound)
                print(f"  {when:6}  {claim:42} {value:.3f} > {bound:.3f}  {'yes' if value > bound else 'no'}")
    print(
        json.dumps(
            {
                "seeds": {
                    seed: {key: summary[key] for key in ("before", "after", "long_before", "long_after")}
                    for seed, summary in summaries.items()
                },
                "claims": {
                    "before_in_any_seed": {claim: any(values) for claim, values in held["before"].items()},
                    "after_in_every_seed": {claim: all(values) for claim, values in held["after"].items()},
                },
            }
        )
    )


if __name__ == "__main__":
    main()
