"""Seeded draws: which problems a step trains on, which messages they get, and what fits the context window.

Every draw is a pure function of the run's seed and of what it is for (step, problem, round), never of what was drawn
before, so that a run that was stopped and resumed draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import numpy as np

from pacore_rl.interfaces import ChatTokenizer
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.types import Int32, MessageSet, PoolMessage, Problem

Asked = TypeVar("Asked")
Returned = TypeVar("Returned")


def draw_rng(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator fixed by ``seed`` and ``keys``, on every machine and in every process.

    The keys are told apart by order and type: ``(1, 2)``, ``(12,)`` and ``("1", 2)`` give three unrelated streams.
    """
    digest = hashlib.blake2b(repr((seed, *keys)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def draw_seed(seed: int, *keys: int | str) -> int:
    """A seed in [0, 2^31) for an engine's request, fixed as :func:`draw_rng` is."""
    return int(draw_rng(seed, *keys).integers(2**31))


def shuffled_indices(num: int, rng: np.random.Generator) -> list[int]:
    """0 to ``num`` - 1 in random order."""
    return [int(i) for i in rng.permutation(num)]


def draw_problems(problems: Sequence[Problem], num: int, *, seed: int, step: int) -> tuple[Problem, ...]:
    """The ``num`` problems of a step: consecutive slices of one shuffle per epoch.

    No problem comes twice within an epoch, nor within a step: the ``len(problems) % num`` left at an epoch's end are
    skipped, others each time. ``step`` counts from 0. Raises ValueError where there are fewer than ``num`` problems.
    """
    if num < 1 or step < 0:
        raise ValueError(f"cannot draw {num} problems for step {step}; draw at least one, for steps from 0 on.")
    if len(problems) < num:
        raise ValueError(
            f"ppo.problems_per_step={num} exceeds the {len(problems)} problems of the training set; "
            "lower it or give more problems."
        )
    epoch, position = divmod(step, len(problems) // num)
    order = shuffled_indices(len(problems), draw_rng(seed, "problems", epoch))
    return tuple(problems[i] for i in order[position * num : (position + 1) * num])


def draw_messages(
    pool_messages: Sequence[PoolMessage],
    min_messages: int,
    max_messages: int,
    rng: np.random.Generator,
    *,
    online: Sequence[PoolMessage] = (),
    online_share: float = 1.0,
) -> MessageSet:
    """|M| ~ U(min, max) of a problem's messages, without replacement and in random order (paper, section 3.1).

    Of the set, ``online_share`` (rounded) comes from ``online``, the messages of the policy itself, and the rest from
    the cached pool; where one has too few, the other fills up. Empty messages are drawn like any other, as they are
    when a round generates them, then dropped and counted. Fewer messages than the drawn size are all taken.
    """
    if not 0 <= min_messages <= max_messages:
        raise ValueError(
            f"cannot draw between {min_messages} and {max_messages} messages; "
            "synthesis.min_messages must lie between 0 and synthesis.max_messages."
        )
    wanted = int(rng.integers(min_messages, max_messages, endpoint=True))
    size = min(wanted, len(pool_messages) + len(online))
    num_online = min(len(online), max(round(online_share * size), size - len(pool_messages)))
    drawn = [pool_messages[i] for i in shuffled_indices(len(pool_messages), rng)[: size - num_online]]
    if num_online:
        drawn += [online[i] for i in shuffled_indices(len(online), rng)[:num_online]]
        drawn = [drawn[i] for i in shuffled_indices(size, rng)]
    kept = [message for message in drawn if message.text]
    return MessageSet(
        messages=tuple(message.text for message in kept),
        verdicts=tuple(message.verdict for message in kept),
        num_dropped=size - len(kept),
    )


def fit_to_window(
    problem: Problem,
    message_set: MessageSet,
    tokenizer: ChatTokenizer,
    *,
    window_tokens: int,
    reserve_tokens: int,
    rng: np.random.Generator,
) -> tuple[MessageSet, Int32]:
    """The message set whose prompt leaves ``reserve_tokens`` of the window for the answer, and that prompt's ids [T].

    Whole messages are dropped at random, as few as it takes, and counted; the others keep their order. A problem that
    does not fit without any message either comes back as its plain prompt: the engine types what comes of it.
    """
    kept, prompt_ids = fit_messages(
        problem,
        message_set.messages,
        tokenizer,
        window_tokens=window_tokens,
        reserve_tokens=reserve_tokens,
        rng=rng,
    )
    num_dropped = message_set.num_dropped + len(message_set.messages) - len(kept)
    fitted = MessageSet(
        messages=tuple(message_set.messages[i] for i in kept),
        verdicts=tuple(message_set.verdicts[i] for i in kept),
        num_dropped=num_dropped,
    )
    return fitted, prompt_ids


def fit_messages(
    problem: Problem,
    messages: Sequence[str],
    tokenizer: ChatTokenizer,
    *,
    window_tokens: int,
    reserve_tokens: int,
    rng: np.random.Generator,
) -> tuple[tuple[int, ...], Int32]:
    """:func:`fit_to_window` for bare messages: the indices of those kept, ascending, and the prompt's ids [T]."""
    encoded: dict[tuple[int, ...], Int32] = {}

    def encode(kept: tuple[int, ...]) -> Int32:
        encoded[kept] = tokenizer.encode_chat(build_conversation(problem, [messages[i] for i in kept]))
        return encoded[kept]

    kept = answered(
        fitting(len(messages), room_tokens=window_tokens - reserve_tokens, rng=rng), lambda kept: len(encode(kept))
    )
    return kept, encoded[kept] if kept in encoded else encode(kept)


def fitting(
    num_messages: int, *, room_tokens: int, rng: np.random.Generator
) -> Generator[tuple[int, ...], int, tuple[int, ...]]:
    """Which messages fit, asked step by step, so that whoever counts tokens may do so over a network.

    Yields the indices of a choice, ascending, and is sent the length in tokens of the prompt that shows them; returns
    the choice: all, or as many as fit of one random order, () where none does. Without messages it asks nothing.
    """
    everything = tuple(range(num_messages))
    if not everything or (yield everything) <= room_tokens:
        return everything
    # A longer prefix of one random order gives a longer prompt, so the longest that fits is found by bisection:
    # 5 encodings for 24 messages, where dropping one by one would need up to 24 of a full window each.
    order = shuffled_indices(num_messages, rng)
    fits, too_long = 0, num_messages
    best: tuple[int, ...] = ()
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        kept = tuple(sorted(order[:middle]))
        if (yield kept) <= room_tokens:
            fits, best = middle, kept
        else:
            too_long = middle
    return best


def answered(steps: Generator[Asked, int, Returned], count: Callable[[Asked], int]) -> Returned:
    """What a generator that asks for lengths returns, once ``count`` has answered each of its questions."""
    try:
        question = next(steps)
        while True:
            question = steps.send(count(question))
    except StopIteration as end:
        return end.value
