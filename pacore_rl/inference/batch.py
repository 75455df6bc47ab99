"""Many questions, each through its rounds, their answers on disk as they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.failures import RunStopped
from pacore_rl.inference.answer_file import AnswerFile, answer_record, num_failed_calls
from pacore_rl.inference.answering import Answered, Answerer
from pacore_rl.inference.client import Client
from pacore_rl.inference.connect import check_longest, find_model
from pacore_rl.inference.journal import CallJournal
from pacore_rl.inference.questions import Question
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.reporting.progress import ProgressReport
from pacore_rl.synthesis.ledger import Cost
from pacore_rl.synthesis.plan import RoundsPlan

TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What a batch is asked under."""

    endpoints: tuple[Endpoint, ...]
    model: str | None
    """None: the only one that is served."""
    plan: RoundsPlan
    sampling: Mapping[str, Any]
    """temperature, top_p, max_tokens, ... of every call."""
    reserve_tokens: int | None = None
    window_tokens: int | None = None
    client: ClientSettings
    keep_calls: bool = False
    """Keep the journal of calls once every problem has ended, none of whose calls failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch ended."""

    model: str
    outcomes: Mapping[str, int]
    """Problems of the file by outcome, those of earlier runs among them."""
    num_incomplete: int
    """Those of them that read fewer messages than their level says, since calls before the closing one failed. The
    next run tries them again, as it does those whose outcome is ``failed``."""
    num_resumed: int
    """Problems that an earlier run had ended."""
    num_replayed_calls: int
    """Calls of earlier runs that were found in the journal."""
    cost: Cost
    """Of the problems that this run ended."""
    num_retries: int
    seconds: float

    @property
    def num_problems(self) -> int:
        return sum(self.outcomes.values())


def answer_questions(questions: Sequence[Question], out: Path, options: BatchOptions) -> BatchSummary:
    """Answer every question that ``out`` does not hold yet.

    Raises EndpointError (a ValueError) before the first call where the endpoint, the model or the window will not do,
    and RunStopped where no endpoint can be reached any more: what is done stays, and the same call goes on from there.
    """
    with _first_of_group():
        return asyncio.run(_Batch(questions, out, options).run())


def journal_path(out: Path) -> Path:
    """Where the calls of a batch are kept while it runs."""
    return out.with_name(f"{out.name}.calls.jsonl")


class _Batch:
    def __init__(self, questions: Sequence[Question], out: Path, options: BatchOptions) -> None:
        self._questions = questions
        self._out = out
        self._options = options
        self._cost = Cost()
        self._outcomes: dict[str, int] = {}
        self._num_incomplete = 0
        self._num_resumed = 0

    async def run(self) -> BatchSummary:
        options, started = self._options, time.monotonic()
        async with Client(options.endpoints, options.client) as client:
            model = await find_model(
                client,
                options.model,
                options=options.sampling,
                reserve_tokens=options.reserve_tokens,
                window_tokens=options.window_tokens,
            )
            plan = options.plan
            settings = {
                "model": model.name,
                "configuration": list(plan.configuration),
                "compactions": list(plan.compactions),
                "end_of_reasoning": plan.end_of_reasoning,
                "seed": plan.seed,
                "sampling": dict(options.sampling),
                "reserve_tokens": model.reserve_tokens,
            }
            asked = {question.id: question.fingerprint for question in self._questions}
            with AnswerFile(self._out, settings, asked) as file, CallJournal(journal_path(self._out)) as journal:
                left = [question for question in self._questions if question.id not in file.done]
                self._num_resumed = len(self._questions) - len(left)
                for question in self._questions:
                    if question.id in file.done:
                        self._count(file.done[question.id])
                answerer = Answerer(client, model, journal=journal)
                await check_longest(model, answerer.counter, {question.id: question.messages for question in left})
                await self._answer(left, answerer, file, settings)
                is_over = not self._outcomes.get("failed") and not self._num_incomplete and not file.unasked
                if is_over and not options.keep_calls:
                    journal.path.unlink(missing_ok=True)
            return BatchSummary(
                model=model.name,
                outcomes=dict(sorted(self._outcomes.items())),
                num_incomplete=self._num_incomplete,
                num_resumed=self._num_resumed,
                num_replayed_calls=journal.num_replayed,
                cost=self._cost,
                num_retries=client.counters.num_retries,
                seconds=time.monotonic() - started,
            )

    async def _answer(
        self, left: Sequence[Question], answerer: Answerer, file: AnswerFile, settings: Mapping[str, Any]
    ) -> None:
        """Several problems at a time, enough of them that the endpoints' slots are in use in the closing rounds too."""
        client = answerer.client
        num_slots = client.settings.max_open_calls * len(client.replicas)
        plan = self._options.plan
        num_parallel = max(2, -(-2 * num_slots // max(plan.configuration, default=1)))
        waiting = iter(enumerate(left))
        rate = _Rate(client)
        with ProgressReport("problems", len(left), note=rate.note) as report:

            async def work() -> None:
                for priority, question in waiting:
                    started = time.monotonic()
                    answered = await answerer.answer(question.id, question.messages, plan, priority=priority)
                    self._stop_if_unreachable(answered)
                    seconds = time.monotonic() - started
                    record = answer_record(answered, settings, question=question.fingerprint, seconds=seconds)
                    file.append(record)
                    self._count(record)
                    self._cost += answered.rounds.ledger.total
                    report.advance(1)

            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(_tick(report))
                workers = [group.create_task(work()) for _ in range(min(num_parallel, len(left)))]
                await asyncio.gather(*workers)
                ticking.cancel()

    def _count(self, record: Mapping[str, Any]) -> None:
        outcome = record["outcome"]
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._num_incomplete += outcome != "failed" and num_failed_calls(record) > 0

    def _stop_if_unreachable(self, answered: Answered) -> None:
        """Of any round: where the closing call was answered all the same, it read fewer messages than it should."""
        for completion in (completion for completions in answered.completions for completion in completions):
            failure = completion.failure
            if failure is not None and failure.kind in ("unreachable", "unauthorized"):
                raise RunStopped(
                    f"{failure.message}. What had been answered lies in {self._out}; see to the endpoint, and give the "
                    "same command again: it goes on from there."
                )


class _Rate:
    """Tokens a second over the latest ``TICK_SECONDS`` or more."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._last = (clock(), 0)
        self._rate = 0.0

    def note(self) -> str:
        now, pieces = self._clock(), self._client.counters.num_pieces
        elapsed = now - self._last[0]
        if elapsed >= TICK_SECONDS:
            self._rate = (pieces - self._last[1]) / elapsed
            self._last = (now, pieces)
        num_open = sum(replica.slots.num_open for replica in self._client.replicas)
        return f"{self._rate:,.0f} tokens/s  {num_open:,} calls open"


async def _tick(report: ProgressReport) -> None:
    while True:
        report.advance(0)
        await asyncio.sleep(TICK_SECONDS)


@contextmanager
def _first_of_group() -> Iterator[None]:
    """The first error of a task group in its place: the others are its echoes."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
