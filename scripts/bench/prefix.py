"""Prefill that the endpoints compute again: with our routing, and with calls spread over them at once.

    python scripts/bench/prefix.py [--problems 6] [--samples 16] [--prompt-tokens 2000]

Two vLLM servers on the CPU with the quickstart's model, and rounds of 16 samples whose prompt has 2,000 tokens; each
answer is a few tokens long. What was computed is the servers' own count (``vllm:prompt_tokens_by_source``,
``local_compute``). The repeated prefill is what all calls but the first of each prompt would compute without a prefix
cache. With our routing a round stays on one server, and its first call goes ahead until the server has read the prompt;
without, the same calls go to the servers in turn, all at once. Target: at least 90% of the repeated prefill avoided.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pacore_rl.inference.answering import Answerer, Model
from pacore_rl.inference.client import Client, request_body, with_seed
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.synthesis.plan import RoundsPlan

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from vllm_server import MODEL, TINY_BASE, vllm_server  # pyright: ignore[reportMissingImports]

TARGET = 0.9
WINDOW_TOKENS = 4_096
OPTIONS = {"temperature": 1.0, "max_tokens": 4}


def question(tokenizer: PreTrainedTokenizerBase, number: int, num_tokens: int) -> list[dict[str, str]]:
    """A conversation of ``num_tokens`` random digits and spaces, but for the few tokens of the chat template."""
    rng = random.Random(number)
    text = "".join(rng.choice("0123456789 ") for _ in range(4 * num_tokens))
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [{"role": "user", "content": text[: ends[num_tokens - 1][1]]}]


async def with_routing(urls: Sequence[str], questions: Sequence[list[dict[str, str]]], num_samples: int) -> None:
    async with Client([Endpoint.of(url) for url in urls]) as client:
        model = Model(name=MODEL, window_tokens=WINDOW_TOKENS, reserve_tokens=64, options=OPTIONS)
        # A round by itself: what the next one reads depends on the model.
        answerer, plan = Answerer(client, model), RoundsPlan.of((), num_answers=num_samples)
        await asyncio.gather(*(answerer.answer(f"p{i}", asked, plan, priority=i) for i, asked in enumerate(questions)))


async def without_routing(urls: Sequence[str], questions: Sequence[list[dict[str, str]]], num_samples: int) -> None:
    """The same calls, to the servers in turn."""
    async with Client([Endpoint.of(url) for url in urls], ClientSettings()) as client:
        bodies = [
            with_seed(request_body(MODEL, asked, OPTIONS), sample)
            for asked in questions
            for sample in range(num_samples)
        ]
        random.Random(0).shuffle(bodies)
        replicas = client.replicas
        await asyncio.gather(
            *(client.complete(body, replica=replicas[i % len(replicas)]) for i, body in enumerate(bodies))
        )


def computed_tokens(urls: Sequence[str]) -> tuple[float, float]:
    """Prompt tokens of all requests so far, computed and in all."""
    computed = total = 0.0
    for url in urls:
        for line in httpx.get(url.removesuffix("/v1") + "/metrics").text.splitlines():
            if line.startswith("vllm:prompt_tokens_by_source_total"):
                value = float(line.rpartition(" ")[2])
                total += value
                computed += value if 'source="local_compute"' in line else 0.0
    return computed, total


def avoided(urls: Sequence[str], num_samples: int, before: tuple[float, float]) -> dict[str, float]:
    """What was computed since ``before``, where each prompt was asked ``num_samples`` times."""
    computed, total = (after - then for after, then in zip(computed_tokens(urls), before, strict=True))
    unique = total / num_samples
    share = 1 - (computed - unique) / (total - unique)
    return {"computed_tokens": computed, "prompt_tokens": total, "avoided": round(share, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=2_000)
    arguments = parser.parse_args()
    overrides = json.dumps({"max_position_embeddings": WINDOW_TOKENS})
    found: dict[str, dict[str, float]] = {}
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{name}.log" for name in ("one", "two")]
        # vLLM 0.32 on CPUs cannot rewind a seeded random stream, which it does after each part of a split prompt.
        whole_prompts = ("--no-enable-chunked-prefill", "--max-num-batched-tokens", str(16 * WINDOW_TOKENS))
        options = ("--hf-overrides", overrides, *whole_prompts)
        with (
            vllm_server(*options, log=logs[0], window_tokens=WINDOW_TOKENS) as one,
            vllm_server(*options, log=logs[1], window_tokens=WINDOW_TOKENS) as two,
        ):
            urls = (one, two)
            for offset, (name, run) in enumerate({"ours": with_routing, "spread": without_routing}.items()):
                # Other prompts in each run, so that neither finds the other's in the cache.
                first = 1_000 * offset
                numbers = range(first, first + arguments.problems)
                asked = [question(tokenizer, number, arguments.prompt_tokens) for number in numbers]
                before = computed_tokens(urls)
                asyncio.run(run(urls, asked, arguments.samples))
                found[name] = avoided(urls, arguments.samples, before)
                print(f"{name:8} {found[name]}", flush=True)
    ratio = found["ours"]["avoided"]
    summary = {
        "bench": "prefix",
        "ratio": ratio,
        "target": TARGET,
        "met": ratio >= TARGET,
        **found,
        "samples": arguments.samples,
        "problems": arguments.problems,
        "tokens_per_prompt": round(found["ours"]["prompt_tokens"] / arguments.samples / arguments.problems),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
