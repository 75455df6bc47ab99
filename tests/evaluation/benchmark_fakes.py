"""A scripted model in front of benchmarks: what it answers, and at what length, is a function of the ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation_fakes import FakeScorer, problem_of

from pacore_rl.benchmark_runs import run_sets
from pacore_rl.config_evaluation import BenchmarksConfig
from pacore_rl.evaluation.asking import Ask, Then
from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder, BenchmarkSet, Manifest
from pacore_rl.evaluation.benchmark_results import BenchmarkResult
from pacore_rl.interfaces import Scorer
from pacore_rl.synthesis.plan import Reply
from pacore_rl.types import Problem

Script = Callable[[Ask, int], Reply]
"""(ask, sample) -> reply."""


@dataclass(kw_only=True)
class ScriptedAsker:
    """Answers as its script says, the last ask first: the order of arrival must not matter."""

    script: Script
    room_tokens: int | None = None
    asks: list[Ask] = field(default_factory=list[Ask])

    def prompt_tokens(self, problem: Problem, messages: Sequence[str]) -> int:
        return sum(map(len, messages))

    def answer(self, asks: Sequence[Ask], then: Then) -> None:
        waiting, first = list(asks), len(self.asks)
        self.asks += waiting
        numbered = list(enumerate(waiting))
        while numbered:
            index, ask = numbered.pop()
            following = then(index, tuple(self.script(ask, sample) for sample in range(ask.num_samples)))
            start = len(self.asks) - first
            self.asks += following
            numbered += list(enumerate(following, start=start))


def says(answer: str, tokens: int = 10, *, reasoning: str = "") -> Reply:
    return Reply(text=f"{reasoning}</think>[{answer}]", finish="stopped", generated_tokens=tokens)


PROBLEMS = tuple(problem_of(index) for index in range(1, 5))


def manifest_of(
    problems: Sequence[Problem] = PROBLEMS,
    *,
    samples: int = 2,
    name: str = "mine",
    reward: str = "exact",
    **settings: Any,
) -> Manifest:
    defaults = {"pool_size": 8, "configurations": [[4]], "baselines": [], "vote_sizes": [2, 4]}
    return Manifest(
        model_path="none",
        model="scripted",
        compaction="after_reasoning",
        end_of_reasoning="</think>",
        temperature=1.0,
        top_p=1.0,
        max_response_tokens=1000,
        settings=BenchmarksConfig.model_validate({**defaults, **settings}),
        sets={
            name: BenchmarkSet(
                title=name.upper(),
                source="here",
                reward=reward,
                samples_per_problem=samples,
                problem_ids=tuple(problem.id for problem in problems),
                fingerprints={problem.id: problem.fingerprint for problem in problems},
            )
        },
    )


def evaluate(
    folder: Path, script: Script | ScriptedAsker, manifest: Manifest | None = None, *,
    problems: Sequence[Problem] = PROBLEMS, scorer: Scorer | None = None,
) -> BenchmarkResult:  # fmt: skip
    """Run one benchmark with a scripted model, and count."""
    asker = script if isinstance(script, ScriptedAsker) else ScriptedAsker(script=script)
    manifest = manifest or manifest_of(problems)
    (name,) = manifest.sets
    (result,) = run_sets({name: problems}, BenchmarkFolder(folder), manifest, asker, scorer or FakeScorer())
    return result
