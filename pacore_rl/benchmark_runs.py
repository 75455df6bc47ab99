"""What ``pacore-rl evaluate`` does with benchmarks: everything is read and checked before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pacore_rl.config import Config
from pacore_rl.evaluation.asking import Asker, EngineAsker
from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder, BenchmarkSet, Manifest
from pacore_rl.evaluation.benchmark_metrics import summarise, unscored_benchmarks
from pacore_rl.evaluation.benchmark_results import BenchmarkResult
from pacore_rl.evaluation.benchmark_run import BenchmarkRun
from pacore_rl.evaluation.benchmarks import benchmark_of, load_benchmark
from pacore_rl.evaluation.endpoint import open_endpoints
from pacore_rl.evaluation.responses import evaluation_sampling
from pacore_rl.inputs import fingerprint
from pacore_rl.interfaces import ChatTokenizer, Scorer
from pacore_rl.preflight import check_room
from pacore_rl.reporting.terminal import console
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.registry import reward_of
from pacore_rl.rewards.scorer import open_scorer
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import Problem

API_KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that holds an endpoint's key, where it needs one."""


def evaluate_benchmarks(config: Config, *, model: str | None = None, out: Path) -> tuple[BenchmarkResult, ...]:
    """Run every benchmark of ``evaluation.benchmarks.sets`` on the engine, into the folder ``out``."""
    path = model or config.model.path
    problems = load_sets(config)
    tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
    for own in problems.values():
        check_room(config, tokenizer, own)
    manifest = manifest_of(config, problems, model_path=path, model=fingerprint(path))
    with open_scorer(config.reward) as scorer, open_engine_asker(config, path, tokenizer) as asker:
        return run_sets(problems, BenchmarkFolder(out), manifest, asker, scorer)


def evaluate_endpoint(
    config: Config,
    *,
    out: Path,
    endpoints: Sequence[str],
    model: str | None = None,
    served_model: str | None = None,
) -> tuple[BenchmarkResult, ...]:
    """Run every benchmark on OpenAI-compatible endpoints, into the folder ``out``.

    Args:
        model: what the served weights are called in records and tables; None: the endpoint's name of them.
        served_model: the endpoint's name; None: the only one it serves.
    """
    settings, sampling = config.evaluation.benchmarks, evaluation_sampling(config)
    options: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    window = config.model.context_window_tokens
    if sampling.max_response_tokens < window:  # else a response may be as long as the window lets it be
        options["max_tokens"] = sampling.max_response_tokens
    with open_endpoints(
        endpoints,
        model=served_model,
        options=options,
        end_of_reasoning=config.model.end_of_reasoning,
        reserve_tokens=max(config.sampling.answer_reserve_tokens, options.get("max_tokens", 0)),
        max_open_calls=settings.max_open_calls,
        api_key=os.environ.get(API_KEY_VARIABLE) or None,
    ) as asker:
        problems = load_sets(config)
        for own in problems.values():
            asker.check_longest(own)
        name = model or asker.model.name
        manifest = manifest_of(config, problems, model_path=name, model=name)
        with open_scorer(config.reward) as scorer:
            return run_sets(problems, BenchmarkFolder(out), manifest, asker, scorer)


@contextmanager
def open_engine_asker(config: Config, model_path: str, tokenizer: ChatTokenizer) -> Iterator[EngineAsker]:
    """The engine with the model's weights, for the length of a ``with`` block."""
    from pacore_rl.engine.cluster import open_engine

    with open_engine(config, workers="rollout", model_path=model_path) as engine:
        yield EngineAsker(
            generator=engine.generator,
            tokenizer=tokenizer,
            sampling=evaluation_sampling(config),
            reserve_tokens=config.sampling.answer_reserve_tokens,
        )


def load_sets(config: Config) -> dict[str, tuple[Problem, ...]]:
    """The problems of every benchmark, by its name.

    A ground truth that its reward cannot verify is told and kept: only its own text can match it.

    Raises:
        ValueError: a benchmark that cannot be had, or whose reward cannot be used with these settings.
    """
    settings = config.evaluation.benchmarks
    loaded: dict[str, tuple[Problem, ...]] = {}
    for name, source in settings.sets.items():
        problems = load_benchmark(name, source, instruction=settings.instruction, num_problems=settings.num_problems)
        for reward in dict.fromkeys(problem.reward for problem in problems):
            unready = reward_of(reward).unready
            if unready is not None and (complaint := unready(config.reward)) is not None:
                raise ValueError(f"benchmark {name!r} cannot be scored: {complaint}")
        unverified = check_ground_truths(problems, config.reward)
        console.print(f"  {name}: {len(problems):,} problems", highlight=False)
        for problem, reason in unverified[:3]:
            console.print(f"    {problem.id}: {reason}", style="yellow", highlight=False, markup=False)
        if len(unverified) > 3:
            console.print(f"    and {len(unverified) - 3} more like it", style="yellow", highlight=False)
        loaded[name] = problems
    return loaded


def manifest_of(config: Config, problems: dict[str, tuple[Problem, ...]], *, model_path: str, model: str) -> Manifest:
    """What the evaluation's folder says of it."""
    settings = config.evaluation.benchmarks
    sampling = evaluation_sampling(config)
    sets: dict[str, BenchmarkSet] = {}
    for name, own in problems.items():
        benchmark = benchmark_of(name, settings.sets[name])
        sets[name] = BenchmarkSet(
            title=benchmark.title,
            source=settings.sets[name] or benchmark.hub_id or "",
            reward=own[0].reward,
            samples_per_problem=settings.samples_per_problem or benchmark.samples_per_problem,
            problem_ids=tuple(problem.id for problem in own),
            fingerprints={problem.id: problem.fingerprint for problem in own},
        )
    return Manifest(
        model_path=model_path,
        model=model,
        compaction=config.synthesis.compaction,
        end_of_reasoning=config.model.end_of_reasoning,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_response_tokens=sampling.max_response_tokens,
        settings=settings,
        sets=sets,
    )


def run_sets(
    problems: Mapping[str, Sequence[Problem]],
    folder: BenchmarkFolder,
    manifest: Manifest,
    asker: Asker,
    scorer: Scorer,
) -> tuple[BenchmarkResult, ...]:
    """Run what is not on disk yet, and count."""
    folder.open(manifest)
    for name, own in problems.items():
        BenchmarkRun(
            name=name, problems=own, folder=folder, manifest=folder.manifest(), asker=asker, scorer=scorer
        ).run()
    results = summarise(folder)
    for title, num in unscored_benchmarks(folder, results).items():
        console.print(f"  {title}: all {num} solo answers failed", style="yellow", highlight=False, markup=False)
    for result in results:
        for condition, num in result.failed_conditions.items():
            notice = f"  {result.title}, {condition.label}: all {num} runs failed, so that no table shows it"
            console.print(notice, style="yellow", highlight=False, markup=False)
    return results
