"""Full PaCoRe inference with the model's own messages, beside self-consistency at equal test-time compute.

Test-time compute (TTC) is generated tokens, summed over all trajectories of all rounds (section 2.1 of the paper). A
vote of k solo answers costs k times the mean solo response; a configuration is compared with the k whose cost is
nearest to its own. The tokens of round 1 count
in full wherever its messages come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from pacore_rl.config import Config
from pacore_rl.evaluation.held_out import tag_names
from pacore_rl.evaluation.responses import (
    Prompt,
    Responses,
    evaluation_sampling,
    respond_and_score,
    start_scoring,
)
from pacore_rl.evaluation.statistics import Estimate, estimates_by_tag, mean_amount, mean_share, paired_difference
from pacore_rl.evaluation.voting import self_consistency
from pacore_rl.interfaces import ChatTokenizer, Generator, Scorer
from pacore_rl.synthesis.draws import draw_rng, draw_seed
from pacore_rl.synthesis.message_pool import is_scored
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.synthesis.rounds import RoundsResult, run_rounds
from pacore_rl.types import PoolMessage, Problem, Verdict

NUM_REDRAWS = 64
"""Redraws of each vote from the pool, as in table 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConsistencyPoint:
    """The majority vote of k solo answers."""

    k: int
    ttc_tokens: float
    """k times the mean tokens of a solo response."""
    accuracy: Estimate
    by_problem: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationResult:
    """One K vector."""

    configuration: tuple[int, ...]
    """[K_1, ..., K_{R-1}]; the closing round of 1 is implied."""
    accuracy: Estimate
    ttc_tokens: Estimate
    """Generated tokens per answer, all rounds."""
    equal_ttc: SelfConsistencyPoint
    """Self-consistency with the number of votes whose cost is nearest."""
    minus_self_consistency: Estimate
    """Accuracy minus that of ``equal_ttc``, paired by problem."""
    num_failed: int
    """Runs left out because a trajectory of theirs, or scoring their answer, failed through our fault."""
    by_tag: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    """Tag, its value, 'accuracy' or 'self_consistency' (at equal TTC)."""
    by_problem: tuple[float | None, ...]
    """Accuracy on each problem in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationsResult:
    """Accuracy against TTC: the points of figure 1."""

    configurations: tuple[ConfigurationResult, ...]
    """In the order they were asked for."""
    solo: Estimate
    solo_tokens: Estimate
    self_consistency: tuple[SelfConsistencyPoint, ...]
    """k = 1, 2, 4, ... up to the pool's size."""
    num_failed_solo: int
    problem_ids: tuple[str, ...]
    tags: Mapping[str, tuple[str | int | float | None, ...]] = field(
        default_factory=dict[str, tuple[str | int | float | None, ...]]
    )
    """Tag: its value on each problem in order, for the tags that part the problems into groups."""

    def difference(
        self,
        first: Sequence[int],
        second: Sequence[int],
        *,
        tag: str | None = None,
        value: str | int | float | None = None,
    ) -> Estimate:
        """Accuracy of one K vector minus that of another, paired by problem; of one tag's value only, where given.

        For instance what a second round is worth on the hardest problems:
        ``difference((8, 4), (4,), tag="length", value=8)``.

        Raises:
            ValueError: a configuration that was not run, or a tag or value no problem has.
        """
        runs = {run.configuration: run.by_problem for run in self.configurations}
        unknown = [list(k) for k in (first, second) if tuple(k) not in runs]
        if unknown or (tag is not None and value not in self.tags.get(tag, ())):
            groups = {name: sorted({*values} - {None}, key=str) for name, values in self.tags.items()}
            raise ValueError(
                f"cannot compare {list(first)} with {list(second)} on {tag}={value}: this evaluation ran "
                f"{[list(k) for k in runs]} and groups problems by {groups}."
            )
        selected = [tag is None or value == own for own in (self.tags[tag] if tag is not None else self.problem_ids)]
        return paired_difference(*(list(compress(runs[tuple(name)], selected)) for name in (first, second)))


def evaluate_configurations(
    problems: Sequence[Problem],
    *,
    configurations: Sequence[Sequence[int]],
    generator: Generator,
    scorer: Scorer,
    tokenizer: ChatTokenizer,
    config: Config,
    seed: int,
    first_round: Mapping[str, Sequence[PoolMessage]] | None = None,
    self_consistency_pool: int,
    samples_per_problem: int = 1,
) -> ConfigurationsResult:
    """Run every configuration, then votes of solo answers at the same cost.

    Args:
        problems: [P].
        configurations: K vectors, e.g. ``[(4,), (16,), (8, 4)]``.
        first_round: by problem id, the messages of which round 1 is drawn. None: the model's own solo responses, the
            same that vote, as the paper draws both from one pool; it saves the largest part of the generation.
            Messages that could not be generated or scored are not drawn. A K_1 that exceeds the rest of a pool is
            generated instead.
        self_consistency_pool: solo responses per problem, from which votes are redrawn. Where a configuration costs
            more than the whole pool, the pool is topped up until the vote can be as large.
        samples_per_problem: full runs per problem and configuration.

    Raises:
        ValueError: no problem, or a count below 1.
    """
    if not problems or self_consistency_pool < 1 or samples_per_problem < 1:
        raise ValueError(
            f"evaluation needs at least one problem, one run and one solo response each, got {len(problems)} problems, "
            f"samples_per_problem={samples_per_problem}, self_consistency_pool={self_consistency_pool}."
        )
    tools = _Tools(generator=generator, scorer=scorer, tokenizer=tokenizer, config=config, seed=seed)
    solo = _solo_responses(problems, self_consistency_pool, tools, batch=0)
    lengths = [[float(response.num_tokens) for response in responses if response.countable] for responses in solo]
    if not any(map(any, lengths)):
        raise RuntimeError(
            "no solo response has a token and a verdict: the prompts overflow the context window, or the engine or the "
            "scorer failed on all of them; look at the run's log, or raise model.context_window_tokens."
        )
    solo_tokens = mean_amount([_mean(own) for own in lengths])
    given = first_round if first_round is not None else _own_pool(problems, solo, generator.weight_version)
    pool = {id: [message for message in messages if is_scored(message)] for id, messages in given.items()}
    runs = [_run(problems, tuple(k), samples_per_problem, pool, tools) for k in configurations]
    votes = [max(1, round(run.ttc_tokens.mean / solo_tokens.mean)) for run in runs]
    short = max(votes, default=0) - self_consistency_pool
    if short > 0:
        extra = _solo_responses(problems, short, tools, batch=1)
        solo = [first + more for first, more in zip(solo, extra, strict=True)]
    counted = [[response.verdict for response in responses if response.countable] for responses in solo]
    powers = _powers(self_consistency_pool)
    points = {k: _vote(problems, counted, k, solo_tokens.mean, seed) for k in dict.fromkeys((*powers, *votes))}
    return ConfigurationsResult(
        configurations=tuple(_compare(problems, run, points[k]) for run, k in zip(runs, votes, strict=True)),
        solo=mean_share([_accuracy(responses) for responses in solo]),
        solo_tokens=solo_tokens,
        self_consistency=tuple(points[k] for k in powers),
        num_failed_solo=sum(map(len, solo)) - sum(map(len, counted)),
        problem_ids=tuple(problem.id for problem in problems),
        tags={tag: tuple(problem.tags.get(tag) for problem in problems) for tag in tag_names(problems)},
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tools:
    generator: Generator
    scorer: Scorer
    tokenizer: ChatTokenizer
    config: Config
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """One configuration on all problems, each value [P]."""

    configuration: tuple[int, ...]
    accuracy_P: tuple[float | None, ...]
    ttc_tokens: Estimate
    num_failed: int


def _solo_responses(problems: Sequence[Problem], num: int, tools: _Tools, *, batch: int) -> list[Responses]:
    """``num`` solo responses to each problem [P]; batches are independent of each other."""
    prompts = [
        Prompt(
            problem=problem,
            prompt_ids=tools.tokenizer.encode_chat(build_conversation(problem, ())),
            num_samples=num,
            seed=draw_seed(tools.seed, "configurations/solo", problem.id, batch),
        )
        for problem in problems
    ]
    return list(respond_and_score(prompts, generator=tools.generator, scorer=tools.scorer, config=tools.config))


def _own_pool(problems: Sequence[Problem], solo: Sequence[Responses], version: int) -> dict[str, list[PoolMessage]]:
    """The solo responses as a round-1 pool, by problem id."""
    return {
        problem.id: [
            PoolMessage(
                problem_id=problem.id,
                text=response.message,
                finish=response.finish,
                verdict=response.verdict,
                num_tokens=response.num_tokens,
                model=f"weight version {version}",
            )
            for response in responses
        ]
        for problem, responses in zip(problems, solo, strict=True)
    }


def _run(
    problems: Sequence[Problem],
    configuration: tuple[int, ...],
    num_samples: int,
    first_round: Mapping[str, Sequence[PoolMessage]],
    tools: _Tools,
) -> _Run:
    config = tools.config
    too_small = bool(configuration) and any(len(first_round.get(p.id, ())) < configuration[0] for p in problems)
    samples: list[tuple[RoundsResult, ...]] = [
        run_rounds(
            problems,
            configuration,
            generator=tools.generator,
            tokenizer=tools.tokenizer,
            sampling=evaluation_sampling(config),
            compaction=config.synthesis.compaction,
            end_of_reasoning=config.model.end_of_reasoning,
            answer_reserve_tokens=config.sampling.answer_reserve_tokens,
            seed=draw_seed(tools.seed, "configurations/run", *configuration, "sample", sample),
            first_round=None if too_small else first_round,
        )
        for sample in range(num_samples)
    ]
    answers = [[results[p] for results in samples] for p in range(len(problems))]
    pending = [
        start_scoring(problem, [result.final for result in results], scorer=tools.scorer, config=config)
        for problem, results in zip(problems, answers, strict=True)
    ]
    complete = [
        [
            (response.verdict.correct, result.ttc_tokens)
            for response, result in zip(scores.result(), results, strict=True)
            if response.countable and not _has_failed(result)
        ]
        for scores, results in zip(pending, answers, strict=True)
    ]
    return _Run(
        configuration=configuration,
        accuracy_P=tuple(_mean([float(correct) for correct, _ in runs]) for runs in complete),
        ttc_tokens=mean_amount([_mean([float(ttc_tokens) for _, ttc_tokens in runs]) for runs in complete]),
        num_failed=num_samples * len(problems) - sum(map(len, complete)),
    )


def _has_failed(result: RoundsResult) -> bool:
    """Whether a trajectory could not be generated: the round after it read fewer messages than K says."""
    return any(charge.finish == "failed" for charge in result.ledger.charges)


def _compare(problems: Sequence[Problem], run: _Run, point: SelfConsistencyPoint) -> ConfigurationResult:
    """A configuration beside the vote of equal cost."""
    by_tag: dict[str, dict[str, dict[str, Estimate]]] = {}
    for tag in tag_names(problems):
        tags_P = [problem.tags.get(tag) for problem in problems]
        for name, values_P in (("accuracy", run.accuracy_P), ("self_consistency", point.by_problem)):
            for value, estimate in estimates_by_tag(values_P, tags_P).items():
                by_tag.setdefault(tag, {}).setdefault(value, {})[name] = estimate
    return ConfigurationResult(
        configuration=run.configuration,
        accuracy=mean_share(run.accuracy_P),
        ttc_tokens=run.ttc_tokens,
        equal_ttc=point,
        minus_self_consistency=paired_difference(run.accuracy_P, point.by_problem),
        num_failed=run.num_failed,
        by_tag=by_tag,
        by_problem=run.accuracy_P,
    )


def _vote(
    problems: Sequence[Problem], verdicts: Sequence[Sequence[Verdict]], k: int, solo_tokens: float, seed: int
) -> SelfConsistencyPoint:
    """Votes of k answers redrawn from each problem's pool [P]; of all it has where failures left it fewer than k."""
    credit_P = tuple(
        self_consistency(
            pool,
            min(k, len(pool)),
            draws=NUM_REDRAWS,
            rng=draw_rng(seed, "configurations/votes", problem.id, k),
        )
        if pool
        else None
        for problem, pool in zip(problems, verdicts, strict=True)
    )
    return SelfConsistencyPoint(k=k, ttc_tokens=k * solo_tokens, accuracy=mean_share(credit_P), by_problem=credit_P)


def _powers(largest: int) -> list[int]:
    """1, 2, 4, ... up to ``largest``."""
    return [1 << exponent for exponent in range(largest.bit_length())]


def _accuracy(responses: Responses) -> float | None:
    return _mean([float(response.verdict.correct) for response in responses if response.countable])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
