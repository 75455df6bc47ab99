"""Answers the questions of a scorer in a process of its own, on whichever node Ray puts it."""

from __future__ import annotations

import os

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.answers import LocalAnswers
from pacore_rl.rewards.base import Question
from pacore_rl.types import Verdict


class ScoringWorker:
    """A Ray actor. Its children (checkers, sandboxes) hold a socket of this process, and end when it does."""

    def __init__(self, config: RewardConfig) -> None:
        """``config.num_workers``: questions that this worker answers at once."""
        self._answers = LocalAnswers(config)

    def answer(self, question: Question) -> Verdict:
        """Its verdict; failures of the answer's own kind (a sandbox, a checker) are verdicts too."""
        return self._answers.submit(question).result()  # the controller limits this wait, and kills who exceeds it

    def pid(self) -> int:
        """Tells that it has started."""
        return os.getpid()

    def close(self) -> None:
        """End every child."""
        self._answers.close()
