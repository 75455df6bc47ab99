"""``pacore-rl curate problems``: sources through every filter into ``problems.parquet``, rejects and the funnel."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_curation.arithmetic import generate_arithmetic
from data_curation.chain_sums import generate_chain_sums
from data_curation.decontamination import Decontamination, HeldOutContests, load_index
from data_curation.duplicates import ExactDuplicates, NearDuplicates
from data_curation.funnel import Funnel, FunnelCounter, save_funnel
from data_curation.normal_text import VERSION as TEXT_VERSION
from data_curation.records import Candidate, Drop, Filter
from data_curation.rules import ALL_RULES, UNPARSED_ANSWER, ParsedAnswers, TextRules
from data_curation.sources import read_source
from data_curation.steps import Spread, Step, drops_of, filter_step, one_by_one, ordered_step, read_step
from data_curation.store import candidate_fields, read_candidates, row_of
from pacore_rl.config import Config
from pacore_rl.config_curation import CurationConfig
from pacore_rl.config_rewards import CODE_LIMITS
from pacore_rl.problems import write_atomically

ARITHMETIC_LICENCE = "Apache-2.0 (made by this project)"
_READS_BACK: dict[str, Any] = {
    **dict.fromkeys({"timeout_seconds", "sandbox", "unsafe_local", "custom"} | CODE_LIMITS, True),
    "judge": {"base_url"},
}
"""Settings of the rewards that decide which are ready, and whether they read a ground truth back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationPaths:
    """Where the steps of a recipe leave what they make."""

    root: Path

    @property
    def parts(self) -> Path:
        """Parts of unfinished and finished steps; may be removed once ``problems`` is there."""
        return self.root / "parts"

    @property
    def problems(self) -> Path:
        return self.root / "problems.parquet"

    @property
    def rejects(self) -> Path:
        return self.root / "rejects.jsonl"

    @property
    def funnel(self) -> Path:
        return self.root / "funnel.json"

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    def stage(self, number: int) -> Path:
        """The folder of a stage: a data set."""
        return self.root / f"stage{number}"

    def stage_report(self, number: int) -> Path:
        return self.root / f"stage{number}.json"


def curate_problems(
    config: Config, *, further: Sequence[tuple[Filter, object]] = (), spread: Spread = one_by_one
) -> Funnel:
    """Run every step that is not there yet; returns the funnel.

    Args:
        further: filters after ours (a judge, checks of code), each with the settings that its results depend on. They
            spread their own work, and run here.
        spread: how parts are worked on by our own filters.

    Raises:
        ValueError: no source, one that cannot be read, a rule or an evaluation file that does not exist.
    """
    curation = config.curation
    if not curation.sources and not curation.arithmetic.num and not curation.arithmetic.num_chain_sums:
        raise ValueError(
            "the recipe has no source of problems; give curation.sources.NAME={path: ..., licence: ...}, or "
            "curation.arithmetic.num for synthetic ones."
        )
    # Built first: what is wrong with them is told before the sources are read.
    cheap, dear = tuple(_cheap_filters(config)), tuple(_dear_filters(config))
    paths = CurationPaths(root=curation.output_dir)
    step = read_step(
        paths.parts,
        lambda: _read_all(config),
        settings=[_source_settings(curation), config.run.seed],
        records_per_part=curation.records_per_part,
    )
    steps = [step]

    def one_at_a_time(filters: Iterable[tuple[Filter, object]], spread: Spread) -> None:
        for filter, settings in filters:
            number = len(steps) + 1
            steps.append(filter_step(paths.parts, steps[-1], number, filter, settings=settings, spread=spread))

    one_at_a_time(cheap, spread)
    exact, near = ExactDuplicates(), NearDuplicates(similarity=curation.rules.near_duplicate_similarity)
    steps.append(
        ordered_step(paths.parts, steps[-1], len(steps) + 1, exact, settings=TEXT_VERSION, survey=exact.survey)
    )
    steps.append(ordered_step(paths.parts, steps[-1], len(steps) + 1, near, settings=[TEXT_VERSION, near.similarity]))
    one_at_a_time(dear, spread)
    one_at_a_time(further, one_by_one)
    return _finish(paths, steps)


def _cheap_filters(config: Config) -> Iterator[tuple[Filter, object]]:
    """What is done before duplicates are looked for, so that the first good copy of a problem stays."""
    contests = config.curation.decontamination.held_out_contests
    yield TextRules(config=config.curation.rules), [config.curation.rules.model_dump(mode="json"), ALL_RULES]
    yield HeldOutContests(contests=contests), [TEXT_VERSION, [contest.model_dump() for contest in contests]]


def _dear_filters(config: Config) -> Iterator[tuple[Filter, object]]:
    """What takes time, and so is done once for each problem."""
    against, size = config.curation.decontamination.against, config.curation.decontamination.ngram_words
    yield (
        Decontamination(index=load_index(against, size=size)),
        [TEXT_VERSION, [_stamp(path) for path in against], size],
    )
    if UNPARSED_ANSWER not in config.curation.rules.off:
        yield ParsedAnswers(reward=config.reward), config.reward.model_dump(mode="json", include=_READS_BACK)


def _read_all(config: Config) -> Iterator[Candidate | Drop]:
    for name, source in config.curation.sources.items():
        num_read = 0
        first_drop: Drop | None = None
        for record in read_source(name, source):
            num_read += isinstance(record, Candidate)
            first_drop = first_drop or (record if isinstance(record, Drop) else None)
            yield record
        if num_read == 0:
            told = f"; the first: {first_drop.reason}" if first_drop else ""
            raise ValueError(
                f"no record of curation.sources.{name} ({source.path}) can be read{told}. Where its columns have other "
                f"names, give curation.sources.{name}.columns={{problem: ITS_NAME, answer: ITS_NAME}}."
            )
    yield from _arithmetic(config)


def _arithmetic(config: Config) -> Iterator[Candidate]:
    wanted, seed = config.curation.arithmetic, config.run.seed
    large = generate_arithmetic(wanted.num, low=wanted.low, high=wanted.high, operations=wanted.operations, seed=seed)
    fewest, most = wanted.chain_numbers
    chains = generate_chain_sums(wanted.num_chain_sums, range(fewest, most + 1), seed=seed)
    for problem in (*large, *chains):
        yield Candidate(problem=problem, licence=ARITHMETIC_LICENCE)


def _source_settings(curation: CurationConfig) -> object:
    return [
        [name, source.model_dump(mode="json"), _stamp(Path(source.path).expanduser())]
        for name, source in curation.sources.items()
    ] + [curation.arithmetic.model_dump(mode="json"), curation.records_per_part]


def _stamp(path: Path) -> object:
    """Changes when a local file does, or one in a local folder; hidden ones are no data."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        shown = [file for file in files if not any(part[0] == "." for part in file.relative_to(path).parts)]
        return [str(path), [_stamp(file) for file in shown]]
    if not path.is_file():
        return str(path)
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]


def _finish(paths: CurationPaths, steps: Sequence[Step]) -> Funnel:
    counter = FunnelCounter()
    write_atomically(paths.rejects, lambda file: _write_rejects(file, steps, counter))
    write_atomically(paths.problems, lambda file: _write_problems(file, steps[-1], counter))
    funnel = counter.funnel()
    save_funnel(paths.funnel, funnel)
    return funnel


def _write_rejects(file: Any, steps: Sequence[Step], counter: FunnelCounter) -> None:
    for step in steps:
        counter.drop(step.drops())
        for part in step.parts:
            file.write(drops_of(part).read_bytes())


def _write_problems(file: Any, step: Step, counter: FunnelCounter) -> None:
    """All parts in one file, a row group each; ``problems.load_problems`` reads it."""
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    schema = arrow.schema(candidate_fields())
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in step.parts:
            rows = [row_of(candidate) for candidate in read_candidates(part)]
            for row in rows:
                counter.keep(row["source"])
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
