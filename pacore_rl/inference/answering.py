"""Drives ``synthesis.rounds.ProblemRounds`` over endpoints: one problem, its rounds, their calls.

The calls of a round carry one prompt. They go to one endpoint, and where the prompt is long the first of them goes
ahead until the server has read it, within limits, so that the others find it in the server's prefix cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pacore_rl.inference.client import CallState, Client, Replica, Route, request_body, with_seed
from pacore_rl.inference.completion import Completion, Delta, TokenLimits
from pacore_rl.inference.conversation import Message, slot_of, with_references
from pacore_rl.inference.counting import PromptCounter
from pacore_rl.synthesis.plan import Answer, Call, RoundsPlan
from pacore_rl.synthesis.rounds import ProblemRounds

LEADER_SHARE = 0.25
"""Of a round's time limits, at most, that its other calls wait for the first to be read."""


class Journal(Protocol):
    """Completions that outlive the process: the same request is not generated twice."""

    def get(self, request: bytes) -> Completion | None: ...

    def put(self, request: bytes, completion: Completion) -> None: ...


class Observer:
    """Hears how a problem goes. Every method may be overridden; the pieces of the closing round wait for theirs."""

    def on_round(self, call: Call) -> None:
        """A round begins."""

    def on_completion(self, call: Call, sample: int, completion: Completion) -> None:
        """A trajectory has ended."""

    async def on_delta(self, sample: int, delta: Delta) -> None:
        """A piece of the closing round has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model behind the client's endpoints, and how it is sampled."""

    name: str
    window_tokens: int | None
    """Its context window; None where it is not known, and then no prompt is cut to it."""
    reserve_tokens: int
    """Room that a synthesis prompt leaves for the answer."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of every call: temperature, top_p, max_tokens, ..."""

    @property
    def room_tokens(self) -> int | None:
        """The longest prompt that is shown references."""
        return None if self.window_tokens is None else self.window_tokens - self.reserve_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one problem may use. The closing round's part is kept for it: it reads the messages there are."""

    total_tokens: int | None = None
    """Test-time compute of all rounds. Every trajectory gets an equal share of what is left: it is never exceeded."""
    total_seconds: float | None = None
    """From the first call on. Every round gets an equal share of what is left, and what it does not use goes to the
    others: the closing round has its own, whatever those before it took, and is cut at the end of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A problem that went through its rounds."""

    rounds: ProblemRounds
    completions: tuple[tuple[Completion, ...], ...]
    """[R][K_r], by round; rounds that a budget skipped are missing. The last are the closing ones."""

    @property
    def answers(self) -> tuple[Answer, ...]:
        return self.rounds.answers


class Answerer:
    """Answers problems with one model, any number of them at a time."""

    def __init__(self, client: Client, model: Model, *, journal: Journal | None = None) -> None:
        self.client = client
        self.model = model
        self.counter = PromptCounter(client, model.name)
        self._journal = journal

    async def answer(
        self,
        problem_id: str,
        messages: Sequence[Message],
        plan: RoundsPlan,
        *,
        priority: int = 0,
        observer: Observer | None = None,
        budget: Budget | None = None,
        closing_options: Mapping[str, Any] | None = None,
        streams: bool = False,
    ) -> Answered:
        """Take a conversation through its rounds.

        Args:
            priority: whose calls come first where calls wait for slots; lower is earlier.
            closing_options: of the closing round's calls alone, such as tools and stop texts.
            streams: hand the closing round's pieces to ``observer.on_delta``; its calls are then not made again once
                a piece was handed on.

        Raises ValueError for a conversation without a user turn or tool observation.
        """
        slot_of(messages)
        task = _Task(
            answerer=self,
            messages=messages,
            rounds=ProblemRounds(problem_id, plan),
            priority=priority,
            observer=observer or Observer(),
            budget=budget or Budget(),
            closing_options=closing_options or {},
            streams=streams,
            journal=self._journal,
        )
        return await task.run()


@dataclass(slots=True, kw_only=True)
class _Task:
    """One problem under way."""

    answerer: Answerer
    messages: Sequence[Message]
    rounds: ProblemRounds
    priority: int
    observer: Observer
    budget: Budget
    closing_options: Mapping[str, Any]
    streams: bool
    journal: Journal | None
    deadline: float | None = None
    """Of all rounds."""
    round_deadline: float | None = None
    """Of the round under way."""
    completions: list[tuple[Completion, ...]] = field(default_factory=list[tuple[Completion, ...]])

    async def run(self) -> Answered:
        loop, rounds = asyncio.get_running_loop(), self.rounds
        if self.budget.total_seconds is not None:
            self.deadline = loop.time() + self.budget.total_seconds
        while not rounds.answers:
            if self._is_spent(loop.time()):
                rounds.skip_to_closing()
            call = await self._next_call()
            self.round_deadline = self._share_deadline(call, loop.time())
            self.observer.on_round(call)
            with self.answerer.client.routed(call.num_samples) as route:
                completions = await self._sample(call, route)
            self.completions.append(completions)
            rounds.receive([completion.as_reply(rounds.plan.end_of_reasoning) for completion in completions])
            if not call.is_final and all(completion.finish == "unfinished" for completion in completions):
                rounds.skip_to_closing()  # a share is too short for a trajectory: the closing one gets all that is left
        return Answered(rounds=rounds, completions=tuple(self.completions))

    def _is_spent(self, now: float) -> bool:
        share = self._share_tokens(self.rounds.num_trajectories_left)
        return (self.deadline is not None and now >= self.deadline) or (share is not None and share < 1)

    def _share_deadline(self, call: Call, now: float) -> float | None:
        """When a round that begins now has used its share of the time that is left."""
        if self.deadline is None:
            return None
        return now + max(0.0, self.deadline - now) / (self.rounds.plan.num_rounds - call.round_index)

    def _share_tokens(self, num_trajectories: int) -> int | None:
        """What each of so many trajectories may generate."""
        if self.budget.total_tokens is None:
            return None
        return (self.budget.total_tokens - self.rounds.ledger.ttc_tokens) // num_trajectories

    async def _next_call(self) -> Call:
        """The next round, its prompt cut to the window."""
        room = self.answerer.model.room_tokens
        steps = self.rounds.next_call(room_tokens=room)
        try:
            shown = next(steps)
            while True:
                assert room is not None
                candidate = with_references(self.messages, shown)
                count = await self.answerer.counter.count(candidate, room_tokens=room)
                shown = steps.send(count)
        except StopIteration as end:
            return end.value

    async def _sample(self, call: Call, route: Route) -> tuple[Completion, ...]:
        """All trajectories of a round, in the order of their samples; those that were left are ``unfinished``."""
        conversation = with_references(self.messages, call.messages)
        model, options = self.answerer.model, self._options(call, conversation)
        body = request_body(model.name, conversation, options)
        limits = TokenLimits(max_tokens=options.get("max_tokens"), window_tokens=model.window_tokens)
        states = [CallState(limits=limits) for _ in range(call.num_samples)]
        leads = call.num_samples > 1 and len(body) >= self.answerer.client.settings.leader_first_bytes
        started = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[Completion]] = []
            for sample, state in enumerate(states):
                tasks.append(group.create_task(self._one(call, sample, body, route, state)))
                if sample == 0 and leads:
                    await self._until_prefilled(call, state)
            await self._wait(call, tasks, started)
        completions = tuple(
            state.partial() if task.cancelled() else task.result() for task, state in zip(tasks, states, strict=True)
        )
        for completion in completions:
            if completion.usage.prompt_tokens:
                self.answerer.counter.learn(conversation, completion.usage.prompt_tokens)
                break
        return completions

    def _options(self, call: Call, conversation: Sequence[Message]) -> dict[str, Any]:
        """Of the round's calls. A budget's share is the limit of each where it is lower than what is set."""
        model = self.answerer.model
        options = {**model.options, **(self.closing_options if call.is_final else {})}
        share = self._share_tokens(self.rounds.num_trajectories_left)
        if share is None or (model.window_tokens is not None and share >= model.window_tokens):
            return options
        most = share
        if model.window_tokens is not None:  # servers refuse a limit that does not fit beside the prompt
            room = model.window_tokens - self.answerer.counter.bound(conversation)
            most = min(share, max(room, model.reserve_tokens))
        options["max_tokens"] = max(1, min(most, options.get("max_tokens") or most))
        return options

    async def _until_prefilled(self, call: Call, leader: CallState) -> None:
        """Wait for the leader; never so long that a round's deadlines find nothing but the leader under way."""
        now = asyncio.get_running_loop().time()
        limits: list[float] = []
        if self.round_deadline is not None:
            limits.append(now + LEADER_SHARE * (self.round_deadline - now))
        if call.stragglers is not None and call.stragglers.deadline_seconds > 0:
            limits.append(now + LEADER_SHARE * call.stragglers.deadline_seconds)
        try:
            async with asyncio.timeout_at(min(limits, default=None)):
                await leader.sent.wait()
                async with asyncio.timeout(self.answerer.client.settings.leader_seconds):
                    await leader.prefilled.wait()
        except TimeoutError:  # the others read the prompt themselves
            return

    async def _one(self, call: Call, sample: int, body: bytes, route: Route, state: CallState) -> Completion:
        request = with_seed(body, call.sample_seed(sample))
        completion = self.journal.get(request) if self.journal is not None else None
        if completion is None:
            completion = await self._generate(call, sample, request, route.replica, state)
        route.end()
        state.sent.set()
        state.prefilled.set()
        self.observer.on_completion(call, sample, completion)
        return completion

    async def _generate(
        self, call: Call, sample: int, request: bytes, replica: Replica, state: CallState
    ) -> Completion:
        async def on_delta(delta: Delta) -> None:
            await self.observer.on_delta(sample, delta)

        completion = await self.answerer.client.complete(
            request,
            replica=replica,
            priority=self.priority,
            state=state,
            on_delta=on_delta if self.streams and call.is_final else None,
        )
        if self.journal is not None and completion.failure is None:
            self.journal.put(request, completion)
        return completion

    async def _wait(self, call: Call, tasks: Sequence[asyncio.Task[Completion]], started: float) -> None:
        """Until all have ended, or the rest need not be waited for; those are cancelled."""
        loop = asyncio.get_running_loop()
        waiting = set(tasks)
        policy = call.stragglers
        while waiting:
            now = loop.time()
            is_late = self.round_deadline is not None and now >= self.round_deadline
            if is_late or (policy and policy.is_enough(len(tasks) - len(waiting), len(tasks), now - started)):
                for task in waiting:
                    task.cancel()
                return
            limits = [self.round_deadline] if self.round_deadline is not None else []
            if policy is not None and now < started + policy.deadline_seconds:
                limits.append(started + policy.deadline_seconds)
            timeout = min(limits) - now if limits else None
            _, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
