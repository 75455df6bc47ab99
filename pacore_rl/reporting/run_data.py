"""What the HTML report shows of a run, gathered from the run's folder and bounded in size.

recipe.yaml, metrics.jsonl, samples.jsonl, events.jsonl  ->  RunData  ->  JSON in the page
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pacore_rl.evaluation.responses import CROSS_CHECK_ANY_CASE
from pacore_rl.events import EVENTS
from pacore_rl.reporting.jsonl import read_metrics, whole_lines
from pacore_rl.reporting.panels import PANELS, Panel
from pacore_rl.reporting.sample_file import SAMPLES, read_samples
from pacore_rl.samples import Sample, clip

MAX_POINTS = 1500
"""Of one line: of longer runs, neighbouring steps are drawn as their mean."""
MAX_SAMPLE_BYTES = 2_500_000
"""Of all samples in the page. Those of the problems that were met most often come first, then the newest."""
MAX_EVENTS, MAX_EVENT_CHARS = 200, 1000
_SIGNIFICANT_DIGITS = 5
_FACTS = (
    ("model", "model.path"),
    ("messages", "synthesis.min_messages", "synthesis.max_messages"),
    ("problems a step", "ppo.problems_per_step"),
    ("responses a problem", "ppo.responses_per_problem"),
    ("context window", "model.context_window_tokens"),
    ("seed", "run.seed"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Something that happened to a run beside its steps (``pacore_rl.events``)."""

    time_seconds: float
    """Since 1970."""
    event: str
    step: int
    """The last finished step when it happened, as far as the event says; -1 where it does not."""
    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """One run as the page reads it (``web/page.js``)."""

    name: str
    num_steps: int
    """The last step that was reported."""
    seconds: float
    """Time of all steps and evaluations."""
    facts: tuple[tuple[str, str], ...]
    """Label and value, from the recipe."""
    panels: tuple[Panel, ...]
    """Those the run has numbers for."""
    steps: tuple[float, ...]
    series: Mapping[str, Sequence[float | None]]
    """Metric key -> value of each of ``steps``; None where it was not measured or is no number."""
    steps_a_point: int
    """Steps that one of ``steps`` stands for."""
    events: tuple[RunEvent, ...]
    """The latest ``MAX_EVENTS`` of them."""
    samples: tuple[Sample, ...]
    num_samples_left_out: int
    cross_check: str
    """Regular expression, any case, of the words that refer to a reference."""
    recipe: str
    """The resolved recipe, YAML."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / "metrics.jsonl").is_file()


def gather(folder: Path) -> RunData:
    """Read a run, finished or under way.

    Raises:
        ValueError: the folder holds no run, no step was reported yet, or one of its files is damaged.
    """
    if not is_run(folder):
        raise ValueError(
            f"{folder} holds no metrics.jsonl; give the folder of a run, as `pacore-rl train` names it when it ends."
        )
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        raise ValueError(f"{folder} has not reported a step yet; try again when its first step has ended.")
    events = read_events(folder / EVENTS)
    add_events(rows, events)
    samples = read_samples(folder / SAMPLES) if (folder / SAMPLES).is_file() else ()
    kept = keep_within(samples, MAX_SAMPLE_BYTES)
    panels = tuple(panel for panel in PANELS if any(key in row for row in rows for key in panel.lines))
    keys = [key for panel in panels for key in panel.lines if any(key in row for row in rows)]
    points, steps_a_point = thin(rows, keys)
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8") if (folder / "recipe.yaml").is_file() else ""
    return RunData(
        name=folder.resolve().name,
        num_steps=int(rows[-1]["step"]),
        seconds=sum(row.get("time/step", 0.0) + row.get("time/evaluate", 0.0) for row in rows),
        facts=facts(recipe),
        panels=panels,
        steps=tuple(point["step"] for point in points),
        series={key: [_drawable(point.get(key)) for point in points] for key in keys},
        steps_a_point=steps_a_point,
        events=events[-MAX_EVENTS:],
        samples=kept,
        num_samples_left_out=len(samples) - len(kept),
        cross_check=CROSS_CHECK_ANY_CASE.pattern,
        recipe=recipe,
    )


def read_events(path: Path) -> tuple[RunEvent, ...]:
    """What happened to the run, in order; nothing where there is no such file.

    Raises ``ValueError`` naming the line that is no event.
    """
    events: list[RunEvent] = []
    for number, line in enumerate(whole_lines(path) if path.is_file() else (), start=1):
        try:
            record = json.loads(line)
            known = {key: record.pop(key) for key in ("schema", "time_seconds", "event")}
            step = int(record.pop("step", -1))
            details = ", ".join(f"{key} {value}" for key, value in record.items())
            events.append(
                RunEvent(
                    time_seconds=float(known["time_seconds"]),
                    event=str(known["event"]),
                    step=step,
                    details=clip(details, MAX_EVENT_CHARS),
                )
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not an event ({error}); remove the line.") from error
    return tuple(events)


def add_events(rows: Sequence[dict[str, float]], events: Sequence[RunEvent]) -> None:
    """Count events of a kind (``events/restart``) in the rows of their steps; 0 elsewhere."""
    placed = [event for event in events if event.step >= 0]
    for key in {f"events/{event.event}" for event in placed}:
        for row in rows:
            row[key] = float(sum(f"events/{event.event}" == key and event.step == row["step"] for event in placed))


def facts(recipe: str) -> tuple[tuple[str, str], ...]:
    """What the head of the page says of a recipe (YAML; an empty text has no facts)."""
    try:
        settings = yaml.safe_load(recipe) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"recipe.yaml is no YAML any more ({' '.join(str(error).split())}); mend it, or remove it: the report is "
            "then made without what it says."
        ) from None
    if not isinstance(settings, dict):
        raise ValueError("recipe.yaml holds no settings; mend it, or remove it: the report is then made without it.")
    found: list[tuple[str, str]] = []
    for label, *keys in _FACTS:
        sections = [(settings.get(section), name) for section, name in (key.split(".") for key in keys)]
        values = [section.get(name) if isinstance(section, dict) else None for section, name in sections]
        known = [value for value in values if isinstance(value, str | int | float)]
        if len(known) == len(values):
            found.append((label, " to ".join(_short(value) for value in known)))
    return tuple(found)


def _short(value: float | str) -> str:
    """A number with its thousands apart; of a path, as of a hub id, the last two parts."""
    return "/".join(value.rstrip("/").split("/")[-2:]) if isinstance(value, str) else f"{value:,}"


def thin(rows: Sequence[Mapping[str, float]], keys: Sequence[str]) -> tuple[list[dict[str, float]], int]:
    """At most ``MAX_POINTS`` rows, each the mean of equally many neighbours, and how many those are.

    A key's mean is over the neighbours that have it and where it is finite; the step is the last one's.
    """
    width = math.ceil(len(rows) / MAX_POINTS)
    points: list[dict[str, float]] = []
    for start in range(0, len(rows), width):
        near = rows[start : start + width]
        point = {"step": near[-1]["step"]}
        for key in keys:
            values = [row[key] for row in near if key in row and math.isfinite(row[key])]
            if values:
                point[key] = sum(values) / len(values)
        points.append(point)
    return points, width


def keep_within(samples: Sequence[Sample], limit_bytes: int) -> tuple[Sample, ...]:
    """As many samples as fit, in their order: half of the room for the problems met most often, the rest the newest."""
    sizes = [len(json.dumps(dataclasses.asdict(sample), ensure_ascii=False).encode()) for sample in samples]
    visits = Counter(sample.problem_id for sample in samples)
    by_visits = sorted(
        range(len(samples)), key=lambda i: (-visits[samples[i].problem_id], samples[i].problem_id, -samples[i].step)
    )
    newest_first = sorted(range(len(samples)), key=lambda i: -samples[i].step)
    chosen: set[int] = set()
    used = 0
    for order, room in ((by_visits, limit_bytes // 2), (newest_first, limit_bytes)):
        for index in order:
            if index not in chosen and used + sizes[index] <= room:
                chosen.add(index)
                used += sizes[index]
    return tuple(samples[index] for index in sorted(chosen))


def _drawable(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
