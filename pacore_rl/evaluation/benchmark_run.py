"""Running benchmarks: solo answers into a pool, every condition on every problem, each record on disk as it ends.

    pool         pool_size solo answers per problem                            -> pools/NAME.jsonl
    conditions   K vectors, their variants                                     -> answers/NAME.jsonl
    baselines    sequential and aggregation runs of the same test-time compute -> answers/NAME.jsonl
    equivalence  which answers are the same, for the votes                     -> equivalence/NAME.jsonl

The baselines come last because what they may spend is measured on the K vectors.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pacore_rl.evaluation.answer_records import AnswerFile, AnswerRecord, RoundCost
from pacore_rl.evaluation.asking import Ask, Asker
from pacore_rl.evaluation.attempts import Attempt, AttemptResult, num_generated, start_attempt
from pacore_rl.evaluation.benchmark_folder import BenchmarkFolder, Manifest
from pacore_rl.evaluation.benchmark_metrics import baseline_conditions, main_conditions, scored_messages
from pacore_rl.evaluation.conditions import Condition
from pacore_rl.evaluation.equivalence import representatives
from pacore_rl.evaluation.responses import CROSS_CHECK_ANY_CASE, CROSS_CHECK_STRICT, ScoredResponse
from pacore_rl.interfaces import Pending, Scorer
from pacore_rl.reporting.progress import ProgressReport
from pacore_rl.synthesis.compaction import compact
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.plan import Reply
from pacore_rl.synthesis.pools import require_same_problems
from pacore_rl.types import PoolMessage, Problem, Verdict

SAMPLES_PER_ASK = 32
"""Solo answers that are asked for, and written, together."""
UNWRITTEN = 64
"""Results that may wait for their verdicts before the oldest is waited for and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRun:
    """One benchmark on its way. ``run`` does everything that is not on disk yet."""

    name: str
    problems: Sequence[Problem]
    folder: BenchmarkFolder
    manifest: Manifest
    asker: Asker
    scorer: Scorer

    def run(self) -> None:
        settings = self.manifest.settings
        self.fill_pool()
        pools = scored_messages(self.folder, self.manifest, self.name)
        answers = AnswerFile(self.folder.answers(self.name))
        try:
            main = main_conditions(settings)
            self._run_conditions(main, pools, answers)
            baselines = baseline_conditions(settings, answers.records(main), pools)
            self._run_conditions([one for one in baselines if one not in main], pools, answers)
        finally:
            answers.close()
        self.find_equivalence()

    def fill_pool(self) -> None:
        """Bring every problem's solo answers up to ``pool_size`` scored ones."""
        pool = MessagePool.open(self.folder.pool(self.name))
        require_same_problems(pool, self.problems)
        size, model = self.manifest.settings.pool_size, self.manifest.model
        missing = pool.missing([problem.id for problem in self.problems], size, model)
        asks = [
            Ask(
                problem=problem,
                messages=(),
                num_samples=min(SAMPLES_PER_ASK, missing[problem.id] - start),
                # The count enters the seed: a pool that is topped up must not repeat what it has.
                seed=draw_seed(
                    self.manifest.settings.seed, "benchmarks/pool", problem.id, len(pool.messages(problem.id)), start
                ),
            )
            for problem in self.problems
            for start in range(0, missing.get(problem.id, 0), SAMPLES_PER_ASK)
        ]
        waiting: deque[_PoolEntry] = deque()
        with ProgressReport(f"{self.name}: solo answers", sum(missing.values())) as report:

            def then(index: int, replies: tuple[Reply, ...]) -> Sequence[Ask]:
                waiting.append(self._scored_pool_entry(asks[index].problem, replies))
                report.advance(len(replies))
                if len(waiting) > UNWRITTEN:
                    pool.append(waiting.popleft().messages(model))
                return ()

            try:
                self.asker.answer(asks, then)
            finally:  # what has been generated is kept, whatever stopped the rest
                for entry in waiting:
                    pool.append(entry.messages(model))

    def find_equivalence(self) -> None:
        """Compare the answers of problems whose pool has grown since they were compared last."""
        known = self.folder.read_equivalence(self.name)
        pools = scored_messages(self.folder, self.manifest, self.name)
        with ProgressReport(f"{self.name}: equal answers", len(self.problems)) as report:
            for problem in self.problems:
                verdicts = [message.verdict for message in pools[problem.id]]
                if {verdict.answer for verdict in verdicts} - {None} - known.get(problem.id, {}).keys():
                    stands_for = representatives(verdicts, problem.reward, self.scorer)
                    self.folder.append_equivalence(self.name, problem.id, stands_for)
                report.advance(1)

    def _scored_pool_entry(self, problem: Problem, replies: tuple[Reply, ...]) -> _PoolEntry:
        texts = tuple(self._compact(reply) for reply in replies)
        verdicts = self.scorer.score(
            [(problem, text, reply.finish) for text, reply in zip(texts, replies, strict=True)]
        )
        return _PoolEntry(problem=problem, replies=replies, texts=texts, verdicts=verdicts)

    def _compact(self, reply: Reply) -> str:
        return compact(self.manifest.compaction, reply.text, reply.finish, self.manifest.end_of_reasoning)

    def _run_conditions(
        self, conditions: Sequence[Condition], pools: Mapping[str, Sequence[PoolMessage]], answers: AnswerFile
    ) -> None:
        num_samples = self.manifest.sets[self.name].samples_per_problem
        for condition in conditions:
            tasks = [
                _Task(condition=condition, problem=problem, sample=sample)
                for sample in range(num_samples)
                for problem in self.problems
                if not answers.has(condition, problem.id, sample)
            ]
            total = sum(num_generated(condition, pools, task.problem.id) for task in tasks)
            with ProgressReport(f"{self.name}: {condition.label}", total) as report:
                for batch in _batches(tasks, self.manifest.settings.attempts_per_batch):
                    self._run_batch(batch, pools, answers, report)

    def _run_batch(
        self,
        tasks: Sequence[_Task],
        pools: Mapping[str, Sequence[PoolMessage]],
        answers: AnswerFile,
        report: ProgressReport,
    ) -> None:
        waves = [_Wave(task=task, attempt=self._attempt(task, pools)) for task in tasks]
        origins: list[tuple[_Wave, int]] = []
        waiting: deque[_Answered] = deque()

        def asks_of(wave: _Wave) -> tuple[Ask, ...]:
            asks = wave.attempt.next_asks(self.asker)
            wave.replies, wave.num_asked = {}, len(asks)
            origins.extend((wave, position) for position in range(len(asks)))
            return asks

        def then(index: int, replies: tuple[Reply, ...]) -> Sequence[Ask]:
            wave, position = origins[index]
            wave.replies[position] = replies
            report.advance(len(replies))
            if len(wave.replies) < wave.num_asked:
                return ()
            wave.attempt.receive([wave.replies[i] for i in range(wave.num_asked)])
            if wave.attempt.result is None:
                return asks_of(wave)
            waiting.append(self._start_scoring(wave.task, wave.attempt.result))
            while len(waiting) > UNWRITTEN:
                answers.append([waiting.popleft().record()])
            return ()

        try:
            self.asker.answer([ask for wave in waves for ask in asks_of(wave)], then)
        finally:  # what has been answered is kept, whatever stopped the rest
            answers.append([answered.record() for answered in waiting])

    def _attempt(self, task: _Task, pools: Mapping[str, Sequence[PoolMessage]]) -> Attempt:
        return start_attempt(
            task.problem,
            task.condition,
            pool=pools.get(task.problem.id),
            compaction=self.manifest.compaction,
            end_of_reasoning=self.manifest.end_of_reasoning,
            seed=draw_seed(self.manifest.settings.seed, "benchmarks/run", task.condition.key, task.sample),
        )

    def _start_scoring(self, task: _Task, result: AttemptResult) -> _Answered:
        """The answers with the scorer, and those messages that they were made of and that have no verdict yet."""
        own = self.scorer.score(
            [(task.problem, text, reply.finish) for text, reply in zip(result.conclusions, result.finals, strict=True)]
        )
        fresh = self.scorer.score(
            [(task.problem, text, finish) for text, (finish, verdict) in result.shown if verdict is None]
        )
        return _Answered(task=task, result=result, verdicts=own, shown_verdicts=fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    condition: Condition
    problem: Problem
    sample: int


@dataclass(slots=True, kw_only=True)
class _Wave:
    """An attempt, and what has come of its latest asks."""

    task: _Task
    attempt: Attempt
    replies: dict[int, tuple[Reply, ...]] = field(default_factory=dict[int, tuple[Reply, ...]])
    num_asked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _PoolEntry:
    """Solo answers to a problem, their verdicts under way."""

    problem: Problem
    replies: tuple[Reply, ...]
    texts: tuple[str, ...]
    verdicts: Pending[list[Verdict]]

    def messages(self, model: str) -> list[PoolMessage]:
        question = self.problem.fingerprint
        return [
            PoolMessage(
                problem_id=self.problem.id,
                text=text,
                finish=reply.finish,
                verdict=verdict,
                num_tokens=reply.generated_tokens,
                model=model,
                question=question,
            )
            for text, reply, verdict in zip(self.texts, self.replies, self.verdicts.result(), strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """A finished attempt, its verdicts under way."""

    task: _Task
    result: AttemptResult
    verdicts: Pending[list[Verdict]]
    shown_verdicts: Pending[list[Verdict]]
    """Of those messages shown that had none."""

    def record(self) -> AnswerRecord:
        fresh = iter(self.shown_verdicts.result())
        shown = [verdict if verdict is not None else next(fresh) for _, (_, verdict) in self.result.shown]
        return AnswerRecord(
            problem_id=self.task.problem.id,
            condition=self.task.condition,
            sample=self.task.sample,
            answers=tuple(
                _response(reply, text, verdict)
                for reply, text, verdict in zip(
                    self.result.finals, self.result.conclusions, self.verdicts.result(), strict=True
                )
            ),
            shown_correct=tuple(None if verdict.outcome.endswith("_error") else verdict.correct for verdict in shown),
            num_dropped=self.result.num_dropped,
            rounds=_costs(self.result),
        )


def _response(reply: Reply, text: str, verdict: Verdict) -> ScoredResponse:
    return ScoredResponse(
        message=text,
        finish=reply.finish,
        verdict=verdict,
        num_tokens=reply.generated_tokens,
        cross_checks=len(CROSS_CHECK_STRICT.findall(reply.text)),
        cross_checks_any_case=len(CROSS_CHECK_ANY_CASE.findall(reply.text)),
    )


def _costs(result: AttemptResult) -> tuple[RoundCost, ...]:
    failed = Counter(charge.round_index for charge in result.ledger.charges if charge.finish == "failed")
    return tuple(
        RoundCost(
            num_trajectories=cost.num_calls,
            generated_tokens=cost.generated_tokens,
            prompt_tokens=cost.prompt_tokens,
            cached_tokens=cost.cached_tokens,
            wasted_tokens=cost.wasted_tokens,
            num_failed=failed[index],
        )
        for index, cost in result.ledger.by_round().items()
    )


def _batches(tasks: Sequence[_Task], size: int) -> Iterator[Sequence[_Task]]:
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]
