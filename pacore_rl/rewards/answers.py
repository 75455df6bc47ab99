"""Who answers the questions that rules leave open. Here: threads of this process, each driving one killable child."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from pacore_rl.config import RewardConfig
from pacore_rl.machine import num_cores
from pacore_rl.rewards.base import Question, Tools
from pacore_rl.rewards.checker_pool import CheckerPool
from pacore_rl.rewards.code.open_sandboxes import OpenSandboxes
from pacore_rl.rewards.functions import FunctionPools
from pacore_rl.rewards.judge_client import Judge
from pacore_rl.rewards.registry import reward_of
from pacore_rl.types import Verdict


class Answers(Protocol):
    """Answers questions, so many at a time."""

    @property
    def num_workers(self) -> int: ...

    def limit_seconds(self, names: Iterable[str]) -> float:
        """No question of these rewards takes longer than this once it is begun; the judge's replies aside."""
        ...

    def submit(self, question: Question) -> Future[Verdict]:
        """The answer, which comes within the time limit of its reward. Raises ``RuntimeError`` after ``close``."""
        ...

    def close(self) -> None:
        """End everything that answers; what is open is cancelled. Safe to call twice."""
        ...


class LocalAnswers:
    """``reward.num_workers`` threads of this process, by default one a core; their children start when first needed."""

    MOST = 64
    """Threads by default: each may hold a sandbox, and on hosts of GPUs the engines need cores and memory too."""

    def __init__(self, config: RewardConfig) -> None:
        self.tools = Tools(
            config=config,
            checkers=CheckerPool(config.timeout_seconds),
            functions=FunctionPools(config.custom),
            judge=Judge(config.judge),
            sandboxes=OpenSandboxes(),
        )
        self.num_workers = config.num_workers or min(num_cores(), self.MOST)
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="scorer")

    def submit(self, question: Question) -> Future[Verdict]:
        asked = self._threads.submit(self._answer, question)
        future: Future[Verdict] = Future()
        asked.add_done_callback(lambda done: _pass_on(done, future))
        return future

    def limit_seconds(self, names: Iterable[str]) -> float:
        return longest_seconds(names, self.tools.config)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.tools.checkers.close()
        self.tools.functions.close()
        self.tools.judge.close()
        self.tools.sandboxes.close()
        self._threads.shutdown(wait=True)

    def _answer(self, question: Question) -> Verdict | Future[Verdict]:
        answer = reward_of(question.reward).answer
        assert answer is not None, f"reward {question.reward!r} asks but does not answer"
        return answer(question, self.tools)


def longest_seconds(names: Iterable[str], config: RewardConfig) -> float:
    """Of one attempt at a question of these rewards."""
    # A process takes up to twice the limit: once more after a failure of ours.
    each = 2 * max(config.timeout_seconds, config.custom.timeout_seconds) + 5
    return max([each, *(limit(config) for name in names if (limit := reward_of(name).limit_seconds) is not None)])


def _pass_on(done: Future[Verdict] | Future[Verdict | Future[Verdict]], to: Future[Verdict]) -> None:
    """What came of ``done``, or of the future that it came to."""
    if done.cancelled():
        to.cancel()
        to.set_running_or_notify_cancel()
    elif (error := done.exception()) is not None:
        to.set_exception(error)
    elif isinstance(result := done.result(), Future):
        result.add_done_callback(lambda later: _pass_on(later, to))
    else:
        to.set_result(result)
