"""Answers the questions of a scorer in a process of its own, on whichever node Ray puts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import ray

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.answers import LocalAnswers
from pacore_rl.rewards.base import Question
from pacore_rl.rewards.registry import reward_of
from pacore_rl.types import Verdict


class ScoringWorker:
    """A Ray actor. Its children (checkers, sandboxes) hold a socket of this process, and end when it does."""

    def __init__(self, config: RewardConfig, search_path: Sequence[str]) -> None:
        """
        Args:
            config: its ``num_workers`` is the number of questions that this worker answers at once.
            search_path: where the controller finds modules, such as a reward of the user's.
        """
        sys.path += [folder for folder in search_path if folder not in sys.path]
        self._config = config
        self._answers = LocalAnswers(config)

    def answer(self, question: Question, ground_truth: str | None = None) -> Verdict:
        """Its verdict; failures of the answer's own kind (a sandbox, a checker) are verdicts too.

        Args:
            ground_truth: the question's, where it travelled apart.
        """
        if ground_truth is not None:
            question = replace(question, ground_truth=ground_truth)
        return self._answers.submit(question).result()  # the controller limits this wait, and kills who exceeds it

    def unready(self, rewards: Sequence[str]) -> tuple[str, str | None]:
        """This node's address, and why it cannot score by one of the rewards; None: it can."""
        for name in rewards:
            complain = reward_of(name).unready
            if complain is not None and (complaint := complain(self._config)) is not None:
                return ray.util.get_node_ip_address(), complaint
        return ray.util.get_node_ip_address(), None

    def pid(self) -> int:
        """Tells that it has started."""
        return os.getpid()

    def close(self) -> None:
        """End every child."""
        self._answers.close()
