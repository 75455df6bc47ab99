"""Candidates for tests."""

from __future__ import annotations

from data_curation.records import Candidate
from pacore_rl.types import Problem, Turn


def candidate(
    statement: str, answer: str = "7", *, id: str = "p", source: str = "s", reward: str = "math"
) -> Candidate:
    problem = Problem(
        id=id, conversation=(Turn(role="user", content=statement),), ground_truth=answer, reward=reward, source=source
    )
    return Candidate(problem=problem, licence="MIT")
