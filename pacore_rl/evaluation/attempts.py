"""One answer to one problem under one condition, without input or output: asks out, replies in, a result at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pacore_rl.evaluation.asking import Ask, Asker
from pacore_rl.evaluation.conditions import Condition
from pacore_rl.synthesis.compaction import compact
from pacore_rl.synthesis.draws import answered, draw_rng, draw_seed, fitting, shuffled_indices
from pacore_rl.synthesis.ledger import Charge, TTCLedger
from pacore_rl.synthesis.plan import Reply, RoundsPlan
from pacore_rl.synthesis.rounds import ProblemRounds
from pacore_rl.types import Finish, PoolMessage, Problem, Verdict

Seen = tuple[Finish, Verdict | None]
"""How a message's trajectory ended, and its verdict where it is known already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """What came of an attempt, unscored."""

    finals: tuple[Reply, ...]
    """The closing trajectory; the last wave of an aggregation."""
    conclusions: tuple[str, ...]
    """What each of them concluded; "" where it did not."""
    shown: tuple[tuple[str, Seen], ...]
    """The messages that the closing prompt showed; () for an aggregation, whose candidates saw different ones."""
    ledger: TTCLedger
    num_dropped: int
    """Messages that a prompt left out: empty, failed, or too long for the window."""


class Attempt(Protocol):
    """An attempt under way. Every ask of a wave is answered before the next wave is asked for."""

    result: AttemptResult | None

    def next_asks(self, asker: Asker) -> tuple[Ask, ...]: ...

    def receive(self, replies: Sequence[Sequence[Reply]]) -> None:
        """The replies to the latest asks, in their order."""
        ...


def start_attempt(
    problem: Problem,
    condition: Condition,
    *,
    pool: Sequence[PoolMessage] | None,
    compaction: str,
    end_of_reasoning: str,
    seed: int,
) -> Attempt:
    """The first round comes from ``pool`` where there is one that is large enough, and is generated otherwise.

    ``pool`` holds scored messages only: one that failed would be drawn as an empty message and make the round smaller.
    """
    usable = pool if pool is not None and 0 < condition.first_round <= len(pool) else None
    if condition.method == "aggregation":
        return AggregationAttempt(
            problem, condition, pool=usable, compaction=compaction, end_of_reasoning=end_of_reasoning, seed=seed
        )
    return RoundsAttempt(
        problem,
        condition,
        pool=usable if condition.compacted else None,  # the pool holds compacted messages
        compaction=compaction,
        end_of_reasoning=end_of_reasoning,
        seed=seed,
    )


class RoundsAttempt:
    """A K vector."""

    def __init__(
        self,
        problem: Problem,
        condition: Condition,
        *,
        pool: Sequence[PoolMessage] | None,
        compaction: str,
        end_of_reasoning: str,
        seed: int,
    ) -> None:
        size = len(condition.configuration)
        names = (compaction,) * (size + 1) if condition.compacted else ("none",) * size + (compaction,)
        plan = RoundsPlan.of(condition.configuration, compaction=names, end_of_reasoning=end_of_reasoning, seed=seed)
        self.result: AttemptResult | None = None
        self._problem = problem
        self._rounds = ProblemRounds(problem.id, plan)
        self._seen: dict[str, Seen] = {}
        if pool is not None:
            drawn = self._rounds.receive_pool(pool)
            # Of equal texts the finished one counts: a truncated one is scored wrong whatever it says.
            finished_last = sorted(drawn, key=lambda message: message.finish == "stopped")
            self._seen = {message.text: (message.finish, message.verdict) for message in finished_last}

    def next_asks(self, asker: Asker) -> tuple[Ask, ...]:
        steps = self._rounds.next_call(room_tokens=asker.room_tokens)
        call = answered(steps, lambda messages: asker.prompt_tokens(self._problem, messages))
        return (Ask(problem=self._problem, messages=call.messages, num_samples=call.num_samples, seed=call.seed),)

    def receive(self, replies: Sequence[Sequence[Reply]]) -> None:
        (sampled,) = replies
        rounds = self._rounds
        rounds.receive(sampled)
        plan, call = rounds.plan, rounds.calls[-1]
        name = plan.compactions[call.round_index]
        if not call.is_final:
            self._seen = {
                compact(name, reply.text, reply.finish, plan.end_of_reasoning): (reply.finish, None)
                for reply in sorted(sampled, key=lambda reply: reply.finish == "stopped")
            }
            return
        self.result = AttemptResult(
            finals=tuple(sampled),
            conclusions=tuple(answer.text or "" for answer in rounds.answers),
            shown=tuple((message, self._seen[message]) for message in call.messages),
            ledger=rounds.ledger,
            num_dropped=rounds.num_dropped,
        )


class AggregationAttempt:
    """Recursive aggregation: a population, of which every wave makes each new candidate from a small random group.

    The answer is one of the last wave's candidates at random: its credit is their mean. The groups are shown in the
    synthesis prompt P(x, M), so that only the way of spending differs from PaCoRe.

    Reference: Venkatraman et al. 2025, "Recursive Self-Aggregation", arXiv 2509.26626.
    """

    def __init__(
        self,
        problem: Problem,
        condition: Condition,
        *,
        pool: Sequence[PoolMessage] | None,
        compaction: str,
        end_of_reasoning: str,
        seed: int,
    ) -> None:
        self.result: AttemptResult | None = None
        self._problem, self._condition, self._seed = problem, condition, seed
        self._compaction, self._end_of_reasoning = compaction, end_of_reasoning
        self._ledger = TTCLedger()
        self._candidates: list[str] = []
        self._wave = 0
        self._num_dropped = 0
        if pool is not None:
            order = shuffled_indices(len(pool), draw_rng(seed, "aggregation/pool", problem.id))
            drawn = [pool[i] for i in order[: condition.population]]
            for sample, message in enumerate(drawn):
                self._charge(sample, message.num_tokens, message.finish)
            self._go_on([message.text for message in drawn])

    def next_asks(self, asker: Asker) -> tuple[Ask, ...]:
        if self._wave == 0:
            seed = draw_seed(self._seed, "aggregation/first", self._problem.id)
            return (Ask(problem=self._problem, messages=(), num_samples=self._condition.population, seed=seed),)
        return tuple(self._ask(asker, candidate) for candidate in range(self._condition.population))

    def receive(self, replies: Sequence[Sequence[Reply]]) -> None:
        flat = [reply for sampled in replies for reply in sampled]
        for sample, reply in enumerate(flat):
            self._charge(sample, reply.generated_tokens, reply.finish, prompt_tokens=reply.prompt_tokens)
        conclusions = [compact(self._compaction, reply.text, reply.finish, self._end_of_reasoning) for reply in flat]
        self._go_on(conclusions)
        if self._wave == self._condition.num_waves:
            self.result = AttemptResult(
                finals=tuple(flat),
                conclusions=tuple(conclusions),
                shown=(),
                ledger=self._ledger,
                num_dropped=self._num_dropped,
            )

    def _ask(self, asker: Asker, candidate: int) -> Ask:
        rng = draw_rng(self._seed, "aggregation/group", self._problem.id, self._wave, candidate)
        group = [self._candidates[i] for i in shuffled_indices(len(self._candidates), rng)[: self._condition.group]]
        filled = [message for message in group if message]
        kept: Sequence[int] = range(len(filled))
        if asker.room_tokens is not None:
            kept = answered(
                fitting(len(filled), room_tokens=asker.room_tokens, rng=rng),
                lambda kept: asker.prompt_tokens(self._problem, [filled[i] for i in kept]),
            )
        self._num_dropped += len(group) - len(kept)
        seed = draw_seed(self._seed, "aggregation/sample", self._problem.id, self._wave, candidate)
        return Ask(problem=self._problem, messages=tuple(filled[i] for i in kept), num_samples=1, seed=seed)

    def _charge(self, sample: int, generated_tokens: int, finish: Finish, *, prompt_tokens: int = 0) -> None:
        self._ledger.add(
            Charge(
                problem_id=self._problem.id,
                round_index=self._wave,
                sample=sample,
                generated_tokens=generated_tokens,
                prompt_tokens=prompt_tokens,
                finish=finish,
            )
        )

    def _go_on(self, candidates: list[str]) -> None:
        self._candidates = candidates
        self._wave += 1


def num_generated(condition: Condition, pools: Mapping[str, Sequence[PoolMessage]], problem_id: str) -> int:
    """Trajectories of an attempt that are not drawn from the pool."""
    enough = len(pools.get(problem_id, ())) >= condition.first_round
    drawn = condition.first_round if enough and condition.compacted else 0
    return condition.num_trajectories - drawn
