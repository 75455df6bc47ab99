"""What ``pacore-rl pool`` and ``pacore-rl curate`` do, and the generation that other commands share with them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from data_curation.arithmetic import generate_arithmetic, operation_names, split_held_out
from data_curation.endpoints import EndpointProposer
from data_curation.pools import PROBLEMS_PER_WAVE, fill_pool
from data_curation.proposals import EngineProposer, Proposer
from data_curation.stages import STAGE2_DRAWS, STAGE2_RESPONSES_PER_DRAW, select_stage1, select_stage2
from data_curation.synthesis_accuracy import measure_synthesis_accuracy
from pacore_rl.collection import Pool
from pacore_rl.config import Config
from pacore_rl.inputs import fingerprint, load_checked_problems, load_pool
from pacore_rl.interfaces import ChatTokenizer, Generator, Scorer
from pacore_rl.problems import save_problems
from pacore_rl.reporting.jsonl import ONLINE_POOL
from pacore_rl.reporting.progress import ProgressReport, WatchedGenerator
from pacore_rl.reporting.terminal import console
from pacore_rl.rewards.scorer import open_scorer
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.pool_shards import Pool as ScoredPool
from pacore_rl.synthesis.pools import open_pool, require_same_problems
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.trainer import WriteMessages
from pacore_rl.types import Problem

HELD_OUT_SHARE = 0.1


def make_pool(config: Config, *, problems: Path, out: Path, size: int | None = None, model: str | None = None) -> Path:
    """``pacore-rl pool`` and ``pacore-rl curate pools``: bring the pool at ``out`` up to ``size`` messages per problem.

    The messages come from ``curation.pools.endpoint`` where the recipe names one and ``model`` is not given, else from
    engines that Ray starts. ``out`` is a file, or a folder of shards where its name has no ending.
    """
    size = size or config.curation.pools.size or config.synthesis.pool_size
    endpoint = config.curation.pools.endpoint
    selected = load_checked_problems(problems, config.reward)
    pool = open_pool(out)
    require_same_problems(pool, selected)
    with ExitStack() as stack:
        proposer: Proposer
        if endpoint.base_urls and model is None:
            scorer = stack.enter_context(open_scorer(config.reward))
            name = endpoint.model
            proposer = EndpointProposer(endpoint=endpoint, config=config, done=str(out))
        else:
            from pacore_rl.engine.cluster import open_engine
            from pacore_rl.engine.scoring import open_run_scorer

            path = model or config.model.path
            name = fingerprint(path)
            tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
            engine = stack.enter_context(open_engine(config, workers="rollout", model_path=path))
            scorer = stack.enter_context(open_run_scorer(config, selected))
            proposer = EngineProposer(generator=engine.generator, tokenizer=tokenizer, config=config)
        fill_with_progress(
            pool,
            selected,
            model=name,
            size=size,
            proposer=proposer,
            scorer=scorer,
            config=config,
            problems_per_wave=config.curation.pools.problems_per_wave,
        )
    return out


def make_arithmetic(
    *, num: int, low: int, high: int, operations: Sequence[str], seed: int, out: Path, held_out: Path | None = None
) -> Path:
    """``pacore-rl curate arithmetic``: synthetic problems, a tenth of them apart where ``held_out`` names a file.

    Raises:
        ValueError: an unknown operation, or a range that cannot give that many different problems.
    """
    problems = generate_arithmetic(num, low=low, high=high, operations=operation_names(operations), seed=seed)
    if held_out is not None:
        problems, apart = split_held_out(problems, HELD_OUT_SHARE)
        save_problems(held_out, apart)
        console.print(f"  {len(apart):,} held-out problems in {held_out}")
    save_problems(out, problems)
    console.print(f"  {len(problems):,} problems in {out}; the first: {problems[0].conversation[0].content}")
    return out


def curate_stage1(config: Config, *, problems: Path, pool: Path, out: Path) -> Path:
    """``pacore-rl curate stage1``: keep problems with 0 < message accuracy < bound; needs no engine."""
    stages = config.curation.stages
    candidates, found = load_checked_problems(problems, config.reward), open_pool(pool, must_exist=True)
    require_same_problems(found, candidates)
    kept, report = select_stage1(
        candidates,
        found,
        stages.stage1_upper,
        upper_by_reward={"code": stages.stage1_upper_code},
        min_messages=stages.min_messages,
    )
    save_problems(out, kept)
    console.print(report.as_text())
    return out


def curate_stage2(config: Config, *, problems: Path, pool: Path, out: Path, model: str | None = None) -> Path:
    """``pacore-rl curate stage2``: keep problems with 0 < synthesis accuracy < 1 under a stage-1 checkpoint."""
    from pacore_rl.engine.cluster import open_engine
    from pacore_rl.engine.scoring import open_run_scorer

    path = model or config.model.path
    selected = load_checked_problems(problems, config.reward)
    messages = load_pool(pool, selected)
    tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
    with open_engine(config, workers="rollout", model_path=path) as engine, open_run_scorer(config, selected) as scorer:
        accuracies = watched_synthesis_accuracy(
            selected, messages, generator=engine.generator, scorer=scorer, tokenizer=tokenizer, config=config
        )
    kept, report = select_stage2(selected, accuracies)
    save_problems(out, kept)
    console.print(report.as_text())
    return out


def fill_watched_pool(
    pool: ScoredPool,
    problems: Sequence[Problem],
    *,
    model: str,
    size: int,
    unit: str = "messages",
    generator: Generator,
    scorer: Scorer,
    tokenizer: ChatTokenizer,
    config: Config,
) -> None:
    """``fill_pool`` from engines, with its progress, counted in ``unit``."""
    fill_with_progress(
        pool,
        problems,
        model=model,
        size=size,
        unit=unit,
        proposer=EngineProposer(generator=generator, tokenizer=tokenizer, config=config),
        scorer=scorer,
        config=config,
    )


def fill_with_progress(
    pool: ScoredPool,
    problems: Sequence[Problem],
    *,
    model: str,
    size: int,
    unit: str = "messages",
    proposer: Proposer,
    scorer: Scorer,
    config: Config,
    problems_per_wave: int = PROBLEMS_PER_WAVE,
) -> None:
    """``fill_pool`` with its progress: messages on disk, counted in ``unit``."""
    wanted = sum(pool.missing([problem.id for problem in problems], size, model).values())
    with ProgressReport(unit, wanted) as report:
        fill_pool(
            pool,
            problems,
            size=size,
            model=model,
            proposer=proposer,
            scorer=scorer,
            config=config,
            problems_per_wave=problems_per_wave,
            on_written=report.advance,
        )


def watched_synthesis_accuracy(
    problems: Sequence[Problem],
    pool: Pool,
    *,
    generator: Generator,
    scorer: Scorer,
    tokenizer: ChatTokenizer,
    config: Config,
) -> dict[str, float]:
    """``measure_synthesis_accuracy`` with its progress; the total grows by the problems that are measured wider."""
    first = len(problems) * STAGE2_DRAWS * STAGE2_RESPONSES_PER_DRAW
    with ProgressReport("responses", first) as report:
        return measure_synthesis_accuracy(
            problems,
            pool,
            generator=WatchedGenerator(generator=generator, report=report),
            scorer=scorer,
            tokenizer=tokenizer,
            config=config,
        )


def online_writer(
    config: Config, generator: Generator, scorer: Scorer, tokenizer: ChatTokenizer
) -> WriteMessages | None:
    """Writes online messages into ``online_pool.jsonl`` of the run, each with the weight version that wrote it."""
    if not config.synthesis.refresh_every_steps:
        return None
    pool = MessagePool.open(config.run_dir / ONLINE_POOL)

    def write(problems: Sequence[Problem], version: int) -> Pool:
        model = f"{config.run.name}-step-{version}"
        fill_watched_pool(
            pool,
            problems,
            model=model,
            size=config.synthesis.pool_size,
            unit="online messages",
            generator=generator,
            scorer=scorer,
            tokenizer=tokenizer,
            config=config,
        )
        return {
            problem.id: tuple(message for message in pool.messages(problem.id) if message.model == model)
            for problem in problems
        }

    return write
