"""``RuleScorer``: scores responses; ``LocalScorer`` does so on this machine (``engine.scoring`` on a cluster).

Most answers are settled by rules in the caller's thread. What is left is asked once and remembered: ``answers`` says
who answers. Safe to use from any thread or from inside an event loop: ``score`` does not wait, and no signal is used in
the calling process.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.answers import Answers, LocalAnswers
from pacore_rl.rewards.base import Question, failed, unparsed
from pacore_rl.rewards.children import START_SECONDS
from pacore_rl.rewards.extract import message_of
from pacore_rl.rewards.registry import reward_of
from pacore_rl.types import Finish, Problem, Verdict

MAX_REMEMBERED = 100_000
"""Answered questions kept; the least recently asked are forgotten first."""
FAILURES = ("sandbox_error", "judge_error")

_Slot = Verdict | Future[Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingVerdicts:
    """Verdicts under way, in the order of the items."""

    slots: tuple[_Slot, ...]
    limit_seconds: float

    def result(self) -> list[Verdict]:
        """Wait for all of them. Raises ``RuntimeError`` where the scorer was closed meanwhile or the judge's policy on
        errors is abort, and ``TimeoutError`` after ``limit_seconds``, which every time limit of ours comes before."""
        deadline = time.monotonic() + self.limit_seconds
        try:
            return [
                slot if isinstance(slot, Verdict) else slot.result(max(0.0, deadline - time.monotonic()))
                for slot in self.slots
            ]
        except CancelledError as error:
            raise RuntimeError("the scorer was closed before it had scored everything.") from error
        except TimeoutError as error:
            waiting = sum(isinstance(slot, Future) and not slot.done() for slot in self.slots)
            raise TimeoutError(
                f"{waiting} of {len(self.slots)} responses were not scored within {self.limit_seconds:.0f} s; is the "
                "machine overloaded?"
            ) from error


class RuleScorer:
    """Settles by rules what they settle, and asks ``answers`` for the rest; a ``pacore_rl.interfaces.Scorer``.

    ``end_of_reasoning`` is the marker after whose last occurrence the message stands; where it is missing the message
    is empty. An empty marker takes the whole response as the message. The scorer owns ``answers`` and closes it.
    """

    def __init__(self, config: RewardConfig, end_of_reasoning: str, answers: Answers) -> None:
        self._config = config
        self._end_of_reasoning = end_of_reasoning
        self._answers = answers
        self._lock = threading.Lock()
        self._asked: OrderedDict[Question, Future[Verdict]] = OrderedDict()
        self._num_waiting = 0

    @property
    def num_workers(self) -> int:
        """Questions that are answered at a time."""
        return self._answers.num_workers

    def score(self, items: Sequence[tuple[Problem, str, Finish]]) -> PendingVerdicts:
        """Verdicts of ``(problem, response text, how it ended)``, in order, without waiting for them.

        Equal questions are answered once. Raises ``ValueError`` for a reward that does not exist, ``RuntimeError``
        after ``close``.
        """
        slots = tuple(self._score(*item) for item in items)
        names = {self._reward_name(problem) for problem, _, _ in items}
        return PendingVerdicts(slots=slots, limit_seconds=self._limit_seconds(names))

    def _reward_name(self, problem: Problem) -> str:
        return self._config.custom.name or problem.reward

    def _limit_seconds(self, names: Iterable[str]) -> float:
        """No question of these rewards that waits now takes longer than this."""
        config = self._config
        with self._lock:
            waiting = self._num_waiting
        each = self._answers.limit_seconds(names)
        judged = 0.0
        if config.judge.base_url is not None:
            judged = config.judge.question_timeout_seconds * (waiting // config.judge.max_concurrent + 1)
        return START_SECONDS + (waiting / self.num_workers + 1) * each + judged

    def close(self) -> None:
        """End every thread and process of the scorer. Safe to call twice."""
        self._answers.close()

    def _score(self, problem: Problem, response: str, finish: Finish) -> _Slot:
        if finish != "stopped":
            return _unfinished(finish)
        message = message_of(response, self._end_of_reasoning)
        if message is None:
            return unparsed(f"the reasoning never closed (no {self._end_of_reasoning})")
        reward = reward_of(self._reward_name(problem))
        settled = reward.settle(message, problem.ground_truth)
        if isinstance(settled, Verdict):
            return settled
        return self.ask(settled if reward.context is None else replace(settled, context=reward.context(problem)))

    def ask(self, question: Question) -> Future[Verdict]:
        """The answer to a question, from memory where it has been asked before."""
        with self._lock:
            known = self._asked.get(question)
            if known is not None:
                self._asked.move_to_end(question)
                return known
            self._asked[question] = future = self._answers.submit(question)
            self._num_waiting += 1
            while len(self._asked) > MAX_REMEMBERED:
                self._asked.popitem(last=False)
        future.add_done_callback(lambda done: self._settled(question, done))
        return future

    def _settled(self, question: Question, done: Future[Verdict]) -> None:
        """Forget failures of ours, so that the same answer is tried again when it comes again."""
        is_lasting = not done.cancelled() and done.exception() is None and done.result().outcome not in FAILURES
        with self._lock:
            self._num_waiting -= 1
            if not is_lasting and self._asked.get(question) is done:
                del self._asked[question]


class LocalScorer(RuleScorer):
    """Scores on this machine, with children of this process."""

    _answers: LocalAnswers

    def __init__(self, config: RewardConfig, end_of_reasoning: str) -> None:
        super().__init__(config, end_of_reasoning, LocalAnswers(config))


@contextmanager
def open_scorer(config: RewardConfig) -> Iterator[LocalScorer]:
    """A scorer of compacted messages for the length of a ``with`` block: there is no reasoning left to cut off."""
    scorer = LocalScorer(config, end_of_reasoning="")
    try:
        yield scorer
    finally:
        scorer.close()


def _unfinished(finish: Finish) -> Verdict:
    """Only a response that its model ended by itself can earn a reward (Open-Reasoner-Zero's rule)."""
    match finish:
        case "truncated":
            reason = "cut off at the token budget"
            return Verdict(reward=0.0, correct=False, outcome="truncated", reason=reason)
        case "failed":
            return failed("the engine could not generate the response")
        case "empty":
            return unparsed("the response is empty")
        case "overflow":
            return unparsed("the prompt left no room for a response")
        case "stopped" | "unfinished":
            raise AssertionError("a finished response is scored, one to be continued is not")
