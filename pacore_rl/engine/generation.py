"""Responses under way in one vLLM engine: jobs in, ``Response`` records out, and trajectories made of these.

Every sample is an engine request of its own, with the seed that vLLM would give to sample i of a request with n > 1;
so each response comes out when it ends, and the prefix cache still prefills a prompt once. vLLM's own samples (n > 1)
come out together, when the last of them has ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pacore_rl.engine.routing import Job, token_budget
from pacore_rl.types import Finish, Float32, GenerationRequest, Int32, Sampling, Trajectory

if TYPE_CHECKING:
    from vllm.outputs import PoolingRequestOutput, RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.llm_engine import LLMEngine

MAX_STEPS_IN_FLIGHT = 8
"""Engine steps after which blocks of interrupted requests are free; vLLM keeps one or two steps in flight."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Response:
    """What an engine sends back of a job: the new part only, the controller has the rest."""

    job: Job
    token_ids: Int32
    """[new]"""
    logprobs: Float32
    """[new]"""
    text: str
    """Of the whole response, a continued part included."""
    finish: Finish
    weight_version: int
    """Of the new part."""
    num_cached_tokens: int
    """Prompt tokens that the prefix cache spared."""


class Generation:
    """One call's jobs in the engine. Not thread-safe: whoever steps the engine owns it."""

    def __init__(
        self,
        engine: LLMEngine,
        tokenizer: Any,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        *,
        context_window_tokens: int,
        weight_version: int,
    ) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._requests, self._sampling = requests, sampling
        self._context_window_tokens = context_window_tokens
        self._weight_version = weight_version
        self._prepared: dict[int, EngineCoreRequest] = {}
        """By request: checked by vLLM, and all that its samples share. Checking each sample costs a few percent."""

    @property
    def busy(self) -> bool:
        return self._engine.has_unfinished_requests()

    def submit(self, jobs: Sequence[Job]) -> list[Response]:
        """Queue jobs; returns those that end without getting there: no room, nothing left to generate, or refused."""
        ended: list[Response] = []
        for job in jobs:
            finish = self._submit(job)
            if finish is not None:
                ended.append(self._without_new_tokens(job, finish))
        return ended

    def step(self) -> list[Response]:
        """One engine step; the responses that it ended."""
        return self._responses(self._engine.step(), interrupted=False)

    def interrupt(self) -> list[Response]:
        """Take everything out of the engine, the prefix cache too; what it has of each response, be it no token."""
        from vllm.v1.engine import FinishReason

        states = self._engine.output_processor.request_states
        outputs = [
            # What vLLM itself makes of a request that is aborted, where somebody waits for its output.
            state.make_request_output(
                new_token_ids=[], pooling_output=None, finish_reason=FinishReason.ABORT, stop_reason=None
            )
            for state in states.values()
        ]
        self._engine.abort_request(list(states), internal=True)
        forget_prefixes(self._engine)
        return self._responses([output for output in outputs if output is not None], interrupted=True)

    def _submit(self, job: Job) -> Finish | None:
        from vllm.exceptions import VLLMClientError

        index, sample = job
        request = self._requests[index]
        room = self._context_window_tokens - len(request.prompt_ids)
        if room <= 0:
            return "overflow"
        position = 0 if request.continues is None else len(request.continues.response_ids)
        max_tokens = min(room - position, token_budget(request, self._sampling))
        if max_tokens <= 0:
            return "truncated"
        try:
            if index not in self._prepared:
                self._prepared[index] = self._prepare(index, max_tokens)
        except (VLLMClientError, ValueError):
            return "failed"
        seed = sample_seed(request.seed, request.first_sample + sample, position)
        self._enqueue(self._prepared[index], f"{index}/{sample}", seed)
        return None

    def _prepare(self, index: int, max_tokens: int) -> EngineCoreRequest:
        """A request as the engine takes it; its samples start from the prompt and what there is of a response."""
        from vllm.inputs.engine import tokens_input

        request = self._requests[index]
        so_far = [] if request.continues is None else request.continues.response_ids.tolist()
        return self._engine.input_processor.process_inputs(
            str(index),
            tokens_input(request.prompt_ids.tolist() + so_far),
            self._sampling_params(max_tokens),
            supported_tasks=self._engine.get_supported_tasks(),
        )

    def _enqueue(self, prepared: EngineCoreRequest, request_id: str, seed: int) -> None:
        """Queue one sample: what ``LLMEngine.add_request`` does for each of n samples, but for their common parent."""
        request = copy(prepared)
        request.request_id = request_id
        request.sampling_params = copy(prepared.sampling_params)
        assert request.sampling_params is not None, "generation has sampling parameters"
        request.sampling_params.seed = seed
        self._engine.input_processor.assign_request_id(request)
        self._engine.output_processor.add_request(request, None, None, 0)
        self._engine.engine_core.add_request(request)

    def _sampling_params(self, max_tokens: int) -> SamplingParams:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=0,  # each sample has its own
            max_tokens=max_tokens,
            logprobs=0,  # of the chosen token only
            flat_logprobs=True,
            detokenize=False,  # text is decoded once, at the end
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _responses(
        self, outputs: Sequence[RequestOutput | PoolingRequestOutput[Any]], *, interrupted: bool
    ) -> list[Response]:
        from vllm.outputs import RequestOutput

        ended = [output for output in outputs if isinstance(output, RequestOutput) and output.finished]
        if not ended:  # most steps; a tokenizer makes one empty text of no ids
            return []
        jobs = [_job(output.request_id) for output in ended]
        new_ids = [np.asarray(output.outputs[0].token_ids, dtype=np.int32) for output in ended]
        whole_ids = [self._whole(index, ids) for (index, _), ids in zip(jobs, new_ids, strict=True)]
        finishes: list[Finish] = [
            "unfinished" if interrupted else typed_finish(output.outputs[0].finish_reason, len(ids))
            for output, ids in zip(ended, whole_ids, strict=True)
        ]
        return [
            Response(
                job=job,
                token_ids=ids,
                logprobs=np.asarray(output.outputs[0].logprobs.logprobs, dtype=np.float32),  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
                text=text,
                finish=finish,
                weight_version=self._weight_version,
                num_cached_tokens=output.num_cached_tokens or 0,
            )
            for output, job, ids, text, finish in zip(
                ended, jobs, new_ids, self._texts(whole_ids, finishes), finishes, strict=True
            )
        ]

    def _whole(self, index: int, new_ids: Int32) -> Int32:
        continues = self._requests[index].continues
        return new_ids if continues is None else np.concatenate([continues.response_ids, new_ids])

    def _texts(self, whole_ids: Sequence[Int32], finishes: Sequence[Finish]) -> list[str]:
        # A response that stopped ends in its stop token, which is no text.
        return self._tokenizer.batch_decode(
            [
                ids[:-1] if finish in ("stopped", "empty") else ids
                for ids, finish in zip(whole_ids, finishes, strict=True)
            ],
            skip_special_tokens=True,
        )

    def _without_new_tokens(self, job: Job, finish: Finish) -> Response:
        continues = self._requests[job[0]].continues
        return Response(
            job=job,
            token_ids=np.empty(0, dtype=np.int32),
            logprobs=np.empty(0, dtype=np.float32),
            text="" if continues is None else continues.text,
            finish=finish,
            weight_version=self._weight_version,
            num_cached_tokens=0,
        )


def forget_prefixes(engine: LLMEngine) -> None:
    """Empty the prefix cache of an engine that has no requests."""
    assert not engine.has_unfinished_requests(), "the prefix cache is in use"
    for _ in range(MAX_STEPS_IN_FLIGHT):
        if engine.reset_prefix_cache():
            return
        engine.step()  # lets a step end that was in flight when its requests were interrupted
    raise AssertionError("the engine holds cache blocks without having requests")


def complete(request: GenerationRequest, response: Response) -> Trajectory:
    """The response with what was there before it: tokens, log-probs and versions of every part as it was sampled."""
    token_ids, logprobs = response.token_ids, response.logprobs
    versions = np.full(len(token_ids), response.weight_version, dtype=np.int32)
    before = request.continues
    if before is not None:
        token_ids = np.concatenate([before.response_ids, token_ids])
        logprobs = np.concatenate([before.logprobs, logprobs])
        versions = np.concatenate([before.weight_versions, versions])
    return Trajectory(
        prompt_ids=request.prompt_ids,
        response_ids=token_ids,
        logprobs=logprobs,
        text=response.text,
        finish=response.finish,
        weight_versions=versions,
    )


def not_begun(request: GenerationRequest) -> Trajectory:
    """The trajectory of a job that no engine got: as it was, or without a token."""
    if request.continues is not None:
        return request.continues
    return Trajectory(
        prompt_ids=request.prompt_ids,
        response_ids=np.empty(0, dtype=np.int32),
        logprobs=np.empty(0, dtype=np.float32),
        text="",
        finish="unfinished",
        weight_versions=np.empty(0, dtype=np.int32),
    )


def typed_finish(reason: str | None, num_tokens: int) -> Finish:
    """How a generation ended, from vLLM's finish reason and the number of response tokens, stop token included."""
    if reason == "length":
        return "truncated"
    if reason == "stop":
        return "stopped" if num_tokens > 1 else "empty"
    return "failed"


def sample_seed(seed: int, sample: int, position: int) -> int:
    """The engine's seed for sample ``sample`` of a request with ``seed``, whose first new token is number ``position``.

    vLLM numbers the samples of a request by adding to its seed. A continued part draws from a stream of its own: the
    first one's would repeat the numbers that drew the tokens already there.
    """
    return stream_seed(seed if position == 0 else f"{seed}@{position}") + sample


def stream_seed(seed: int | str) -> int:
    """A seed for the engine in [0, 2**62), spread by a hash: sample 1 of seed 7 must not be sample 0 of seed 8."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def _job(request_id: str) -> Job:
    index, sample = request_id.split("/")
    return int(index), int(sample)
