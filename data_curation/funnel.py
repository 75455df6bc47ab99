"""How many problems of each source came through each step, as Table 7 of the paper counts them."""

from __future__ import annotations

import json
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from data_curation.duplicates import CONFLICT, EXACT, NEAR
from data_curation.records import Drop
from data_curation.rules import ALL_RULES
from pacore_rl.problems import write_atomically

MAX_EXAMPLES = 3
_EXAMPLE_WIDTH = 44
TOTAL = "all"
_GROUP_NAMES = ("unreadable", "rules", "held out", "copies", "contaminated", "judge", "code")
_ORDER = ("read", *ALL_RULES[:-1], "held_out_contest", EXACT, CONFLICT, NEAR, "contaminated", ALL_RULES[-1])
"""Steps in the order of the way; others, of models and programs, come after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """Counts by source. Every record that was read is kept, or dropped by exactly one step."""

    read: Mapping[str, int]
    """Records by source, unreadable ones included."""
    dropped: Mapping[str, Mapping[str, int]]
    """Step or rule -> source -> records."""
    kept: Mapping[str, int]
    examples: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict[str, list[dict[str, str]]])
    """Step or rule -> a few of its drops: id, reason, excerpt."""

    @property
    def num_read(self) -> int:
        return sum(self.read.values())

    @property
    def num_kept(self) -> int:
        return sum(self.kept.values())


class FunnelCounter:
    """Counts records on their way."""

    def __init__(self) -> None:
        self._kept: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = defaultdict(Counter)
        self._examples: dict[str, list[dict[str, str]]] = defaultdict(list)

    def keep(self, source: str) -> None:
        self._kept[source] += 1

    def drop(self, drops: Iterable[Drop]) -> None:
        for one in drops:
            self._dropped[one.step][one.source] += 1
            examples = self._examples[one.step]
            seen = {example["source"] for example in examples}
            if len(examples) < MAX_EXAMPLES and (one.source not in seen or len(self._dropped[one.step]) == 1):
                shown = {"id": one.id, "source": one.source, "reason": one.reason, "excerpt": one.excerpt}
                examples.append(shown)

    def funnel(self) -> Funnel:
        read = Counter(self._kept)
        for counts in self._dropped.values():
            read += counts
        return Funnel(
            read=dict(read),
            dropped={step: dict(self._dropped[step]) for step in sorted(self._dropped, key=_place)},
            kept={source: self._kept[source] for source in read},
            examples={step: self._examples[step] for step in sorted(self._examples, key=_place)},
        )


def _place(step: str) -> int:
    return _ORDER.index(step) if step in _ORDER else len(_ORDER)


def save_funnel(path: Path, funnel: Funnel) -> None:
    """Write it as JSON, atomically."""
    text = json.dumps(asdict(funnel), ensure_ascii=False, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def load_funnel(path: Path) -> Funnel:
    """What :func:`save_funnel` wrote. Raises ValueError where it is missing or damaged."""
    try:
        return Funnel(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ValueError(f"no funnel at {path}; run `pacore-rl curate problems` first.") from error
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run `pacore-rl curate problems` again.") from error


def funnel_rows(funnel: Funnel) -> list[tuple[str, list[int]]]:
    """Name of each row and its counts, one for each source and one for all: read, each step's drops, kept."""
    sources = list(funnel.read)

    def row(counts: Mapping[str, int]) -> list[int]:
        values = [counts.get(source, 0) for source in sources]
        return [*values, sum(values)]

    rows = [("read", row(funnel.read))]
    rows += [(f"- {step}", row(counts)) for step, counts in funnel.dropped.items()]
    return [*rows, ("kept", row(funnel.kept))]


def funnel_table(funnel: Funnel) -> Table:
    """The funnel for a terminal: a row for each source, steps in groups."""
    groups = [name for name in _GROUP_NAMES if any(_group(step) == name for step in funnel.dropped)]
    table = Table(title="Problems by source", title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("read", *groups, "kept"):
        table.add_column(name, justify="right")
    for source in funnel.read:
        lost = Counter[str]()
        for step, counts in funnel.dropped.items():
            lost[_group(step)] += counts.get(source, 0)
        cells = [funnel.read[source], *(lost[name] for name in groups), funnel.kept.get(source, 0)]
        table.add_row(source, *map(_shown, cells))
    lost = Counter[str]()
    for step, counts in funnel.dropped.items():
        lost[_group(step)] += sum(counts.values())
    cells = [funnel.num_read, *(lost[name] for name in groups), funnel.num_kept]
    table.add_row(TOTAL, *map(_shown, cells), style="bold")
    return table


def drops_table(funnel: Funnel) -> Table:
    """What each step and rule dropped, over all sources, with the reason of one of its drops."""
    table = Table(title="Dropped by step", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("records", justify="right")
    table.add_column("for example")
    for step, counts in funnel.dropped.items():
        examples = funnel.examples.get(step, ())
        shown = " ".join(examples[0]["reason"].split()) if examples else ""
        table.add_row(step, _shown(sum(counts.values())), Text(textwrap.shorten(shown, _EXAMPLE_WIDTH)))
    return table


def _group(step: str) -> str:
    if step in ("read", "judge", "contaminated", "held_out_contest"):
        return {"read": "unreadable", "held_out_contest": "held out"}.get(step, step)
    if step in ALL_RULES:
        return "rules"
    return "copies" if step in (EXACT, NEAR, CONFLICT) else "code"


def _shown(count: int) -> str:
    return f"{count:,}" if count else "."
