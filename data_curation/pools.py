"""Message pools: round-1 trajectories of every problem, compacted, scored and cached (paper, section 3.1).

The work is cut into batches of problems. Each batch is on disk before the next begins, so an interrupted run loses at
most one batch, and the next run asks only for what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pacore_rl.config import Config
from pacore_rl.evaluation.responses import Prompt, respond_and_score
from pacore_rl.interfaces import ChatTokenizer, Generator, Scorer
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.synthesis.message_pool import MessagePool
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.types import PoolMessage, Problem


def fill_pool(
    pool: MessagePool,
    problems: Sequence[Problem],
    *,
    size: int,
    model: str,
    generator: Generator,
    scorer: Scorer,
    tokenizer: ChatTokenizer,
    config: Config,
    problems_per_batch: int = 64,
) -> None:
    """Bring every problem's pool up to ``size`` messages written by ``model``.

    Args:
        model: fingerprint of the generator's weights; messages of other models in the pool do not count.
        problems_per_batch: problems generated, scored and written together.
    """
    missing = pool.missing([problem.id for problem in problems], size, model)
    todo = [problem for problem in problems if missing.get(problem.id, 0) > 0]
    for start in range(0, len(todo), problems_per_batch):
        batch = todo[start : start + problems_per_batch]
        prompts = [
            Prompt(
                problem=problem,
                prompt_ids=tokenizer.encode_chat(build_conversation(problem, ())),
                num_samples=missing[problem.id],
                # The count enters the seed: a topped-up pool must not repeat the messages it has.
                seed=draw_seed(config.run.seed, "pool", model, problem.id, size - missing[problem.id]),
            )
            for problem in batch
        ]
        answers = respond_and_score(prompts, generator=generator, scorer=scorer, config=config)
        pool.append(
            [
                PoolMessage(
                    problem_id=problem.id,
                    text=response.message,
                    finish=response.finish,
                    verdict=response.verdict,
                    num_tokens=response.num_tokens,
                    model=model,
                )
                for problem, responses in zip(batch, answers, strict=True)
                for response in responses
            ]
        )
