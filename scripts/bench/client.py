"""Problems a second through our client, beside a plain one that opens a connection for each call; and memory.

    python scripts/bench/client.py [--problems 256] [--samples 16] [--open-calls 256 1024 4096]

Both ask a STUB, a process of its own on the same machine that answers at once (scripts/bench/chat_stub.py): this
measures the clients and nothing else. Both run rounds K=[16] over the same problems, as many calls open at a time. The
plain client is what a script writes: ``async with httpx.AsyncClient() as client: await client.post(...)`` for each
call, its answer not streamed. Each of its clients reads the certificate authorities, since it checks TLS as ours does;
``unchecked`` is the same with ``verify=False``, which is no way to talk to an endpoint. Ours streams, counts usage,
bounds silence and retries. Target: at least 5 times as many problems a second as the plain one.

Memory: what became private to this process while so many of our calls are open at once. Flat: a call costs no more
where 4,096 are open than where 1,024 are, within a quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import httpx
import psutil
from chat_stub import raise_file_limit, stub

from pacore_rl.inference.answering import Answerer, Model
from pacore_rl.inference.client import Client, request_body, with_seed
from pacore_rl.inference.settings import ClientSettings, Endpoint
from pacore_rl.synthesis.plan import RoundsPlan
from pacore_rl.synthesis.prompt import render_synthesis_prompt

TARGET_RATIO = 5.0
MAX_GROWTH = 1.25
OPEN_CALLS = 256
"""At a time, on both sides."""
MODEL = Model(name="stub", window_tokens=131_072, reserve_tokens=32_768, options={"temperature": 1.0})


async def ours(url: str, num_problems: int, num_samples: int) -> float:
    """Seconds for all problems."""
    settings = ClientSettings(max_open_calls=OPEN_CALLS)
    async with Client([Endpoint.of(url)], settings) as client:
        answerer, plan = Answerer(client, MODEL), RoundsPlan.of((num_samples,))
        started = time.perf_counter()
        answered = await asyncio.gather(
            *(answerer.answer(f"p{i}", _question(i), plan, priority=i) for i in range(num_problems))
        )
        seconds = time.perf_counter() - started
    assert all(one.answers[0].text == "4" for one in answered)
    return seconds


async def plain(url: str, num_problems: int, num_samples: int, *, verify: bool) -> float:
    """Seconds for all problems, a client and a connection for each call."""
    slots = asyncio.Semaphore(OPEN_CALLS)

    async def call(messages: Any) -> str:
        async with slots, httpx.AsyncClient(verify=verify, timeout=60) as client:
            body = {"model": "stub", "messages": messages, "temperature": 1.0}
            response = await client.post(f"{url}/chat/completions", json=body)
            return response.json()["choices"][0]["message"]["content"].rpartition("</think>")[2]

    async def problem(number: int) -> str:
        question = _question(number)
        messages = await asyncio.gather(*(call(question) for _ in range(num_samples)))
        return await call([{"role": "user", "content": render_synthesis_prompt(question[0]["content"], messages)}])

    started = time.perf_counter()
    answers = await asyncio.gather(*(problem(i) for i in range(num_problems)))
    assert set(answers) == {"4"}
    return time.perf_counter() - started


async def memory(url: str, levels: Sequence[int]) -> dict[int, float]:
    """MiB of this process by the number of open calls; 0 is after all have ended."""
    process, found = psutil.Process(), {}
    base = _private_mib(process)
    for level in levels:
        async with Client([Endpoint.of(url)], ClientSettings(max_open_calls=level)) as client:
            body = request_body("stub", [{"role": "user", "content": "HOLD"}], {})
            calls = [
                asyncio.create_task(client.complete(with_seed(body, i), replica=client.replicas[0]))
                for i in range(level)
            ]
            async with httpx.AsyncClient(timeout=60) as http:
                root = url.removesuffix("/v1")
                while (await http.get(f"{root}/state")).json()["open"] < level:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.5)
                found[level] = _private_mib(process) - base
                await http.post(f"{root}/release")
            ended = await asyncio.gather(*calls)
            assert all(completion.finish == "stopped" for completion in ended)
            del calls, ended
    gc.collect()
    found[0] = _private_mib(process) - base
    return found


def _private_mib(process: psutil.Process) -> float:
    return process.memory_full_info().uss / 1024**2


def _question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {number} + 1?"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--open-calls", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    raise_file_limit()
    with stub() as url:
        by_level = asyncio.run(memory(url, arguments.open_calls))
        rates: dict[str, list[float]] = {"ours": [], "plain": [], "unchecked": []}
        num, samples = arguments.problems, arguments.samples
        for _ in range(arguments.repeats):
            rates["ours"].append(num / asyncio.run(ours(url, num, samples)))
            rates["unchecked"].append(num / asyncio.run(plain(url, num, samples, verify=False)))
            rates["plain"].append(num / asyncio.run(plain(url, num, samples, verify=True)))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:20} {rate:8.2f} problems/s  {rate * (arguments.samples + 1):9.1f} calls/s")
    per_call = {level: mib * 1024 / level for level, mib in by_level.items() if level}
    for level, mib in by_level.items():
        print(f"{level:6,} calls open {mib:8.1f} MiB" + (f"  {per_call[level]:6.1f} KiB a call" if level else ""))
    ratio = medians["ours"] / medians["plain"]
    levels = sorted(per_call)
    is_flat = len(levels) < 2 or per_call[levels[-1]] <= MAX_GROWTH * per_call[levels[-2]]
    summary = {
        "bench": "client",
        "ratio": round(ratio, 2),
        "target": TARGET_RATIO,
        "met": ratio >= TARGET_RATIO and is_flat,
        "problems_per_second": {name: round(rate, 2) for name, rate in medians.items()},
        "ratio_unchecked": round(medians["ours"] / medians["unchecked"], 2),
        "memory_mib": {str(level): round(mib, 1) for level, mib in by_level.items()},
        "memory_is_flat": is_flat,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
