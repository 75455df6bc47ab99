"""Generated tokens a second through ``RolloutGroup.stream``, against vLLM itself, and seconds of a weight sync.

    python scripts/bench/rollout.py [RECIPE] [--rounds 5] [KEY=VALUE ...]

Both sides have engines of the same settings (as many as ``rollout.num_workers``), get the same step of requests
(chain sums, as the quickstart draws them) and take turns; directly means ``LLMEngine`` alone in a process, each request
once with n = G, no text decoded. Both must give the same tokens. The last line compares medians. Target: at least 0.95.
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
import torch

from data_curation.chain_demonstrations import Habits, demonstrated_message
from data_curation.chain_sums import chain_problem, sample_chain
from pacore_rl.config import Config
from pacore_rl.engine.cluster import open_engine
from pacore_rl.engine.generation import stream_seed
from pacore_rl.engine.placement import Device, choose_kind
from pacore_rl.engine.rollout_worker import ENVIRONMENT, RolloutWorker
from pacore_rl.engine.routing import assign
from pacore_rl.recipes import load_config
from pacore_rl.synthesis.draws import draw_messages, draw_rng, fit_to_window
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import GenerationRequest, Sampling

TARGET = 0.95


class Direct(RolloutWorker):
    """vLLM with a worker's settings and nothing of its code around the engine's loop."""

    def run(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> tuple[float, list[list[list[int]]]]:
        """Seconds, and the tokens of each request's samples."""
        from vllm.inputs.engine import tokens_input
        from vllm.outputs import RequestOutput
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        self._engine.reset_prefix_cache()
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
            self._engine.add_request(str(index), tokens_input(request.prompt_ids.tolist()), params)
        finished: dict[int, RequestOutput] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished and isinstance(output, RequestOutput):
                    finished[int(output.request_id)] = output
        seconds = time.perf_counter() - started
        return seconds, [[list(one.token_ids) for one in finished[i].outputs] for i in range(len(requests))]


def device_of(config: Config) -> Device:
    """Where the direct engines run: as the recipe says, on this machine."""
    kind = choose_kind(config, num_gpus=torch.cuda.device_count(), where="this machine")
    return Device(kind=kind, cpu_threads=config.cluster.cpu_threads_per_worker)


def start_direct(config: Config, device: Device) -> list[Any]:
    """Engines beside those of the group; Ray counts no CPU for them."""
    options: dict[str, Any] = device.ray_options() | {"num_cpus": 0}
    options["runtime_env"] = {"env_vars": {**options["runtime_env"]["env_vars"], **ENVIRONMENT}}
    actor: Any = ray.remote(Direct).options(**options)  # pyright: ignore[reportFunctionMemberAccess]
    engines = [actor.remote(config, device, config.model.path) for _ in range(config.rollout.num_workers)]
    ray.get([engine.start.remote() for engine in engines], timeout=config.cluster.start_timeout_seconds)
    return engines


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
        engine.run.remote([requests[index] for index in share], sampling)
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
    options = parser.parse_args()
    config = load_config(options.recipe, ["rollout.num_workers=1", "rollout.routing=static", *options.overrides])
    sampling = Sampling(max_response_tokens=config.sampling.max_response_tokens)
    speeds: dict[str, list[float]] = {"stream": [], "direct": []}
    syncs: list[float] = []
    with open_engine(config) as engine:
        direct = start_direct(
            config,
            Device(
                kind="cuda" if torch.cuda.is_available() else "cpu", cpu_threads=config.cluster.cpu_threads_per_worker
            ),
        )
        for turn in range(options.rounds + 1):
            requests = draw_requests(config, seed=turn)
            sides = {
                "stream": lambda requests=requests: through_group(engine.generator, requests, sampling),
                "direct": lambda requests=requests: directly(direct, requests, sampling),
            }
            measured = {name: sides[name]() for name in (sides if turn % 2 else reversed(sides))}
            assert measured["stream"][1] == measured["direct"][1], "the two sides gave different tokens"
            num_tokens = sum(len(ids) for samples in measured["direct"][1] for ids in samples)
            started = time.perf_counter()
            engine.sync_weights(turn + 1)
            if turn:  # the first is warm-up
                syncs.append(time.perf_counter() - started)
                for name, (seconds, _) in measured.items():
                    speeds[name].append(num_tokens / seconds)
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
                "same_tokens": True,
                "engines": config.rollout.num_workers,
                "responses_per_round": config.ppo.rows_per_step,
                "rounds": options.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
