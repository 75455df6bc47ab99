"""The judge filter: a model votes several times on whether a problem is well posed with one checkable answer, and only
unanimity lets it through (paper, Appendix C: four votes of four).

    problem -> vote 1 .. V (to the first no) -> attempts (a new seed while a reply says neither yes nor no)

Votes are remembered on disk by everything they depend on: an interrupted run, or one with more votes, asks for what is
missing. What cannot be decided is a counted drop, never a silent yes or no.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_curation.chat import ChatModel, EndpointDown, FailureWatch, OpenModel, each
from data_curation.endpoints import open_model
from data_curation.records import Candidate, Drop, Progress, Sifted, drop, unwatched
from pacore_rl.append_log import KeyedLog
from pacore_rl.config_endpoints import JudgeFilterConfig
from pacore_rl.rewards.judge_prompt import read_verdict
from pacore_rl.types import Turn

NAME = "judge"
PROMPT = (Path(__file__).parent / "prompts" / "well_posed.txt").read_text(encoding="utf-8")
VERSION = hashlib.sha256(PROMPT.encode()).hexdigest()[:12]
"""A change of the prompt forgets every remembered vote."""
SEEDS_APART = 1_000
"""Between two attempts at a vote; votes take the seeds 0, 1, 2, ... of each."""

Vote = Literal["yes", "no", "neither"]
"""``neither``: none of the attempts ended with a verdict."""
Outcome = Literal["yes", "no", "neither", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """What became of one problem."""

    votes: tuple[Vote, ...]
    """As far as they went: they end with the first that is not yes."""
    failure: str = ""
    """Why the next vote could not be had."""
    is_refused: bool = False
    """The endpoint refused the problem itself: asking later would not help."""

    @property
    def outcome(self) -> Outcome:
        """``yes``: unanimous; ``failed``: undecided for want of a reply."""
        if self.votes and self.votes[-1] != "yes":
            return self.votes[-1]
        return "failed" if self.failure else "yes"

    def reason(self, num_votes: int) -> str:
        """One sentence for the funnel."""
        match self.outcome:
            case "yes":
                return f"the judge said yes {num_votes} of {num_votes} times"
            case "no":
                return f"the judge said no in vote {len(self.votes)} of {num_votes}"
            case "neither":
                return f"the judge said neither yes nor no in vote {len(self.votes)} of {num_votes}"
            case "failed":
                return f"no vote could be had: {self.failure}"[:300]


class JudgeFilter:
    """A ``records.Filter`` for problems in mathematics; others pass, since tests check them."""

    name = NAME

    def __init__(self, config: JudgeFilterConfig, cache: KeyedLog, *, open_judge: OpenModel | None = None) -> None:
        """``open_judge``: gives the model in place of the endpoints of ``config``."""
        self._config, self._cache = config, cache
        self._open_judge = open_judge or self._behind_endpoints
        self.on_progress: Progress = unwatched
        self.num_calls = 0
        """Replies that were asked for so far, by all calls of this filter."""

    def _behind_endpoints(self) -> AbstractAsyncContextManager[ChatModel]:
        config = self._config
        return open_model(config, max_tokens=config.max_reply_tokens, temperature=config.temperature)

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        """Vote on a batch.

        Raises:
            EndpointDown: the endpoint is down, or more than ``max_failed_share`` of the batch got no reply. Every vote
                that was had is on disk.
        """
        asked = [candidate for candidate in candidates if candidate.domain == "math"]
        ballots = self.ballots([(one.statement, one.problem.ground_truth) for one in asked])
        of = {candidate.id: ballot for candidate, ballot in zip(asked, ballots, strict=True)}
        self._check_failures(ballots)
        kept: list[Candidate] = []
        drops: list[Drop] = []
        for candidate in candidates:
            ballot = of.get(candidate.id)
            if ballot is None or ballot.outcome == "yes":
                kept.append(candidate)
            else:
                drops.append(drop(candidate, step=NAME, reason=ballot.reason(self._config.votes)))
        return Sifted(kept=tuple(kept), drops=tuple(drops))

    def ballots(self, problems: Sequence[tuple[str, str]]) -> list[Ballot]:
        """The ballot of each (statement, reference answer), in order. Raises ``EndpointDown``."""
        return asyncio.run(self._ballots(problems))

    async def _ballots(self, problems: Sequence[tuple[str, str]]) -> list[Ballot]:
        watch = FailureWatch(self._config, done=str(self._cache.path))
        ballots: dict[int, Ballot] = {}
        async with self._open_judge() as judge:

            async def vote(number: int) -> tuple[int, Ballot]:
                return number, await self._vote(judge, watch, *problems[number])

            num_workers = self._config.max_concurrent * max(1, len(self._config.base_urls))
            async for number, ballot in each(range(len(problems)), vote, num_workers=num_workers):
                ballots[number] = ballot
                self.on_progress(len(ballots), len(problems))
        return [ballots[number] for number in range(len(problems))]

    async def _vote(self, judge: ChatModel, watch: FailureWatch, statement: str, answer: str) -> Ballot:
        config = self._config
        key = (NAME, judge.name, VERSION, config.temperature, config.max_reply_tokens, statement, answer)
        remembered = self._cache.get(key)
        votes: list[Vote] = [] if remembered is None else remembered["votes"][: config.votes]
        num_remembered, failure, is_refused = len(votes), "", False
        while len(votes) < config.votes and votes[-1:] in ([], ["yes"]):
            vote, failure, is_refused = await self._one_vote(judge, watch, statement, answer, len(votes))
            if vote is None:
                break
            votes.append(vote)
        if len(votes) > num_remembered:
            self._cache.put(key, {"votes": votes})
        return Ballot(votes=tuple(votes), failure=failure, is_refused=is_refused)

    async def _one_vote(
        self, judge: ChatModel, watch: FailureWatch, statement: str, answer: str, number: int
    ) -> tuple[Vote | None, str, bool]:
        """(vote, failure, whether the endpoint refused what was asked); no vote where there is a failure."""
        conversation = (Turn(role="user", content=prompt_for(statement, answer)),)
        for attempt in range(self._config.attempts):
            self.num_calls += 1
            reply = await judge.reply(conversation, seed=number + SEEDS_APART * attempt)
            watch.see(reply)
            if reply.failure:
                return None, reply.failure, reply.is_refused
            verdict = read_verdict(reply.text)
            if verdict is not None:
                return ("yes" if verdict else "no"), "", False
        return "neither", "", False

    def _check_failures(self, ballots: Sequence[Ballot]) -> None:
        """Few failures are drops; many would bend the set towards what is answered quickly."""
        failed = [one for one in ballots if one.outcome == "failed" and not one.is_refused]
        if len(failed) > self._config.max_failed_share * len(ballots):
            raise EndpointDown(
                f"{len(failed)} of {len(ballots)} problems got no vote, more than "
                f"max_failed_share={self._config.max_failed_share:g}; the last failure: {failed[-1].failure}. The "
                f"votes that were had are kept in {self._cache.path}: repair the endpoint and start again."
            )


def prompt_for(statement: str, answer: str) -> str:
    """The prompt. The fence depends on the content, so that a statement cannot contain it."""
    content = "\x00".join((statement, answer))
    fence = "=====" + hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:24]
    return PROMPT.format(fence=fence, statement=statement, answer=answer).encode(errors="replace").decode()
