"""One round of synthesis on held-out problems, beside the controls that tell synthesis from anything else.

On the same drawn message sets M of each problem x:

    message accuracy   share of the messages in M that are right
    majority vote      the vote of exactly those messages
    synthesis          responses to P(x, M)
    swapped            responses to P(x, M'), with M' another problem's messages: what the format alone is worth
    solo               responses to x: what the model can do by itself
    emergent correct   synthesis, where every message in M was wrong (section 4, figure 5 of the paper)

Synthesis above the vote is no evidence by itself: a model that merely repairs its solo ability beats the vote too, and
only the swapped and solo controls show it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pacore_rl.config import Config
from pacore_rl.evaluation.responses import Prompt, Responses, ScoredResponse, respond_and_score
from pacore_rl.evaluation.statistics import Estimate, estimates_by_tag, mean_amount, mean_share, paired_difference
from pacore_rl.evaluation.voting import majority_vote
from pacore_rl.interfaces import ChatTokenizer, Generator, Scorer
from pacore_rl.metrics import all_wrong_messages
from pacore_rl.synthesis.draws import draw_messages, draw_rng, draw_seed, fit_to_window
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.types import Int32, MessageSet, PoolMessage, Problem

T = TypeVar("T")

CONDITIONS = ("synthesis", "swapped", "solo")
"""The three prompts of a problem."""
QUANTITIES = ("message_accuracy", "majority_vote", "solo", "swapped", "synthesis", "emergent_correct")
"""The shares, in the order in which tables list them."""
MAX_TAG_VALUES = 16
"""A tag with more distinct values is an identifier rather than a group, and gets no breakdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutResult:
    """What one round of synthesis is worth on held-out problems; every share is a mean over problems."""

    message_accuracy: Estimate
    majority_vote: Estimate
    synthesis: Estimate
    swapped: Estimate
    solo: Estimate
    emergent_correct: Estimate | None
    """None where every drawn message set held a right message."""
    synthesis_minus: Mapping[str, Estimate]
    """Synthesis minus 'majority_vote', 'swapped' and 'solo', paired by problem."""
    cross_check_words: Estimate
    """Per synthesis response: 'reference', '参考', 'Ref <n>', 'ref <n>' as spelled (figure 5)."""
    cross_check_words_any_case: Estimate
    truncated: Mapping[str, Estimate]
    """Share of responses that ran into their budget, by condition."""
    generated_tokens: Mapping[str, Estimate]
    """Tokens per response, by condition."""
    num_messages: Estimate
    """Messages per drawn set, after empty ones and those that did not fit the window were left out."""
    num_failed: int
    """Responses left out of every share because generating or scoring them failed through our fault."""
    by_tag: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    """Tag, its value, quantity: the shares again for each group of problems."""
    problem_ids: tuple[str, ...]
    by_problem: Mapping[str, tuple[float | None, ...]]
    """Quantity: its value for each problem in order, None where undefined. What paired comparisons need."""

    def metrics(self, prefix: str = "held_out") -> dict[str, float]:
        """The means as metrics, ``held_out/synthesis`` and so on."""
        named: dict[str, Estimate | None] = {
            name: getattr(self, name) for name in (*QUANTITIES, "cross_check_words", "num_messages")
        }
        named |= {f"truncated_{name}": estimate for name, estimate in self.truncated.items()}
        named |= {f"generated_tokens_{name}": estimate for name, estimate in self.generated_tokens.items()}
        named |= {f"synthesis_minus_{name}": estimate for name, estimate in self.synthesis_minus.items()}
        metrics = {f"{prefix}/{name}": estimate.mean for name, estimate in named.items() if estimate is not None}
        return metrics | {f"{prefix}/num_failed": float(self.num_failed)}


def evaluate_held_out(
    problems: Sequence[Problem],
    pool: Mapping[str, Sequence[PoolMessage]],
    *,
    generator: Generator,
    scorer: Scorer,
    tokenizer: ChatTokenizer,
    config: Config,
    seed: int,
    num_message_draws: int = 1,
    responses_per_problem: int,
) -> HeldOutResult:
    """Draw message sets, ask the model under the three conditions in one ``generate`` call, and score.

    The drawn sets depend on the seed, the pool and the problems only, never on the model: evaluations before and after
    training with one seed compare like with like.

    Args:
        problems: [P], P >= 2.
        pool: the cached messages of every problem, by its id.
        num_message_draws: message sets per problem.
        responses_per_problem: responses to each synthesis and swapped prompt (one per drawn set), and to the plain
            problem.

    Raises:
        ValueError: fewer than two problems (nothing to swap), a problem without messages, or a count below 1.
    """
    _check(problems, pool, num_message_draws, responses_per_problem)
    window_tokens = generator.context_window_tokens
    draws = [
        _draw(problems, pool, tokenizer=tokenizer, config=config, window_tokens=window_tokens, seed=seed, draw=draw)
        for draw in range(num_message_draws)
    ]
    prompts = [
        Prompt(problem=problem, prompt_ids=ids, num_samples=responses_per_problem, seed=_seed(seed, problem, name, d))
        for d, drawn in enumerate(draws)
        for name, all_ids in (("synthesis", drawn.synthesis_ids), ("swapped", drawn.swapped_ids))
        for problem, ids in zip(problems, all_ids, strict=True)
    ]
    prompts += [
        Prompt(
            problem=problem,
            prompt_ids=tokenizer.encode_chat(build_conversation(problem, ())),
            num_samples=responses_per_problem,
            seed=_seed(seed, problem, "solo", 0),
        )
        for problem in problems
    ]
    answers = respond_and_score(prompts, generator=generator, scorer=scorer, config=config)
    blocks = [answers[start : start + len(problems)] for start in range(0, len(answers), len(problems))]
    # By condition: [draws][P] responses to one prompt each.
    by_condition = {"synthesis": blocks[0:-1:2], "swapped": blocks[1:-1:2], "solo": blocks[-1:]}
    return _summarise(problems, [drawn.message_sets for drawn in draws], by_condition)


def derangement(size: int, rng: np.random.Generator) -> list[int]:
    """A permutation of ``range(size)`` that leaves nothing in its place: one random cycle through all of it."""
    if size < 2:
        raise ValueError(f"the swapped control needs at least two problems to swap messages between, got {size}.")
    cycle = [int(i) for i in rng.permutation(size)]
    successor = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    return [successor[i] for i in range(size)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """One message set for each problem [P], and the prompts made of it."""

    message_sets: tuple[MessageSet, ...]
    synthesis_ids: tuple[Int32, ...]
    swapped_ids: tuple[Int32, ...]


def _draw(
    problems: Sequence[Problem],
    pool: Mapping[str, Sequence[PoolMessage]],
    *,
    tokenizer: ChatTokenizer,
    config: Config,
    window_tokens: int,
    seed: int,
    draw: int,
) -> _Drawn:
    def fit(problem: Problem, message_set: MessageSet, rng: np.random.Generator) -> tuple[MessageSet, Int32]:
        return fit_to_window(
            problem,
            message_set,
            tokenizer,
            window_tokens=window_tokens,
            reserve_tokens=config.sampling.answer_reserve_tokens,
            rng=rng,
        )

    settings = config.synthesis
    fitted: list[tuple[MessageSet, Int32]] = []
    for problem in problems:
        rng = draw_rng(seed, "held_out/messages", problem.id, draw)
        drawn = draw_messages(pool[problem.id], settings.min_messages, settings.max_messages, rng)
        fitted.append(fit(problem, drawn, rng))
    others = derangement(len(problems), draw_rng(seed, "held_out/swap", draw))
    swapped = [
        fit(problem, fitted[other][0], draw_rng(seed, "held_out/swapped_fit", problem.id, draw))[1]
        for problem, other in zip(problems, others, strict=True)
    ]
    return _Drawn(
        message_sets=tuple(message_set for message_set, _ in fitted),
        synthesis_ids=tuple(ids for _, ids in fitted),
        swapped_ids=tuple(swapped),
    )


def _summarise(
    problems: Sequence[Problem],
    sets: Sequence[Sequence[MessageSet]],
    by_condition: Mapping[str, Sequence[Sequence[Responses]]],
) -> HeldOutResult:
    """All estimates from the message sets [draws][P] and the responses, by condition [draws][P][responses]."""
    rows = {
        name: [[r for block in blocks for r in block[p] if r.countable] for p in range(len(problems))]
        for name, blocks in by_condition.items()
    }
    num_responses = sum(len(responses) for blocks in by_condition.values() for block in blocks for responses in block)
    for name, rows_P in rows.items():
        if not any(rows_P):
            raise RuntimeError(f"generating or scoring failed for every {name} response; look at the engine's log.")
    own_sets = [[sets_P[p] for sets_P in sets] for p in range(len(problems))]
    values: dict[str, tuple[float | None, ...]] = {
        name: tuple(_mean(rows_p, _is_correct) for rows_p in rows[name]) for name in CONDITIONS
    }
    values["message_accuracy"] = tuple(_mean(sets_p, _message_accuracy) for sets_p in own_sets)
    values["majority_vote"] = tuple(_mean(sets_p, lambda s: majority_vote(s.verdicts)) for sets_p in own_sets)
    values["emergent_correct"] = tuple(
        _mean(
            [
                response
                for draw, message_set in enumerate(own_sets[problem])
                if all_wrong_messages(message_set)
                for response in _countable(by_condition, draw, problem)
            ],
            _is_correct,
        )
        for problem in range(len(problems))
    )
    has_emergent = any(value is not None for value in values["emergent_correct"])
    synthesis = rows["synthesis"]
    return HeldOutResult(
        message_accuracy=mean_share(values["message_accuracy"]),
        majority_vote=mean_share(values["majority_vote"]),
        synthesis=mean_share(values["synthesis"]),
        swapped=mean_share(values["swapped"]),
        solo=mean_share(values["solo"]),
        emergent_correct=mean_share(values["emergent_correct"]) if has_emergent else None,
        synthesis_minus={
            name: paired_difference(values["synthesis"], values[name]) for name in ("majority_vote", "swapped", "solo")
        },
        cross_check_words=mean_amount([_mean(rows_p, lambda r: r.cross_checks) for rows_p in synthesis]),
        cross_check_words_any_case=mean_amount(
            [_mean(rows_p, lambda r: r.cross_checks_any_case) for rows_p in synthesis]
        ),
        truncated={
            name: mean_share([_mean(rows_p, lambda r: float(r.finish == "truncated")) for rows_p in rows[name]])
            for name in CONDITIONS
        },
        generated_tokens={
            name: mean_amount([_mean(rows_p, lambda r: r.num_tokens) for rows_p in rows[name]]) for name in CONDITIONS
        },
        num_messages=mean_amount([_mean(sets_p, lambda s: len(s.messages)) for sets_p in own_sets]),
        num_failed=num_responses - sum(len(rows_p) for rows_P in rows.values() for rows_p in rows_P),
        by_tag=_by_tag(problems, values),
        problem_ids=tuple(problem.id for problem in problems),
        by_problem={name: values[name] for name in QUANTITIES},
    )


def tag_names(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Tags that part the problems into 2 to ``MAX_TAG_VALUES`` groups, in alphabetic order."""
    names = sorted({name for problem in problems for name in problem.tags})
    num_values = {name: len({problem.tags[name] for problem in problems if name in problem.tags}) for name in names}
    return tuple(name for name in names if 2 <= num_values[name] <= MAX_TAG_VALUES)


def _by_tag(
    problems: Sequence[Problem], values: Mapping[str, Sequence[float | None]]
) -> dict[str, dict[str, dict[str, Estimate]]]:
    breakdown: dict[str, dict[str, dict[str, Estimate]]] = {}
    for tag in tag_names(problems):
        tags_P = [problem.tags.get(tag) for problem in problems]
        for quantity in QUANTITIES:
            for value, estimate in estimates_by_tag(values[quantity], tags_P).items():
                breakdown.setdefault(tag, {}).setdefault(value, {})[quantity] = estimate
    return breakdown


def _mean(items: Sequence[T], value: Callable[[T], float]) -> float | None:
    return float(np.mean([value(item) for item in items])) if items else None


def _is_correct(response: ScoredResponse) -> float:
    return float(response.verdict.correct)


def _message_accuracy(message_set: MessageSet) -> float:
    """Share of right messages; a set from which every message was dropped holds nothing right."""
    verdicts = [verdict for verdict in message_set.verdicts if not verdict.outcome.endswith("_error")]
    return sum(verdict.correct for verdict in verdicts) / len(verdicts) if verdicts else 0.0


def _countable(
    by_condition: Mapping[str, Sequence[Sequence[Responses]]], draw: int, problem: int
) -> list[ScoredResponse]:
    return [response for response in by_condition["synthesis"][draw][problem] if response.countable]


def _seed(seed: int, problem: Problem, condition: str, draw: int) -> int:
    return draw_seed(seed, "held_out/responses", problem.id, condition, draw)


def _check(
    problems: Sequence[Problem], pool: Mapping[str, Sequence[PoolMessage]], num_message_draws: int, num_responses: int
) -> None:
    if len(problems) < 2:
        raise ValueError(f"the swapped control needs at least two held-out problems, got {len(problems)}.")
    if num_message_draws < 1 or num_responses < 1:
        raise ValueError(
            f"num_message_draws={num_message_draws} and responses_per_problem={num_responses} must be at least 1."
        )
    without = [problem.id for problem in problems if not pool.get(problem.id)]
    if without:
        raise ValueError(
            f"{len(without)} of {len(problems)} held-out problems have no messages in the pool, first {without[0]!r}; "
            "run `pacore-rl pool` on the held-out problems."
        )
