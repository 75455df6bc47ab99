"""What an evaluation on benchmarks comes to, counted from its records alone.

Accuracy is pass@1: the mean over a problem's samples, then over problems. Intervals are over problems (``statistics``).
Runs that failed through our fault are left out of every mean and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pacore_rl.config_evaluation import BenchmarksConfig
from pacore_rl.evaluation.answer_records import AnswerRecord, read_answers
from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder, BenchmarkSet, Manifest
from pacore_rl.evaluation.benchmark_results import BenchmarkResult, ConditionResult, EqualTTC, Values
from pacore_rl.evaluation.conditions import Allowance, Condition, rounds_of, sequential_of
from pacore_rl.evaluation.configurations import SelfConsistencyPoint
from pacore_rl.evaluation.equivalence import merged
from pacore_rl.evaluation.statistics import Estimate, mean_amount, mean_share, paired_difference
from pacore_rl.evaluation.voting import majority_vote, pass_at_k, self_consistency
from pacore_rl.synthesis.draws import draw_rng
from pacore_rl.synthesis.message_pool import MessagePool, is_scored
from pacore_rl.types import PoolMessage, Verdict

NOT_VOTED_ON = ("code", "rubric")
"""Rewards whose verdicts carry no answer that votes could be counted on."""

Pools = Mapping[str, Sequence[PoolMessage]]


def main_conditions(settings: BenchmarksConfig) -> tuple[Condition, ...]:
    """Those that do not depend on what others cost."""
    conditions = [rounds_of(k) for k in settings.configurations]
    conditions += [sequential_of(n) for n in settings.sequential]
    conditions += [rounds_of(k, compacted=False) for k in settings.uncompacted]
    return tuple(dict.fromkeys(conditions))


def own_messages(folder: BenchmarkFolder, manifest: Manifest, name: str) -> dict[str, tuple[PoolMessage, ...]]:
    """The pool of every problem of the benchmark: messages of the evaluated model only, failed ones too."""
    pool = MessagePool.open(folder.pool(name))
    return {
        id: tuple(message for message in pool.messages(id) if message.model == manifest.model)
        for id in manifest.sets[name].problem_ids
    }


def scored_messages(folder: BenchmarkFolder, manifest: Manifest, name: str) -> dict[str, tuple[PoolMessage, ...]]:
    """Of ``own_messages`` those that could be generated and scored: what first rounds and votes draw from."""
    return _scored(own_messages(folder, manifest, name))


def _scored(pools: Pools) -> dict[str, tuple[PoolMessage, ...]]:
    return {id: tuple(filter(is_scored, messages)) for id, messages in pools.items()}


def allowance(records: Sequence[AnswerRecord], pools: Pools) -> Allowance | None:
    """What the complete runs of one condition used, each mean over samples, then problems; None where there are none.

    ``pools`` holds scored messages.
    """
    ids = tuple(pools)
    complete = [[record for record in own if record.is_complete] for own in _by_problem(records, ids)]
    if not any(complete) or not any(pools.values()):
        return None
    closing = [[float(record.rounds[-1].generated_tokens) for record in own] for own in complete]
    return Allowance(
        ttc_tokens=_over_problems(_ttc(complete)),
        solo_tokens=_over_problems(_solo_tokens(pools)),
        synthesis_tokens=_over_problems([_mean(own) for own in closing]),
    )


def baseline_conditions(
    settings: BenchmarksConfig, records: Sequence[AnswerRecord], pools: Pools
) -> tuple[Condition, ...]:
    """What must be generated to compare each compacted K vector at equal cost."""
    needed: list[Condition] = []
    for condition, own in _by_condition(records).items():
        allowed = allowance(own, pools) if _is_compared(condition) else None
        if allowed is not None:
            needed += _baselines_of(settings, allowed)
    return tuple(dict.fromkeys(needed))


def summarise(folder: BenchmarkFolder) -> tuple[BenchmarkResult, ...]:
    """Every benchmark of the folder that has been run, in the manifest's order, without ``unscored_benchmarks``.

    Raises:
        ValueError: no evaluation, a record that cannot be read, or nothing but failed runs.
    """
    manifest = folder.manifest()
    begun = [name for name in manifest.sets if folder.pool(name).exists()]
    results = tuple(result for name in begun if (result := _summarise(folder, manifest, name)) is not None)
    if begun and not results:
        raise ValueError(
            f"no solo answer of {', '.join(begun)} in {folder.path} could be generated and scored; run `pacore-rl "
            "evaluate` again on the same folder, and look at the reasons in the pool's records."
        )
    failed = [condition.label for result in results for condition in result.failed_conditions]
    if failed and not any(result.conditions for result in results):
        raise ValueError(
            f"every run of {', '.join(dict.fromkeys(failed))} failed to be generated or scored; run `pacore-rl "
            "evaluate` again on the same folder: it repeats those that failed."
        )
    return results


def unscored_benchmarks(folder: BenchmarkFolder, results: Sequence[BenchmarkResult]) -> dict[str, int]:
    """Those that ``summarise`` left out of its ``results``, by title: how many solo answers failed."""
    manifest, counted = folder.manifest(), {result.name for result in results}
    return {
        one.title: sum(map(len, own_messages(folder, manifest, name).values()))
        for name, one in manifest.sets.items()
        if name not in counted and folder.pool(name).exists()
    }


def _summarise(folder: BenchmarkFolder, manifest: Manifest, name: str) -> BenchmarkResult | None:
    one, settings = manifest.sets[name], manifest.settings
    written = own_messages(folder, manifest, name)
    pools = _scored(written)
    stands_for = folder.read_equivalence(name)
    counted = {id: [message.verdict for message in messages] for id, messages in pools.items()}
    if not any(counted.values()):
        return None
    votes = {id: merged(verdicts, stands_for.get(id, {})) for id, verdicts in counted.items()}
    solo_tokens = mean_amount(_solo_tokens(pools))
    votable = one.reward not in NOT_VOTED_ON
    tools = _Votes(verdicts=votes, solo_tokens=solo_tokens.mean, settings=settings, votable=votable)
    right = [[float(verdict.correct) for verdict in verdicts] for verdicts in counted.values()]
    records = [record for record in _records(folder, name) if record.problem_id in pools]
    grouped = _by_condition(records)
    num_wanted = one.samples_per_problem * len(one.problem_ids)
    num_complete = {condition: sum(record.is_complete for record in own) for condition, own in grouped.items()}
    results = {c: _condition_result(c, own, one, settings) for c, own in grouped.items() if num_complete[c]}
    named = main_conditions(settings)
    # K vectors that an earlier call on this folder ran stay; sequential runs may be baselines, and stand beside theirs.
    earlier = [c for c in grouped if c not in named and c.method == "rounds" and not c.is_sequential]
    due = [*named, *baseline_conditions(settings, [r for r in records if r.condition in named], pools)]
    begun = [c for c in (*earlier, *baseline_conditions(settings, records, pools)) if c in grouped]
    known = {c: grouped.get(c, []) for c in (*due, *begun)}
    smallest = min((len(verdicts) for verdicts in counted.values()), default=0)
    return BenchmarkResult(
        name=name,
        title=one.title,
        problem_ids=one.problem_ids,
        solo=mean_share([_mean(own) for own in right]),
        solo_tokens=solo_tokens,
        solo_pass_at=_pass_at(right, settings.pass_at),
        majority_vote=mean_share([majority_vote(v) if v else None for v in votes.values()]) if votable else None,
        self_consistency=tuple(tools.vote(k) for k in settings.vote_sizes if k <= smallest) if votable else (),
        conditions=tuple(
            _with_baselines(results, c, grouped[c], pools, tools) for c in (*named, *earlier) if c in results
        ),
        pool_size=smallest,
        num_failed_solo=sum(map(len, written.values())) - sum(map(len, pools.values())),
        num_failed_runs=sum(len(own) - num_complete.get(c, 0) for c, own in known.items()),
        num_missing_runs=sum(max(0, num_wanted - len(own)) for own in known.values()),
        failed_conditions={c: len(own) for c, own in known.items() if own and not num_complete[c]},
    )


def _records(folder: BenchmarkFolder, name: str) -> tuple[AnswerRecord, ...]:
    path = folder.answers(name)
    return read_answers(path) if path.exists() else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Votes:
    """Points counted on the pool of solo answers."""

    verdicts: Mapping[str, Sequence[Verdict]]
    """Problem: its solo verdicts, equal answers spelled alike."""
    solo_tokens: float
    settings: BenchmarksConfig
    votable: bool

    def vote(self, k: int) -> SelfConsistencyPoint:
        def credit(id: str, verdicts: Sequence[Verdict]) -> float:
            rng = draw_rng(self.settings.seed, "benchmarks/votes", id, k)
            return self_consistency(verdicts, min(k, len(verdicts)), draws=self.settings.redraws, rng=rng)

        return self._point(k, credit)

    def best_single(self, k: int) -> SelfConsistencyPoint:
        def credit(id: str, verdicts: Sequence[Verdict]) -> float:
            return pass_at_k(len(verdicts), sum(v.correct for v in verdicts), min(k, len(verdicts)))

        return self._point(k, credit)

    def _point(self, k: int, credit: Callable[[str, Sequence[Verdict]], float]) -> SelfConsistencyPoint:
        """Of the whole pool where it holds fewer than k."""
        values = tuple(credit(id, verdicts) if verdicts else None for id, verdicts in self.verdicts.items())
        largest = min(k, max(map(len, self.verdicts.values())))
        return SelfConsistencyPoint(
            k=largest, ttc_tokens=largest * self.solo_tokens, accuracy=mean_share(values), by_problem=values
        )


def _with_baselines(
    results: Mapping[Condition, ConditionResult],
    condition: Condition,
    records: Sequence[AnswerRecord],
    pools: Pools,
    tools: _Votes,
) -> ConditionResult:
    own = results[condition]
    if not _is_compared(condition):
        return own
    allowed, wanted = allowance(records, pools), tools.settings.baselines
    assert allowed is not None, "a condition without a complete run has no result"
    k = allowed.num_solo
    points = {
        "self_consistency": tools.vote(k) if tools.votable and "self_consistency" in wanted else None,
        "best_single": tools.best_single(k) if "best_single" in wanted else None,
    }
    others = [results[one] for one in _baselines_of(tools.settings, allowed) if one in results]
    values: dict[str, Values] = {name: point.by_problem for name, point in points.items() if point is not None}
    values |= {"sequential" if o.condition.is_sequential else "aggregation": o.by_problem for o in others}
    fields = {name: getattr(own, name) for name in ConditionResult.__slots__ if name != "equal_ttc"}
    return ConditionResult(
        **fields,
        equal_ttc=EqualTTC(
            num_trajectories=k,
            **points,
            others=tuple(others),
            minus={name: paired_difference(own.by_problem, baseline) for name, baseline in values.items()},
        ),
    )


def _is_compared(condition: Condition) -> bool:
    is_rounds = condition.method == "rounds" and bool(condition.configuration)
    return is_rounds and condition.compacted and not condition.is_sequential


def _baselines_of(settings: BenchmarksConfig, allowed: Allowance) -> list[Condition]:
    needed: list[Condition] = []
    if "sequential" in settings.baselines:
        needed.append(allowed.sequential())
    if "aggregation" in settings.baselines:
        needed.append(allowed.aggregation(population=settings.aggregation_population, group=settings.aggregation_group))
    return needed


def _condition_result(
    condition: Condition, records: Sequence[AnswerRecord], benchmark: BenchmarkSet, settings: BenchmarksConfig
) -> ConditionResult:
    by_problem = _by_problem(records, benchmark.problem_ids)
    counted = [[record for record in own if record.is_complete] for own in by_problem]
    credits = [[record.credit or 0.0 for record in own] for own in counted]
    accuracy = tuple(_mean(own) for own in credits)
    emergent = [_mean([record.credit or 0.0 for record in own if record.all_shown_wrong]) for own in counted]
    answers = [[answer for record in own for answer in record.answers] for own in counted]
    return ConditionResult(
        condition=condition,
        accuracy=mean_share(accuracy),
        ttc_tokens=mean_amount(_ttc(counted)),
        pass_at=_pass_at(credits, settings.pass_at) if condition.method == "rounds" else {},
        emergent_correct=mean_share(emergent) if any(value is not None for value in emergent) else None,
        cross_check_words=mean_amount([_mean([float(a.cross_checks) for a in own]) for own in answers]),
        cross_check_words_any_case=mean_amount(
            [_mean([float(a.cross_checks_any_case) for a in own]) for own in answers]
        ),
        truncated=mean_share([_mean([float(a.finish == "truncated") for a in own]) for own in answers]),
        num_samples=min(len(own) for own in counted),
        num_failed=len(records) - sum(map(len, counted)),
        num_missing=max(0, benchmark.samples_per_problem * len(benchmark.problem_ids) - len(records)),
        by_problem=accuracy,
    )


def _by_condition(records: Sequence[AnswerRecord]) -> dict[Condition, list[AnswerRecord]]:
    grouped: dict[Condition, list[AnswerRecord]] = {}
    for record in records:
        grouped.setdefault(record.condition, []).append(record)
    return grouped


def _by_problem(records: Sequence[AnswerRecord], problem_ids: Sequence[str]) -> list[list[AnswerRecord]]:
    grouped: dict[str, list[AnswerRecord]] = {id: [] for id in problem_ids}
    for record in records:
        if record.problem_id in grouped:
            grouped[record.problem_id].append(record)
    return list(grouped.values())


def _ttc(by_problem: Sequence[Sequence[AnswerRecord]]) -> Values:
    return tuple(_mean([float(record.ttc_tokens) for record in own]) for own in by_problem)


def _solo_tokens(pools: Pools) -> Values:
    return tuple(_mean([float(message.num_tokens) for message in messages]) for messages in pools.values())


def _pass_at(credits: Sequence[Sequence[float]], sizes: Sequence[int]) -> dict[int, Estimate]:
    """Unbiased pass@k for each k that every problem with a sample has samples enough for."""
    sampled = [own for own in credits if own]
    smallest = min(map(len, sampled), default=0)
    return {k: mean_share([pass_at_k(len(own), round(sum(own)), k) for own in sampled]) for k in sizes if k <= smallest}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _over_problems(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))
