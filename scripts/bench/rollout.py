"""Generated tokens a second through ``RolloutGroup.stream``, against vLLM itself, and seconds of a weight sync.

    python scripts/bench/rollout.py [RECIPE] [--rounds 5] [KEY=VALUE ...]

Both sides use the same engines (as many as ``rollout.num_workers``), get the same step of requests (chain sums, as the
quickstart draws them) and take turns; directly means ``LLMEngine`` stepped in the worker's process with nothing of ours
around it, each request once with n = G, no text decoded. On CPUs, where every sum has one order, both must give the
same tokens. Colocated learners give their memory up before a sync, which counts. The last line compares medians.
Target: at least 0.95.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from data_curation.chain_demonstrations import Habits, demonstrated_message
from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl.config import Config
from pacore_rl.engine.cluster import open_engine
from pacore_rl.engine.generation import forget_prefixes, stream_seed
from pacore_rl.engine.rollout_worker import RolloutWorker
from pacore_rl.engine.routing import assign
from pacore_rl.recipes import load_config
from pacore_rl.synthesis.draws import draw_messages, draw_rng, fit_to_window
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import GenerationRequest, Sampling

TARGET = 0.95


def run_direct(
    worker: RolloutWorker, requests: Sequence[GenerationRequest], sampling: Sampling
) -> tuple[float, list[list[list[int]]]]:
    """vLLM with nothing of a worker's code around the engine's loop; runs inside the worker's process.

    Returns:
        seconds, and the tokens of each request's samples.
    """
    from vllm.inputs.engine import tokens_input
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    engine = worker._engine  # pyright: ignore[reportPrivateUsage]
    forget_prefixes(engine)
    started = time.perf_counter()
    for index, request in enumerate(requests):
        params = SamplingParams(
            n=request.num_samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=stream_seed(request.seed),
            max_tokens=sampling.max_response_tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(index), tokens_input(request.prompt_ids.tolist()), params)
    finished: dict[int, RequestOutput] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished and isinstance(output, RequestOutput):
                finished[int(output.request_id)] = output
    seconds = time.perf_counter() - started
    return seconds, [[list(one.token_ids) for one in finished[i].outputs] for i in range(len(requests))]


def draw_requests(config: Config, seed: int) -> list[GenerationRequest]:
    """One step's requests: chain sums with demonstrated messages, so that prompts are as long as the quickstart's."""
    rng, tokenizer, requests = random.Random(seed), load_tokenizer(config.model.path), []
    for number in range(config.ppo.problems_per_step):
        chain = sample_chain(rng, range(5, 8))
        problem, draw = chain_problem(chain), draw_rng(seed, "bench", number)
        pool = [demonstrated_message(chain, Habits(), rng) for _ in range(config.synthesis.pool_size)]
        _, prompt_ids = fit_to_window(
            problem,
            draw_messages(pool, config.synthesis.min_messages, config.synthesis.max_messages, draw),
            tokenizer,
            window_tokens=config.model.context_window_tokens,
            reserve_tokens=config.sampling.answer_reserve_tokens,
            rng=draw,
        )
        requests.append(
            GenerationRequest(
                prompt_ids=prompt_ids, num_samples=config.ppo.responses_per_problem, seed=1000 * seed + number
            )
        )
    return requests


def through_group(group: Any, requests: Sequence[GenerationRequest], sampling: Sampling) -> tuple[float, Any]:
    started = time.perf_counter()
    tokens: list[list[Any]] = [[None] * request.num_samples for request in requests]
    for index, sample, trajectory in group.stream(requests, sampling):
        tokens[index][sample] = trajectory.response_ids
    seconds = time.perf_counter() - started
    return seconds, [[ids.tolist() for ids in samples] for samples in tokens]


def directly(engines: Sequence[Any], requests: Sequence[GenerationRequest], sampling: Sampling) -> tuple[float, Any]:
    """Seconds of the engine that took longest, and all tokens."""
    shares = assign(requests, sampling, len(engines))
    references = [
        engine.__ray_call__.remote(run_direct, [requests[index] for index in share], sampling)
        for engine, share in zip(engines, shares, strict=True)
    ]
    results = ray.get(references, timeout=600)
    by_index = {
        index: tokens
        for share, (_, many) in zip(shares, results, strict=True)
        for index, tokens in zip(share, many, strict=True)
    }
    return max(seconds for seconds, _ in results), [by_index[index] for index in range(len(requests))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=5, help="measured, after one of warm-up")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    config = load_config(options.recipe, ["rollout.num_workers=1", "rollout.routing=static", *options.overrides])
    sampling = Sampling(max_response_tokens=config.sampling.max_response_tokens)
    speeds: dict[str, list[float]] = {"stream": [], "direct": []}
    syncs: list[float] = []
    same: list[bool] = []
    with open_engine(config) as engine:
        for turn in range(options.rounds + 1):
            engine.turn_to("generation")
            requests = draw_requests(config, seed=turn)
            sides = {
                "stream": lambda requests=requests: through_group(engine.generator, requests, sampling),
                "direct": lambda requests=requests: directly(engine.rollout.handles, requests, sampling),
            }
            measured = {name: sides[name]() for name in (sides if turn % 2 else reversed(sides))}
            same.append(measured["stream"][1] == measured["direct"][1])
            assert same[-1] or engine.rollout.device.kind == "cuda", "the two sides gave different tokens"
            engine.turn_to("learning")
            started = time.perf_counter()
            engine.sync_weights(turn + 1)
            if turn:  # the first is warm-up
                syncs.append(time.perf_counter() - started)
                for name, (seconds, tokens) in measured.items():
                    speeds[name].append(sum(len(ids) for samples in tokens for ids in samples) / seconds)
                print(json.dumps({name: round(values[-1]) for name, values in speeds.items()} | {"sync": syncs[-1]}))
    stream, baseline = (statistics.median(speeds[name]) for name in ("stream", "direct"))
    print(
        json.dumps(
            {
                "bench": "rollout",
                "ratio": round(stream / baseline, 4),
                "target": TARGET,
                "met": stream / baseline >= TARGET,
                "tokens_per_second": {"stream": round(stream), "direct": round(baseline)},
                "sync_seconds": round(statistics.median(syncs), 4),
                "same_tokens": f"{sum(same)} of {len(same)} rounds",
                "engines": config.rollout.num_workers,
                "responses_per_round": config.ppo.rows_per_step,
                "rounds": options.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
