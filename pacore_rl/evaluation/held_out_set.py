"""The held-out problems of a run with their message pool: what its evaluations read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pacore_rl.collection import Pool
from pacore_rl.config import Config
from pacore_rl.evaluation.configurations import evaluate_configurations
from pacore_rl.evaluation.held_out import CONDITIONS, evaluate_held_out
from pacore_rl.evaluation.report import EvaluationReport
from pacore_rl.inputs import load_checked_problems, load_pool
from pacore_rl.interfaces import ChatTokenizer, Generator, Scorer
from pacore_rl.reporting.progress import ProgressReport, WatchedGenerator
from pacore_rl.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out problems and their pool."""

    problems: tuple[Problem, ...]
    pool: Pool

    def first(self, num_problems: int) -> HeldOut:
        """The same with fewer problems, for evaluations that happen often."""
        return HeldOut(problems=self.problems[:num_problems], pool=self.pool)

    def evaluation(self, config: Config, generator: Generator, scorer: Scorer, tokenizer: ChatTokenizer):
        """The periodic evaluation of a training run, as ``Trainer`` takes it."""

        def at_step(step: int) -> Mapping[str, float]:
            return evaluate_held_out(
                self.problems,
                self.pool,
                generator=generator,
                scorer=scorer,
                tokenizer=tokenizer,
                config=config,
                seed=config.run.seed,
                responses_per_problem=config.evaluation.responses_per_problem,
            ).metrics("heldout")

        return at_step

    def report(
        self, config: Config, generator: Generator, scorer: Scorer, tokenizer: ChatTokenizer
    ) -> EvaluationReport:
        """The final evaluation: one round with its controls, then every configuration beside self-consistency."""
        settings, seed = config.evaluation, config.run.seed
        wanted = len(self.problems) * responses_of_evaluation(config)
        with ProgressReport("responses", wanted) as progress:
            watched = WatchedGenerator(generator=generator, report=progress)
            return EvaluationReport(
                held_out=evaluate_held_out(
                    self.problems,
                    self.pool,
                    generator=watched,
                    scorer=scorer,
                    tokenizer=tokenizer,
                    config=config,
                    seed=seed,
                    responses_per_problem=settings.responses_per_problem,
                ),
                configurations=evaluate_configurations(
                    self.problems,
                    generator=watched,
                    scorer=scorer,
                    tokenizer=tokenizer,
                    config=config,
                    configurations=settings.configurations,
                    seed=seed,
                    self_consistency_pool=settings.self_consistency_pool,
                    samples_per_problem=settings.samples_per_problem,
                ),
            )


def load_held_out(config: Config) -> HeldOut | None:
    if config.data.held_out_problems is None or config.data.held_out_pool is None:
        return None
    problems = load_checked_problems(config.data.held_out_problems, config.reward)[: config.evaluation.num_problems]
    return HeldOut(problems=problems, pool=load_pool(config.data.held_out_pool, problems))


def responses_of_evaluation(config: Config) -> int:
    """Responses that the final evaluation generates for each problem: controls, solo pool, rounds after the first."""
    settings = config.evaluation
    rounds = sum(
        sum(k[1:]) + 1 + (k[0] if k[0] > settings.self_consistency_pool else 0) for k in settings.configurations
    )
    return (
        len(CONDITIONS) * settings.responses_per_problem
        + settings.self_consistency_pool
        + settings.samples_per_problem * rounds
    )
