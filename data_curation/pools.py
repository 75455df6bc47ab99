"""Filling message pools: round-1 trajectories of every problem, compacted, scored and cached (paper, section 3.1).

    problems -> waves -> proposals, problem by problem as they end -> scorer -> pool (on disk) -> next

A problem is on disk as soon as its messages are scored. An interrupted run loses only what was on its way, and the
next one asks for exactly the missing samples: sample i of a problem has a seed of its own, so that a run that was
killed and resumed, however often, ends with the messages of one that was not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from data_curation.proposals import Ask, Proposal, Proposer
from pacore_rl.config import Config
from pacore_rl.interfaces import Pending, Scorer
from pacore_rl.spread import in_chunks
from pacore_rl.synthesis.compaction import compact
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.synthesis.pool_shards import Pool
from pacore_rl.types import PoolMessage, Problem, Verdict

PROBLEMS_PER_WAVE = 64


def fill_pool(
    pool: Pool,
    problems: Iterable[Problem],
    *,
    size: int,
    model: str,
    proposer: Proposer,
    scorer: Scorer,
    config: Config,
    problems_per_wave: int = PROBLEMS_PER_WAVE,
    on_written: Callable[[int], None] | None = None,
) -> None:
    """Bring every problem's pool up to ``size`` messages written by ``model``.

    Args:
        model: fingerprint of the proposer's weights; messages of other models in the pool do not count.
        problems_per_wave: problems that are asked for together. Engines idle towards the end of a wave, when its last
            long trajectories are alone; the prompts of a wave are in memory.
        on_written: told how many messages have just reached the disk.

    Raises what the proposer, the scorer or the disk raises; what is in the pool by then stays there.
    """
    told = on_written or (lambda num: None)
    for asks in _waves(pool, problems, size, model, config.run.seed, problems_per_wave):
        # Scoring and the disk wait in a thread of their own, never the engines. One thread: one writer.
        with ThreadPoolExecutor(1, thread_name_prefix="pool") as writer:
            num_answered, writing = 0, deque[Future[int]]()
            try:
                for index, proposals in proposer.propose(asks):
                    problem, num_answered = asks[index].problem, num_answered + 1
                    scoring = _start_scoring(problem, proposals, scorer=scorer, config=config)
                    writing.append(writer.submit(_write, pool, problem, proposals, *scoring, model))
                    while writing and writing[0].done():  # a full disk ends the wave now, not after the engines' hours
                        told(writing.popleft().result())
                for written in writing:
                    told(written.result())
            except BaseException:
                writer.shutdown(cancel_futures=True)
                raise
        assert num_answered == len(asks), f"the proposer left {len(asks) - num_answered} of {len(asks)} unanswered"


def _waves(
    pool: Pool, problems: Iterable[Problem], size: int, model: str, seed: int, problems_per_wave: int
) -> Iterator[list[Ask]]:
    """Asks for what is missing, ``problems_per_wave`` problems at a time."""
    asks: list[Ask] = []
    for chunk in in_chunks(problems, problems_per_wave):
        missing = pool.missing([problem.id for problem in chunk], size, model)
        asks += [
            Ask(
                problem=problem,
                num_samples=missing[problem.id],
                first_sample=pool.num_written(problem.id, model),
                seed=draw_seed(seed, "pool", model, problem.id, 0),
            )
            for problem in chunk
            if problem.id in missing
        ]
        if len(asks) >= problems_per_wave:
            yield asks[:problems_per_wave]
            asks = asks[problems_per_wave:]
    if asks:
        yield asks


def _start_scoring(
    problem: Problem, proposals: Sequence[Proposal], *, scorer: Scorer, config: Config
) -> tuple[list[str], Pending[list[Verdict]]]:
    marker = config.model.end_of_reasoning
    messages = [compact(config.synthesis.compaction, one.text, one.finish, marker) for one in proposals]
    return messages, scorer.score(
        [(problem, message, one.finish) for message, one in zip(messages, proposals, strict=True)]
    )


def _write(
    pool: Pool,
    problem: Problem,
    proposals: Sequence[Proposal],
    messages: Sequence[str],
    verdicts: Pending[list[Verdict]],
    model: str,
) -> int:
    """Wait for the verdicts, then put one problem's messages on disk, the samples in order; how many they are."""
    question = problem.fingerprint
    pool.append(
        [
            PoolMessage(
                problem_id=problem.id,
                text=message,
                finish=proposal.finish,
                # Not the time it took: the same work done twice gives the same record, which counts once.
                verdict=replace(verdict, seconds=0.0),
                num_tokens=proposal.num_tokens,
                model=model,
                question=question,
            )
            for proposal, message, verdict in zip(proposals, messages, verdicts.result(), strict=True)
        ]
    )
    return len(messages)
