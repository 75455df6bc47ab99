"""The benchmarks of the paper's evaluation, by name: where each is found, how it is scored, how it is asked.

To add one: a line in :data:`BENCHMARKS`, and a reader in ``benchmark_records`` where its records have a form of their
own. A file of your own needs neither: ``evaluation.benchmarks.sets: {mine: data/mine.jsonl}`` reads any problem file.

A source is a path (JSON Lines, JSON, Parquet or CSV) or the hub id of a data set, ``owner/name``, with
``owner/name:split`` where the split is another than the registered one.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pacore_rl.evaluation import benchmark_records as forms
from pacore_rl.problems import problem_of_record, read_records
from pacore_rl.types import Problem, Turn

Record = Mapping[str, Any]

BOXED = "\n\nPut your final answer within \\boxed{}."
PROGRAM = (
    "\n\nWrite a Python program that solves the problem. Give the whole program in one code block that starts with "
    "```python."
)
NO_INSTRUCTION = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One set of problems that models are measured on."""

    name: str
    title: str
    """As the paper's tables head its column."""
    hub_id: str | None
    """Its data set on the hub; None where a path must be given."""
    split: str = "train"
    files: str | None = None
    """Pattern of the data files, where the data set is plain files rather than a table."""
    reward: str | None = "math"
    """Scores it, whatever its records say; None: as they say."""
    instruction: str = BOXED
    """Appended to the latest turn of every problem that does not say it already."""
    samples_per_problem: int = 64
    """Runs per problem and configuration, as in table 1 of the paper."""
    num_problems: int | None = None
    """How many it has; None where that changes between releases."""
    read: Callable[[Record], Record | None] = forms.plain
    """A record of the hub's form in one that ``pacore_rl.problems`` reads; None leaves it out."""


_LISTED = (
    Benchmark(name="aime_2024", title="AIME 2024", hub_id="HuggingFaceH4/aime_2024", num_problems=30),
    Benchmark(name="aime_2025", title="AIME 2025", hub_id="MathArena/aime_2025", num_problems=30),
    Benchmark(name="hmmt_feb_2024", title="HMMT Feb 2024", hub_id="MathArena/hmmt_feb_2024", num_problems=30),
    Benchmark(name="hmmt_feb_2025", title="HMMT Feb 2025", hub_id="MathArena/hmmt_feb_2025", num_problems=30),
    Benchmark(
        name="math_500",
        title="MATH-500",
        hub_id="HuggingFaceH4/MATH-500",
        split="test",
        samples_per_problem=4,  # the paper does not report it
        num_problems=500,
    ),
    Benchmark(
        name="imo_answerbench",
        title="IMO-AnswerBench",
        hub_id=None,  # published as a file of google-deepmind/superhuman
        samples_per_problem=8,
        num_problems=400,
        read=forms.imo_answerbench,
    ),
    Benchmark(name="apex", title="Apex", hub_id="MathArena/apex_2025"),
    Benchmark(
        name="livecodebench",
        title="LiveCodeBench",
        hub_id="livecodebench/code_generation_lite",
        files="test*.jsonl",
        reward="code",
        instruction=PROGRAM,
        samples_per_problem=8,
        read=forms.livecodebench,
    ),
    Benchmark(
        name="hle",
        title="HLE (text)",
        hub_id="cais/hle",
        split="test",
        reward="judge",
        samples_per_problem=1,
        read=forms.hle,
    ),
    Benchmark(
        name="multichallenge",
        title="MultiChallenge",
        hub_id="nmayorga7/multichallenge",
        reward="rubric",
        instruction=NO_INSTRUCTION,
        samples_per_problem=8,
        read=forms.multichallenge,
    ),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _LISTED}
"""By name, in the order of the paper's tables."""

_MORE = "cells beyond the header"
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")


def benchmark_of(name: str, source: str | None) -> Benchmark:
    """The registered benchmark, or, where a source is given, a set of the user's own called ``name``.

    Raises:
        ValueError: the name is not registered and no source is given.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"the benchmark name {name!r} must be made of letters, digits, '_', '-' and '.'; rename it.")
    if source is None:
        near = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of these."
        raise ValueError(
            f"unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}: {hint} A set of your own needs a path, "
            f"such as {name}=data/{name}.jsonl."
        )
    return Benchmark(name=name, title=name, hub_id=None, reward=None, instruction=NO_INSTRUCTION, samples_per_problem=1)


def load_benchmark(
    name: str, source: str | None = None, *, instruction: str | None = None, num_problems: int | None = None
) -> tuple[Problem, ...]:
    """The problems of a benchmark, ready to be asked.

    Args:
        source: a path or a hub id; None: the registered hub id.
        instruction: appended to every problem; None: the benchmark's own.
        num_problems: the first so many of them; None: all.

    Raises:
        ValueError: unknown name, no source, a hub that cannot be reached, records without question or answer, or two
            records with one id.
    """
    benchmark = benchmark_of(name, source)
    source = source or benchmark.hub_id
    if source is None:
        raise ValueError(
            f"benchmark {name!r} has no data set on the hub; give the path of its file, such as {name}=data/{name}.csv."
        )
    problems: list[Problem] = []
    for where, record in _records(source, benchmark):
        problem = _problem_of(record, where, benchmark)
        if problem is not None:
            problems.append(_prepared(problem, benchmark, instruction))
    if not problems:
        raise ValueError(f"{source} holds no problem of {benchmark.title}; check the source of benchmark {name!r}.")
    twice = [id for id, count in Counter(problem.id for problem in problems).items() if count > 1]
    if twice:
        raise ValueError(f"{source}: {len(twice)} ids are used twice, first {twice[0]!r}; ids must be unique.")
    return tuple(problems[:num_problems])


def _problem_of(record: Record, where: str, benchmark: Benchmark) -> Problem | None:
    """What a record of the hub's form says; None for one that is left out."""
    has = f"This record has: {', '.join(record)}."
    try:
        form = benchmark.read(record)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: not in the form of {benchmark.title} ({reason}). {has}") from error
    if form is None:
        return None
    try:
        return problem_of_record(form, where)
    except ValueError as error:
        raise ValueError(f"{error} {has}") from error


def _prepared(problem: Problem, benchmark: Benchmark, instruction: str | None) -> Problem:
    """The problem as it is asked and scored."""
    words = benchmark.instruction if instruction is None else instruction
    *before, last = problem.conversation
    if words.strip() and words.strip() not in last.content and not (words == BOXED and "\\boxed" in last.content):
        last = Turn(role=last.role, content=last.content + words)
    return replace(
        problem,
        conversation=(*before, last),
        reward=problem.reward if benchmark.reward is None else benchmark.reward,
        source=problem.source or benchmark.name,
    )


def _records(source: str, benchmark: Benchmark) -> Iterable[tuple[str, Record]]:
    """Each record with where it stands."""
    path = Path(source)
    if path.exists() or path.suffix or source.startswith((".", "/", "~")):
        yield from _csv_rows(path) if path.suffix == ".csv" and path.is_file() else read_records(path)
        return
    found = _HUB_ID.fullmatch(source)
    if found is None:
        raise ValueError(
            f"benchmark {benchmark.name!r}: {source!r} is neither a file nor the hub id of a data set; give a path "
            "such as data/problems.jsonl, or owner/name."
        )
    rows = _hub_rows(found[1], found[2], benchmark)
    for number, row in enumerate(rows, start=1):
        yield f"{source}, row {number}", row


def _csv_rows(path: Path) -> Iterator[tuple[str, Record]]:
    """The rows of a table with a header line, as IMO-AnswerBench is published."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, restkey=_MORE), start=1):
            if _MORE in row:
                raise ValueError(f"{path}, row {number}: has more cells than the header line; quote those with commas.")
            yield f"{path}, row {number}", row


def _hub_rows(hub_id: str, split: str | None, benchmark: Benchmark) -> Iterator[Record]:
    """The rows of a data set on the hub, from the local cache where it is there already. No split: the benchmark's."""
    from datasets import load_dataset  # here: it is slow to import, and files do without

    reads_files = benchmark.files is not None and hub_id == benchmark.hub_id
    if reads_files and split is not None:
        raise ValueError(
            f"benchmark {benchmark.name!r}: {hub_id} is read as plain files ({benchmark.files}), which have no split "
            f"{split!r}; leave ':{split}' out."
        )
    split = split or benchmark.split
    try:
        if reads_files:
            # The data set's own loading script is not run: code from the hub is never executed.
            pattern = f"hf://datasets/{hub_id}/{benchmark.files}"
            rows = load_dataset("json", data_files=pattern, split="train", streaming=True)
        else:
            rows = load_dataset(hub_id, split=split)
        for row in rows:  # one after another: most of LiveCodeBench lies outside the window
            yield cast(Record, row)
    except Exception as error:  # the hub's errors have no common type: connection, offline mode, access, absence
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"benchmark {benchmark.name!r}: the data set {hub_id} (split {split}) could not be had from the hub "
            f"({reason}). Without a network, give a file: {benchmark.name}=PATH, JSON Lines or Parquet. A gated data "
            "set needs HF_TOKEN, and its terms accepted on its page."
        ) from error
