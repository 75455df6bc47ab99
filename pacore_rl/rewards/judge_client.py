"""``Judge``: asks an OpenAI-compatible endpoint, from an event loop in a thread of its own.

    question -> passes (to the first no) -> attempts (a new seed while no verdict can be read) -> requests (retried)

Whatever goes wrong ends as a typed failure, after ``reward.judge.on_error``: never as a silent no.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pacore_rl.api_keys import without_key
from pacore_rl.config import JudgeConfig
from pacore_rl.failures import RunStopped
from pacore_rl.retry_after import backoff_seconds, retry_after_seconds
from pacore_rl.rewards.base import Question, right, wrong
from pacore_rl.rewards.judge_cache import JudgeCache
from pacore_rl.rewards.judge_prompt import RUBRIC_VERSION, VERSION, prompt_for, read_verdict, rubric_prompt_for
from pacore_rl.rewards.normal import canonical, normalise
from pacore_rl.types import Verdict

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 3
"""Seeds tried until one reply ends with a verdict."""
SEEDS_APART = 1_000
MAX_BACKOFF_SECONDS = 60.0
CLOSE_SECONDS = 10.0

_log = logging.getLogger(__name__)


class JudgeError(Exception):
    """No verdict could be had."""


class JudgeUnavailable(RunStopped):
    """No verdict could be had, and ``reward.judge.on_error`` is abort."""


class _Retryable(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, reason: str, *, is_down: bool, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.is_down = is_down
        """The endpoint did not do its work; otherwise it is merely busy."""
        self.after_seconds = after_seconds


class Judge:
    """Starts its thread with the first question. ``ask`` may be called from any thread and does not wait."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._key = os.environ.get(config.api_key_variable)
        self._cache = JudgeCache(config.cache_dir)
        self._breaker = Breaker(config.breaker_failures, config.breaker_seconds)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx.AsyncClient | None = None
        self._in_flight = asyncio.Semaphore(config.max_concurrent)
        self._closed = False

    def ask(self, question: Question) -> Future[Verdict]:
        """The judge's verdict. The future raises ``JudgeUnavailable`` where the policy on errors is abort."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the judge is closed.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(self._answer(question), self._loop)

    def close(self) -> None:
        """Cancel what is in flight and end the thread. Safe to call twice."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._cancel_all(), loop).result(CLOSE_SECONDS)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_SECONDS)
            loop.close()

    async def _cancel_all(self) -> None:
        waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _answer(self, question: Question) -> Verdict:
        async with self._in_flight:
            started = time.monotonic()
            shown = canonical(normalise(question.answer))
            try:
                async with asyncio.timeout(self._config.question_timeout_seconds):
                    is_same, reason = await self._unanimous(question)
            except TimeoutError:
                error = JudgeError(f"no verdict within {self._config.question_timeout_seconds:g} s")
                return self._without_verdict(error, shown, time.monotonic() - started)
            except JudgeError as error:
                return self._without_verdict(error, shown, time.monotonic() - started)
            return (right if is_same else wrong)(shown, reason, time.monotonic() - started)

    async def _unanimous(self, question: Question) -> tuple[bool, str]:
        passes = self._config.passes
        for number in range(passes):
            if not await self._opinion(question, number):
                return False, f"the judge said no in pass {number + 1} of {passes}"
        return True, f"the judge said yes {passes} of {passes} times"

    async def _opinion(self, question: Question, number: int) -> bool:
        """The first readable verdict of one pass."""
        if question.reward == "rubric":
            prompt, version = rubric_prompt_for(question.ground_truth, question.answer), RUBRIC_VERSION
        else:
            prompt, version = prompt_for(question.context, question.ground_truth, question.answer), VERSION
        for attempt in range(ATTEMPTS):
            seed = number + SEEDS_APART * attempt
            key = (self._config.model, version, question.context, question.ground_truth, question.answer, seed)
            known = self._cache.get(key)
            if known is not None:
                return known
            verdict = read_verdict(await self._reply(prompt, seed))
            if verdict is not None:
                self._cache.put(key, verdict)
                return verdict
        raise JudgeError(f"none of {ATTEMPTS} replies ended with a verdict")

    def _without_verdict(self, error: JudgeError, shown: str, seconds: float) -> Verdict:
        policy, reason = self._config.on_error, f"judge: {error}"
        _log.warning("%s (reward.judge.on_error: %s)", reason, policy)
        if policy == "abort":
            raise JudgeUnavailable(f"{reason}; repair the endpoint, or set reward.judge.on_error=mask.") from error
        if policy == "zero":
            return wrong(shown, f"{reason}; counted as 0 by reward.judge.on_error", seconds)
        return Verdict(reward=0.0, correct=False, outcome="judge_error", reason=reason, answer=shown, seconds=seconds)

    async def _reply(self, prompt: str, seed: int) -> str | None:
        """The text of a reply, None where the model gave none. Retries what may pass, and raises ``JudgeError``."""
        for retry in range(self._config.max_retries + 1):
            self._breaker.enter(self._config.base_url)
            try:
                text = await self._request(prompt, seed)
            except _Retryable as failure:
                self._breaker.leave(is_down=failure.is_down)
                if retry == self._config.max_retries:
                    raise JudgeError(f"{failure}, {retry + 1} times") from failure
                first, limit = self._config.backoff_seconds, MAX_BACKOFF_SECONDS
                await asyncio.sleep(backoff_seconds(retry + 1, failure.after_seconds, first=first, limit=limit))
            except JudgeError:  # it answered, if only to refuse
                self._breaker.leave(is_down=False)
                raise
            else:
                self._breaker.leave(is_down=False)
                return text
        raise AssertionError("unreachable")

    async def _request(self, prompt: str, seed: int) -> str | None:
        import httpx

        config = self._config
        if self._client is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.AsyncClient(headers=headers, timeout=config.timeout_seconds)
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": config.temperature,
            "max_tokens": config.max_reply_tokens,
            "seed": seed,
        }
        assert config.base_url is not None, "a judge without an endpoint was asked"
        try:
            # httpx counts from byte to byte; an endpoint that drips must end too.
            async with asyncio.timeout(config.timeout_seconds):
                response = await self._client.post(f"{config.base_url.rstrip('/')}/chat/completions", json=body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Retryable(f"no reply within {config.timeout_seconds:g} s", is_down=True) from error
        except httpx.TransportError as error:
            reason = f"{config.base_url} cannot be reached ({type(error).__name__})"
            raise _Retryable(reason, is_down=True) from None  # the error may quote the endpoint, or the key
        return _text_of(response, self._key)


def _text_of(response: httpx.Response, key: str | None) -> str | None:
    status = response.status_code
    if status == 429 or status >= 500:
        after = retry_after_seconds(response.headers.get("retry-after"))
        raise _Retryable(f"the endpoint answered {status}", is_down=status != 429, after_seconds=after)
    if status != 200:
        raise JudgeError(f"the endpoint refused the request with {status}: {without_key(response.text, key)[:200]}")
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _Retryable(f"the endpoint's reply is no chat completion ({error!r})", is_down=True) from error
    return content if isinstance(content, str) else None


class Breaker:
    """Spares an endpoint that is down: after so many failures in a row nothing is sent for a while, then one request
    tries it. Used from one event loop only."""

    def __init__(self, max_failures: int, rest_seconds: float) -> None:
        self._max_failures = max_failures
        self._rest_seconds = rest_seconds
        self._failures = 0
        self._rests_until = 0.0

    def enter(self, name: str | None) -> None:
        """Raises ``JudgeError`` where nothing may be sent now."""
        if self._failures < self._max_failures:
            return
        if time.monotonic() < self._rests_until:
            raise JudgeError(f"{name} is down ({self._failures} failures in a row)")
        self._rests_until = time.monotonic() + self._rest_seconds  # the one that tries; the others wait for it

    def leave(self, *, is_down: bool) -> None:
        if not is_down:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= self._max_failures:
            self._rests_until = time.monotonic() + self._rest_seconds
