"""What ``pacore-rl curate problems``, ``pools``, ``stage1``, ``stage2`` and ``card`` do with a recipe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from data_curation.card import write_card
from data_curation.funnel import drops_table, funnel_table
from data_curation.model_filters import model_filters
from data_curation.problem_set import CurationPaths, curate_problems
from data_curation.stage_sets import StageResult, save_stage_result, select_by_source, write_stage_set
from data_curation.stages import select_stage1, select_stage2
from pacore_rl.append_log import KeyedLog
from pacore_rl.config import Config
from pacore_rl.curation_runs import make_pool, watched_synthesis_accuracy
from pacore_rl.inputs import fingerprint
from pacore_rl.interfaces import Generator
from pacore_rl.machine import num_cores
from pacore_rl.problems import load_problems, save_problems
from pacore_rl.reporting.terminal import console
from pacore_rl.rewards.scorer import open_scorer
from pacore_rl.spread import InProcess, Processes, Spread, over_parts
from pacore_rl.synthesis.pool_shards import Pool
from pacore_rl.synthesis.pools import load_messages, open_pool, require_same_problems
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import PoolMessage, Problem

OpenGenerator = Callable[[str], AbstractContextManager[Generator]]
"""From the path of a model to a generator that runs it."""

_MEASURED_TOGETHER = 256
"""Problems whose synthesis accuracy is measured, and then remembered, together."""


def make_problems(config: Config) -> Path:
    """``pacore-rl curate problems``: every source through every filter; prints the funnel."""
    paths = CurationPaths(root=config.curation.output_dir)
    with _spreads(config) as (for_parts, for_programs):
        filters = model_filters(config, spread=for_programs)
        funnel = curate_problems(config, further=filters, spread=over_parts(for_parts))
    console.print(drops_table(funnel))
    console.print(funnel_table(funnel))
    return paths.problems


def make_pools(config: Config, *, sources: Sequence[str] = (), model: str | None = None) -> Path:
    """``pacore-rl curate pools``: the round-1 messages of the curated problems, of some sources only where named."""
    paths = CurationPaths(root=config.curation.output_dir)
    problems = _problems_of(paths, sources)
    return make_pool(config, problems=problems, out=paths.pool, model=model)


def make_stage1(config: Config) -> Path:
    """``pacore-rl curate stage1``: keep 0 < message accuracy < the recipe's bound; writes a training set."""
    paths, stages = CurationPaths(root=config.curation.output_dir), config.curation.stages
    problems = _curated(paths)
    pool = _open_pool(config, paths)
    require_same_problems(pool, problems)
    select = partial(
        select_stage1,
        pool=pool,
        upper=stages.stage1_upper,
        upper_by_reward={"code": stages.stage1_upper_code},
        min_messages=stages.min_messages,
    )
    result = select_by_source(problems, select)
    accuracies = {problem_id: pool.message_accuracy(problem_id) for problem_id in result.kept_ids}
    return _write(paths, 1, result, message_accuracies=accuracies)


def make_stage2(config: Config, *, model: str | None = None, open_generator: OpenGenerator | None = None) -> Path:
    """``pacore-rl curate stage2``: keep 0 < synthesis accuracy < 1 under a stage-1 checkpoint; writes a training set.

    Measured are the curated problems that have messages. What was measured is remembered as it is found, so that an
    interrupted run goes on where it was.

    Args:
        open_generator: what generates; None: vLLM engines that Ray starts.
    """
    paths = CurationPaths(root=config.curation.output_dir)
    problems = _curated(paths)
    pool = _open_pool(config, paths)
    require_same_problems(pool, problems)
    with_messages = [problem for problem in problems if pool.num_scored(problem.id)]
    if not with_messages:
        raise ValueError(f"no problem of {paths.problems} has a message in {paths.pool}; run `pacore-rl curate pools`.")
    path = model or config.model.path
    accuracies = _synthesis_accuracies(
        config, with_messages, pool, paths, path, open_generator or partial(_open_engine_generator, config)
    )
    result = select_by_source(problems, partial(select_stage2, accuracies=accuracies))
    messages = {problem_id: pool.message_accuracy(problem_id) for problem_id in result.kept_ids}
    return _write(paths, 2, result, message_accuracies=messages, synthesis_accuracies=accuracies)


def make_card(config: Config) -> Path:
    """``pacore-rl curate card``: the data set card of what is there so far."""
    return write_card(config)


def _write(
    paths: CurationPaths,
    number: int,
    result: StageResult,
    *,
    message_accuracies: Mapping[str, float],
    synthesis_accuracies: Mapping[str, float] | None = None,
) -> Path:
    def messages(problem_ids: Collection[str]) -> Mapping[str, Sequence[PoolMessage]]:
        return load_messages(paths.pool, problem_ids)

    console.print(result.report.as_text(), highlight=False)
    if not result.kept_ids:
        raise ValueError(
            f"stage {number} keeps no problem: the table above says why. Widen curation.stages, give more problems, or "
            "a model that is right sometimes."
        )
    write_stage_set(
        paths.stage(number),
        paths.problems,
        message_accuracies=message_accuracies,
        synthesis_accuracies=synthesis_accuracies,
        kept_ids=result.kept_ids,
        messages=messages,
    )
    save_stage_result(paths.stage_report(number), result)
    return paths.stage(number)


@contextmanager
def _open_engine_generator(config: Config, model: str) -> Iterator[Generator]:
    from pacore_rl.engine.cluster import open_engine

    with open_engine(config, workers="rollout", model_path=model) as engine:
        yield engine.generator


def _synthesis_accuracies(
    config: Config,
    problems: Sequence[Problem],
    pool: Pool,
    paths: CurationPaths,
    model: str,
    open_generator: OpenGenerator,
) -> dict[str, float]:
    """By problem id; those that could not be scored are left out, and tried again by the next run.

    Measured anew is what another model, seed, window or way of sampling, another question or truth under the same id,
    or another number of right messages may have changed.
    """
    name, settings = fingerprint(model), config.synthesis.model_dump_json() + config.sampling.model_dump_json()
    window = config.model.context_window_tokens
    log = KeyedLog.open(paths.root / "cache" / "synthesis_accuracy.jsonl")

    def key(problem: Problem) -> tuple[str | int, ...]:
        num = pool.num_scored(problem.id)
        num_right = round(num * pool.message_accuracy(problem.id))
        return (name, config.run.seed, settings, window, problem.id, problem.fingerprint, num, num_right)

    def measured(problem: Problem) -> float | None:
        return (log.get(key(problem)) or {}).get("accuracy")

    todo = [problem for problem in problems if measured(problem) is None]
    if todo:
        _measure(config, todo, paths, model, open_generator, log, key)
    found = {problem.id: measured(problem) for problem in problems}
    return {problem_id: accuracy for problem_id, accuracy in found.items() if accuracy is not None}


def _measure(
    config: Config,
    problems: Sequence[Problem],
    paths: CurationPaths,
    model: str,
    open_generator: OpenGenerator,
    log: KeyedLog,
    key: Callable[[Problem], tuple[str | int, ...]],
) -> None:
    tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
    with open_scorer(config.reward) as scorer, open_generator(model) as generator:
        for start in range(0, len(problems), _MEASURED_TOGETHER):
            batch = problems[start : start + _MEASURED_TOGETHER]
            console.print(f"  problems {start + 1:,} to {start + len(batch):,} of {len(problems):,}", highlight=False)
            found = watched_synthesis_accuracy(
                batch,
                load_messages(paths.pool, [problem.id for problem in batch]),
                generator=generator,
                scorer=scorer,
                tokenizer=tokenizer,
                config=config,
            )
            for problem in batch:
                if problem.id in found:
                    log.put(key(problem), {"accuracy": found[problem.id]})


def _open_pool(config: Config, paths: CurationPaths) -> Pool:
    """The pool's counts, shards read side by side."""
    with _spreads(config) as (_, for_programs):
        return open_pool(paths.pool, must_exist=True, spread=for_programs)


def _curated(paths: CurationPaths) -> tuple[Problem, ...]:
    if not paths.problems.is_file():
        raise ValueError(f"no problems at {paths.problems}; run `pacore-rl curate problems` on this recipe first.")
    return load_problems(paths.problems)


def _problems_of(paths: CurationPaths, sources: Sequence[str]) -> Path:
    """The curated problems, or a file of those of some sources."""
    if not sources:
        _curated(paths)
        return paths.problems
    problems = _curated(paths)
    unknown = sorted(set(sources) - {problem.source for problem in problems})
    if unknown:
        there = ", ".join(sorted({problem.source for problem in problems}))
        raise ValueError(f"no curated problem is of {', '.join(unknown)}; the sources are {there}.")
    chosen = paths.parts / "pool_problems.parquet"
    save_problems(chosen, [problem for problem in problems if problem.source in sources])
    return chosen


@contextmanager
def _spreads(config: Config) -> Iterator[tuple[Spread, Spread]]:
    """Where parts are sifted, and where programs are run and shards read: the recipe's Ray cluster, or this machine.

    Here parts are sifted in this process: what takes long in them, answers, goes to checker processes anyway.
    """
    if config.cluster.address is None:
        yield InProcess(), Processes(num_workers=num_cores())
        return
    from pacore_rl.engine.ray_spread import joined_cores

    with joined_cores(config.cluster.address) as cluster:
        yield cluster, cluster
