"""How many problems of each source came through each step, as Table 7 of the paper counts them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from data_curation.records import Drop
from pacore_rl.problems import write_atomically

MAX_EXAMPLES = 3
TOTAL = "all"


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
            dropped={step: dict(counts) for step, counts in self._dropped.items()},
            kept={source: self._kept[source] for source in read},
            examples=dict(self._examples),
        )


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
    """The funnel for a terminal: a column for each source."""
    table = Table(title="Problems by source and step", title_justify="left", title_style="bold")
    table.add_column("")
    for source in (*funnel.read, TOTAL):
        table.add_column(source, justify="right", overflow="fold")
    for name, counts in funnel_rows(funnel):
        style = "bold" if name in ("read", "kept") else ""
        table.add_row(name, *(f"{count:,}" if count else "." for count in counts), style=style)
    return table
