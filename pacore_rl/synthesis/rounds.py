"""Answering in rounds (paper, section 2.1).

A configuration (K_1, ..., K_{R-1}) stands for R rounds; the closing round of 1 is implied::

    M_0 = ()
    round r: K_r trajectories from P(x, M_{r-1}) -> compaction -> M_r, in a fresh random order
    closing: 1 trajectory from P(x, M_{R-1}), the answer

so ``()`` is a plain answer, ``(16,)`` one synthesis and ``(1, 1, 1)`` sequential refinement. Test-time compute (TTC)
is the number of generated tokens of all trajectories of all rounds; prompts are not charged.

:class:`ProblemRounds` decides and does no input or output: evaluation, the client and the server all drive it.
:func:`run_rounds` does so over an engine, many problems at a time; ``pacore_rl.inference`` over endpoints. A training
step is one round whose messages a pool holds already (``pacore_rl.collection``): it shares all else.
"""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pacore_rl.interfaces import ChatTokenizer, Generator
from pacore_rl.synthesis.compaction import compact
from pacore_rl.synthesis.draws import answered, draw_rng, draw_seed, fitting, shuffled_indices
from pacore_rl.synthesis.ledger import Charge, TTCLedger
from pacore_rl.synthesis.plan import Answer, Call, Reply, RoundsPlan, answer_of
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.types import GenerationRequest, Int32, PoolMessage, Problem, Sampling, Trajectory


class ProblemRounds:
    """One problem on its way through the rounds: says what to sample next, and takes in what came of it.

    ::

        rounds = ProblemRounds("p1", RoundsPlan.of((32, 4), seed=7))
        while not rounds.answers:
            call = answered(rounds.next_call(room_tokens=room), count_prompt_tokens)
            rounds.receive([sample(call, i) for i in range(call.num_samples)])
    """

    def __init__(self, problem_id: str, plan: RoundsPlan) -> None:
        self.problem_id = problem_id
        self.plan = plan
        self.ledger = TTCLedger()
        self.calls: list[Call] = []
        """Those given out, in order; a round from a pool has none."""
        self.answers: tuple[Answer, ...] = ()
        """[num_answers] once the closing round has been received, () before."""
        self._round_index = 0
        self._messages: list[str] = []  # of the latest round, in the order of sampling, empty ones included

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """[R - 1][at most K_r]: the messages of each round before the closing one, as the next prompt listed them.
        A round that was cut before anything ended has those of the round before it."""
        return tuple(call.messages for call in self.calls if call.round_index > 0)

    @property
    def num_dropped(self) -> int:
        """Messages left out of a prompt because they were empty, had failed or did not fit the context window."""
        return sum(call.num_dropped for call in self.calls)

    @property
    def num_trajectories_left(self) -> int:
        """Those of the rounds that have not been received, the closing ones included."""
        return sum(self.plan.num_samples(index) for index in range(self._round_index, self.plan.num_rounds))

    def skip_to_closing(self) -> None:
        """Leave out the rounds before the closing one that have not begun: it reads the messages there are."""
        self._round_index = max(self._round_index, len(self.plan.configuration))

    def next_call(self, *, room_tokens: int | None) -> Steps[tuple[str, ...], int, Call]:
        """The next round, its messages in a fresh order and cut to a prompt of at most ``room_tokens``.

        Yields message lists and is sent the length in tokens of the prompt P(x, M) of each, as
        ``pacore_rl.synthesis.draws.fitting`` does; None does without. Whole messages are dropped, and counted. A
        problem that does not fit without any either is asked as it is: whoever generates types what comes of it.
        """
        assert not self.answers, "the closing round is over"
        plan, index = self.plan, self._round_index
        rng = draw_rng(plan.seed, "rounds/order", self.problem_id, index)
        order = shuffled_indices(len(self._messages), rng)
        ordered = [self._messages[i] for i in order if self._messages[i]]
        kept: Sequence[int] = range(len(ordered))
        if room_tokens is not None:
            steps = fitting(len(ordered), room_tokens=room_tokens, rng=rng)
            length: int | None = None
            try:
                while True:
                    choice = next(steps) if length is None else steps.send(length)
                    length = yield tuple(ordered[i] for i in choice)
            except StopIteration as end:
                kept = end.value
        is_final = index == len(plan.configuration)
        call = Call(
            problem_id=self.problem_id,
            round_index=index,
            is_final=is_final,
            messages=tuple(ordered[i] for i in kept),
            num_samples=plan.num_samples(index),
            seed=draw_seed(plan.seed, "rounds/sample", self.problem_id, index),
            num_dropped=len(self._messages) - len(kept),
            stragglers=None if is_final else plan.stragglers,
        )
        self.calls.append(call)
        return call

    def receive(self, replies: Sequence[Reply]) -> None:
        """Every trajectory of the latest call, failed ones too, in the order of their samples.

        A round that was cut before any trajectory ended says nothing: the messages of the round before it stay.
        """
        call = self.calls[-1]
        assert call.round_index == self._round_index, "a round was received twice"
        assert len(replies) == call.num_samples, "the generator must return every sample, failed ones too"
        for sample, reply in enumerate(replies):
            self.ledger.add(
                Charge(
                    problem_id=self.problem_id,
                    round_index=call.round_index,
                    sample=sample,
                    generated_tokens=reply.generated_tokens,
                    prompt_tokens=reply.prompt_tokens,
                    cached_tokens=reply.cached_tokens,
                    wasted_tokens=reply.wasted_tokens,
                    is_estimated=reply.is_estimated,
                    finish=reply.finish,
                )
            )
        name = self.plan.compactions[call.round_index]
        conclusions = [compact(name, reply.text, reply.finish, self.plan.end_of_reasoning) for reply in replies]
        if call.is_final:
            self.answers = tuple(
                answer_of(reply, conclusion) for reply, conclusion in zip(replies, conclusions, strict=True)
            )
        was_cut = all(reply.finish == "unfinished" for reply in replies)
        self._go_on(self._messages if was_cut and not any(conclusions) and self._messages else conclusions)

    def receive_pool(self, pool: Sequence[PoolMessage]) -> tuple[PoolMessage, ...]:
        """Round 1 from a pool instead of sampling: K_1 messages drawn without replacement, which are returned.

        Their tokens are charged as if they had been generated now. Raises ValueError where the pool holds fewer.
        """
        assert self._round_index == 0 and not self.calls, "only the first round is drawn from a pool"
        assert self.plan.configuration, "a plain answer has no round to draw"
        size = self.plan.configuration[0]
        if len(pool) < size:
            raise ValueError(f"the pool of problem {self.problem_id!r} holds {len(pool)} messages, fewer than {size}.")
        order = shuffled_indices(len(pool), draw_rng(self.plan.seed, "rounds/pool", self.problem_id))[:size]
        drawn = tuple(pool[i] for i in order)
        for sample, message in enumerate(drawn):
            self.ledger.add(
                Charge(
                    problem_id=self.problem_id,
                    round_index=0,
                    sample=sample,
                    generated_tokens=message.num_tokens,
                    finish=message.finish,
                )
            )
        self._go_on(["" if message.finish == "failed" else message.text for message in drawn])
        return drawn

    def _go_on(self, messages: list[str]) -> None:
        self._messages = messages
        self._round_index += 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundsResult:
    """How one problem was answered."""

    problem_id: str
    rounds: tuple[tuple[Trajectory | PoolMessage, ...], ...]
    """[R - 1][K_r]: what each round before the closing one sampled or drew from the pool."""
    shown: tuple[tuple[str, ...], ...]
    """[R - 1][at most K_r]: the messages of each of those rounds, as the next round's prompt listed them."""
    final: Trajectory
    """The closing round's only trajectory."""
    answer: Answer
    """What it concluded, or why it did not."""
    ledger: TTCLedger
    """What each trajectory cost."""
    num_dropped: int
    """Messages left out of a prompt because they were empty, had failed or did not fit the context window."""

    @property
    def ttc_tokens(self) -> int:
        """Generated tokens summed over all trajectories of all rounds, the final one included."""
        return self.ledger.ttc_tokens


def run_rounds(
    problems: Sequence[Problem],
    configuration: tuple[int, ...],
    *,
    generator: Generator,
    tokenizer: ChatTokenizer,
    sampling: Sampling,
    compaction: str | Sequence[str],
    end_of_reasoning: str,
    answer_reserve_tokens: int,
    seed: int,
    first_round: Mapping[str, Sequence[PoolMessage]] | None = None,
) -> tuple[RoundsResult, ...]:
    """Answer every problem under one configuration; results in the order of ``problems``, which share each round.

    With ``first_round`` (problem id to its pool), round 1 is drawn from there without replacement instead of
    generated, as the paper's evaluation does; the drawn messages' tokens count as if they had been generated now.
    Empty and failed messages are dropped and counted; a prompt for which none is left is the plain problem. The same
    arguments on the same weights give the same results.

    Raises ValueError for a configuration with a round below 1, an unknown compaction, and a pool with fewer than K_1
    messages of a problem (a smaller round would falsify the TTC).
    """
    plan = RoundsPlan.of(configuration, compaction=compaction, end_of_reasoning=end_of_reasoning, seed=seed)
    pool = first_round if configuration else None
    if pool is not None:
        _check_first_round(problems, configuration[0], pool)
    under_way = [ProblemRounds(problem.id, plan) for problem in problems]
    items: list[list[tuple[Trajectory | PoolMessage, ...]]] = [[] for _ in problems]
    finals: list[Trajectory] = []
    room_tokens = generator.context_window_tokens - answer_reserve_tokens
    for index in range(plan.num_rounds):
        if index == 0 and pool is not None:
            for rounds, kept in zip(under_way, items, strict=True):
                kept.append(rounds.receive_pool(pool[rounds.problem_id]))
            continue
        requests = [
            _request(problem, rounds, room_tokens, tokenizer)
            for problem, rounds in zip(problems, under_way, strict=True)
        ]
        finished = dict(generator.generate(requests, sampling))
        assert sorted(finished) == list(range(len(requests))), "the generator must answer every request once"
        for i, rounds in enumerate(under_way):
            rounds.receive([_reply(trajectory) for trajectory in finished[i]])
            if rounds.answers:
                finals.append(finished[i][0])
            else:
                items[i].append(finished[i])
    return tuple(
        RoundsResult(
            problem_id=rounds.problem_id,
            rounds=tuple(kept),
            shown=rounds.shown,
            final=final,
            answer=rounds.answers[0],
            ledger=rounds.ledger,
            num_dropped=rounds.num_dropped,
        )
        for rounds, kept, final in zip(under_way, items, finals, strict=True)
    )


def _check_first_round(problems: Sequence[Problem], size: int, pool: Mapping[str, Sequence[PoolMessage]]) -> None:
    short = [problem.id for problem in problems if len(pool.get(problem.id, ())) < size]
    if short:
        raise ValueError(
            f"the pool holds fewer than K_1={size} messages of {len(short)} of {len(problems)} problems (first "
            f"{short[0]!r}: {len(pool.get(short[0], ()))}); enlarge it with `pacore-rl pool`, or lower K_1."
        )


def _request(problem: Problem, rounds: ProblemRounds, room_tokens: int, tokenizer: ChatTokenizer) -> GenerationRequest:
    """The next round's request; the ids counted last are most often those that are sent."""
    encoded: dict[tuple[str, ...], Int32] = {}

    def encode(messages: tuple[str, ...]) -> Int32:
        encoded[messages] = tokenizer.encode_chat(build_conversation(problem, messages))
        return encoded[messages]

    call = answered(rounds.next_call(room_tokens=room_tokens), lambda messages: len(encode(messages)))
    prompt_ids = encoded[call.messages] if call.messages in encoded else encode(call.messages)
    return GenerationRequest(prompt_ids=prompt_ids, num_samples=call.num_samples, seed=call.seed)


def _reply(trajectory: Trajectory) -> Reply:
    return Reply(
        text=trajectory.text,
        finish=trajectory.finish,
        generated_tokens=len(trajectory.response_ids),
        prompt_tokens=len(trajectory.prompt_ids),
    )
