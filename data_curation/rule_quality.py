"""Quality of the rules' decision to drop, on real problems that were labelled by hand before the rules had seen them.

``data_curation/labels/rules.jsonl`` holds 200 labels: which problem of which file, drop or keep, by which rule, why.
The statements are not copied: they are read from the files, whose licences differ.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_curation.records import Candidate
from data_curation.rules import TextRules
from data_curation.sources import read_source
from pacore_rl.config_curation import RulesConfig, SourceConfig

LABELS = Path(__file__).with_name("labels") / "rules.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleQuality:
    """Precision and recall of the drop decision on one split."""

    split: str
    num: int
    num_labelled_drop: int
    num_dropped: int
    num_rightly_dropped: int
    wrong: tuple[str, ...]
    """Each wrong decision: the problem, what was decided, and the label's reason."""

    @property
    def precision(self) -> float:
        """Of what the rules drop; 1 where they drop nothing."""
        return self.num_rightly_dropped / self.num_dropped if self.num_dropped else 1.0

    @property
    def recall(self) -> float:
        """Of what should be dropped; 1 where nothing should."""
        return self.num_rightly_dropped / self.num_labelled_drop if self.num_labelled_drop else 1.0


def measure_rules(data: Path, config: RulesConfig, labels: Path = LABELS) -> tuple[RuleQuality, ...]:
    """Quality on each split, dev first. Raises ValueError where a labelled problem is not in ``data``."""
    by_file: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for label in _labels(labels):
        by_file[label["file"]][label["id"]] = label
    rules = TextRules(config=config)
    decided: list[tuple[Mapping[str, Any], str | None]] = []
    for file, wanted in by_file.items():
        found = dict(_problems(data / file, set(wanted)))
        if missing := sorted(set(wanted) - set(found)):
            raise ValueError(
                f"{data / file} lacks {len(missing)} labelled problems (first: {missing[0]}); check the folder."
            )
        for id, label in wanted.items():
            drop = rules.first_drop(found[id])
            decided.append((label, None if drop is None else f"{drop.step}, {drop.reason}"))
    splits = sorted({label["split"] for label, _ in decided})
    return tuple(_quality(split, [one for one in decided if one[0]["split"] == split]) for split in splits)


def _quality(split: str, decided: list[tuple[Mapping[str, Any], str | None]]) -> RuleQuality:
    wrong = [
        f"`{label['id']}` kept; {label['reason']}"
        if drop is None
        else f"`{label['id']}` dropped ({drop}); {label['reason']}"
        for label, drop in decided
        if (drop is not None) != (label["label"] == "drop")
    ]
    return RuleQuality(
        split=split,
        num=len(decided),
        num_labelled_drop=sum(label["label"] == "drop" for label, _ in decided),
        num_dropped=sum(drop is not None for _, drop in decided),
        num_rightly_dropped=sum(drop is not None and label["label"] == "drop" for label, drop in decided),
        wrong=tuple(wrong),
    )


def _labels(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _problems(file: Path, ids: set[str]) -> Iterator[tuple[str, Candidate]]:
    for record in read_source("labelled", SourceConfig(path=str(file), licence="unknown")):
        id = record.id.partition("/")[2]
        if isinstance(record, Candidate) and id in ids:
            yield id, record
