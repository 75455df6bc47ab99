"""What several quickstarts with different seeds show together.

    python scripts/summarize_seeds.py FOLDER SEED...

Reads ``summary.json`` and the evaluation records of ``FOLDER/seed_<SEED>``. Prints a line for each seed and claim, then
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from pacore_rl.evaluation.report import EvaluationReport, load_report
from pacore_rl.evaluation.statistics import Estimate

MARGIN = 0.20
"""Points that synthesis must be above each control."""
CONTROLS = ("majority_vote", "swapped", "solo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One quantity that should exceed a bound."""

    value: float
    bound: float
    low: float
    """Lower end of the value's 95% interval over problems; the value itself where it has none."""

    @property
    def holds(self) -> bool:
        return self.value > self.bound

    @property
    def is_sure(self) -> bool:
        """Whether the interval lies above the bound too."""
        return self.low > self.bound


def claims(report: EvaluationReport, hardest: EvaluationReport) -> dict[str, Claim]:
    """What training should have brought about. Comparisons are differences paired by problem."""
    single, rounds, long_rounds = report.held_out, report.configurations, hardest.configurations
    assert rounds is not None and long_rounds is not None, "the quickstart evaluates configurations"
    own_votes = {run.configuration: run.minus_self_consistency for run in rounds.configurations}
    num_problems = len(single.problem_ids)

    def above(difference: Estimate, bound: float) -> Claim:
        return Claim(value=difference.mean, low=difference.low, bound=bound)

    controls = {
        f"synthesis minus {name} above {MARGIN:.2f}": above(single.synthesis_minus[name], MARGIN) for name in CONTROLS
    }
    return controls | {
        "at least 256 held-out problems": Claim(value=num_problems, low=num_problems, bound=255),
        "K=[16] minus K=[4]": above(rounds.difference((16,), (4,)), 0.0),
        "K=[4] minus self-consistency": above(own_votes[(4,)], 0.0),
        "K=[16] minus self-consistency": above(own_votes[(16,)], 0.0),
        "K=[8, 4] minus K=[4] on the hardest": above(long_rounds.difference((8, 4), (4,)), 0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", nargs="+")
    options = parser.parse_args()
    runs = {seed: options.folder / f"seed_{seed}" for seed in options.seeds}
    summaries = {seed: json.loads((run / "summary.json").read_text()) for seed, run in runs.items()}
    found: dict[str, list[dict[str, Claim]]] = {"before": [], "after": []}
    for seed, run in runs.items():
        seconds = summaries[seed]["seconds"]
        took = "cut off in between" if seconds is None else f"{seconds:.0f} s"
        print(f"seed {seed}: {summaries[seed]['after']['num_problems']} problems, {took}")
        for when, of_seeds in found.items():
            told = claims(load_report(run / f"{when}_held_out.json"), load_report(run / f"{when}_long.json"))
            of_seeds.append(told)
            for name, claim in told.items():
                word = "yes" if claim.is_sure else "within its interval" if claim.holds else "no"
                print(
                    f"  {when:6}  {name:42} {claim.value:+.3f} from {claim.low:+.3f}, bound {claim.bound:.2f}  {word}"
                )
    names = list(found["after"][0])
    print(
        json.dumps(
            {
                "seeds": {
                    seed: {key: summary[key] for key in ("before", "after", "long_before", "long_after")}
                    for seed, summary in summaries.items()
                },
                "claims": {
                    "before_in_any_seed": {n: any(told[n].is_sure for told in found["before"]) for n in names},
                    "after_in_every_seed": {n: all(told[n].holds for told in found["after"]) for n in names},
                    "after_beyond_the_interval": {n: all(told[n].is_sure for told in found["after"]) for n in names},
                },
            }
        )
    )


if __name__ == "__main__":
    main()
