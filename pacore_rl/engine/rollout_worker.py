"""One inference engine in one process: vLLM, stepped by the worker that owns it.

The engine runs in this process and only moves when ``generate`` steps it. So requests always meet the scheduler in the
order in which they were given, all before the first step: what a batch holds never depends on timing, and neither do
the floating-point sums in it. (vLLM's ``AsyncLLM`` puts the engine into a second process that steps whenever something
has arrived; on one core it also generates half as many tokens a second.)
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pacore_rl.config import Config
from pacore_rl.engine import vllm_plugin
from pacore_rl.engine.placement import Device
from pacore_rl.engine.weight_sync import choose_backend, vllm_backend
from pacore_rl.types import Finish, GenerationRequest, Sampling, Trajectory

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""What vLLM reads when it is imported; the group sets it for the worker's process."""

CPU_BLOCK_TOKENS = 32
"""Of the KV cache, on CPUs: the smallest that vLLM's attention takes there. Prompts share whole blocks only, and with
the default of 128 the samples of one short prompt share nothing: half the speed."""

CPU_STEP_TOKENS = 16_384
"""Tokens of one engine step on CPUs, at least."""

Finished = list[tuple[int, tuple[Trajectory, ...]]]
"""(index of a request, its trajectories), of the requests that one engine step finished."""


class RolloutWorker:
    """Generates with one engine. ``RolloutGroup`` makes it a Ray actor; every method is a command of the controller."""

    def __init__(self, config: Config, device: Device, model_path: str) -> None:
        """Keep the arguments; ``start`` does the work, so that its errors arrive as they are."""
        self._config = config
        # A placement group is the controller's business.
        self._device = replace(device, placement=None)
        self._model_path = model_path
        self._weight_version = 0
        self._context_window_tokens = config.model.context_window_tokens

    def start(self) -> None:
        """Load the model and start the engine; seconds on CPUs, minutes for a large model.

        Raises:
            ValueError: the model folder is not whole, or the engine does not fit into memory.
        """
        check_model_folder(self._model_path)
        if self._num_processes > 1 and self._device.kind == "cpu":
            # vLLM would give each process a memory node of its own, and refuses where there are fewer nodes.
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        vllm_plugin.register()
        from vllm.engine.arg_utils import EngineArgs  # importing vLLM takes seconds
        from vllm.v1.engine.llm_engine import LLMEngine

        rollout = self._config.rollout
        try:
            self._engine: LLMEngine = LLMEngine.from_engine_args(EngineArgs(**self._engine_settings()))
        except (ValueError, RuntimeError, OSError) as error:
            room = (
                f"rollout.kv_cache_gib={rollout.kv_cache_gib}"
                if self._device.kind == "cpu"
                else f"rollout.gpu_memory_utilization={rollout.gpu_memory_utilization}"
            )
            raise ValueError(
                f"vLLM does not start on {self._model_path} with {room} and "
                f"model.context_window_tokens={self._context_window_tokens}: {error}\n"
                "The weights, and the KV cache of at least one full context window, must fit into memory. Raise the "
                "cache where memory is free, lower the context window, or repair the model folder if that is at fault."
            ) from error
        if self._config.rollout.pipeline_parallel > 1 and self._device.kind == "cpu":
            # vLLM's later stages allocate what they receive in the profiling run, which CPUs skip in eager mode.
            self._engine.collective_rpc("execute_dummy_batch")
        self._tokenizer: Any = self._engine.get_tokenizer()
        # The engine's many objects live as long as the process: the garbage collector need not visit them at each step.
        gc.collect()
        gc.freeze()

    def generate(self, requests: Sequence[tuple[int, GenerationRequest]], sampling: Sampling) -> Iterator[Finished]:
        """Generate for (index, request) pairs and yield those that finish, a list an engine step.

        A request that the engine refuses comes back as ``failed`` and leaves the others alone.
        """
        from vllm.outputs import RequestOutput

        # What earlier calls left in the cache would change which tokens are computed together, and so the last digits.
        self._engine.reset_prefix_cache()
        by_id = {str(index): request for index, request in requests}
        assert len(by_id) == len(requests), "request indices must differ"
        refused: Finished = []
        for index, request in requests:
            finish = self._submit(str(index), request, sampling)
            if finish is not None:
                refused.append((index, self._without_tokens(request, finish)))
        if refused:
            yield refused
        while self._engine.has_unfinished_requests():
            outputs = [output for output in self._engine.step() if output.finished]
            if outputs:
                yield [
                    (int(output.request_id), self._trajectories(by_id[output.request_id], output))
                    for output in outputs
                    if isinstance(output, RequestOutput)
                ]

    def sleep(self) -> None:
        """Give the GPUs of this engine to the learners: the weights and the KV cache are dropped, not kept.

        Must not be called while requests run. vLLM on CPUs has no sleep: there it stays as it is, and turns are a
        matter of the controller's protocol alone.
        """
        assert not self._engine.has_unfinished_requests(), "an engine falls asleep over running requests"
        if self._device.kind == "cuda":
            self._engine.sleep(level=2)

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Allocate the weights (to be filled by a weight update) or the KV cache; after both, it generates again."""
        if self._device.kind == "cuda":
            self._engine.wake_up(tags=[part])

    def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the group that carries weights, with every process of the engine; blocks until all members came."""
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})

    def start_weight_update(self) -> None:
        """Make the model ready to load weights. It cannot generate until ``finish_weight_update``."""
        self._engine.collective_rpc("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive the weights of ``update_info`` (names, types, shapes) from the sender and load them."""
        self._engine.collective_rpc("update_weights", kwargs={"update_info": update_info})

    def finish_weight_update(self, version: int) -> int:
        """Pack the new weights, forget what the old ones cached, and report the version from now on; returns it."""
        self._engine.collective_rpc("finish_weight_update")
        cleared = self._engine.reset_prefix_cache()
        assert cleared, "weights changed while requests were running"
        self._weight_version = version
        return self._weight_version

    def _engine_settings(self) -> dict[str, Any]:
        """Arguments of vLLM's ``EngineArgs``."""
        from vllm.config.weight_transfer import WeightTransferConfig

        rollout, model = self._config.rollout, self._config.model
        settings: dict[str, Any] = {
            "model": self._model_path,
            "dtype": str(self._device.dtype(model.dtype)).removeprefix("torch."),
            "seed": self._config.run.seed,
            "max_model_len": self._context_window_tokens,
            "max_num_seqs": rollout.max_concurrent_sequences,
            "enforce_eager": rollout.enforce_eager,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled: temperature and top-p applied
            "disable_log_stats": True,
            "weight_transfer_config": WeightTransferConfig(backend=vllm_backend(self._backend())),
            "tensor_parallel_size": rollout.tensor_parallel,
            "pipeline_parallel_size": rollout.pipeline_parallel,
            # Several processes are children of this one and see its GPUs, all of one node.
            "distributed_executor_backend": "uni" if self._num_processes == 1 else "mp",
        }
        if model.rope_scaling is not None:
            settings["hf_overrides"] = {"rope_parameters": self._rope_parameters(model.rope_scaling)}
        if self._device.kind == "cuda":
            return settings | {
                "gpu_memory_utilization": rollout.gpu_memory_utilization,
                "enable_sleep_mode": rollout.placement == "colocated",
            }
        return settings | {
            "kv_cache_memory_bytes": int(rollout.kv_cache_gib * 1024**3),
            "block_size": CPU_BLOCK_TOKENS,
            # vLLM 0.32 on CPUs cannot rewind a seeded random stream, which it does after each part of a split prompt.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": min(
                max(CPU_STEP_TOKENS, self._context_window_tokens),
                self._context_window_tokens * rollout.max_concurrent_sequences,
            ),
        }

    def _rope_parameters(self, overrides: Mapping[str, float | int | str]) -> dict[str, Any]:
        """The model's own rope parameters with the run's on top, as the learners merge them."""
        from transformers import AutoConfig

        own = AutoConfig.from_pretrained(self._model_path).rope_parameters or {}
        return {**own, **overrides}

    @property
    def _num_processes(self) -> int:
        return self._config.rollout.tensor_parallel * self._config.rollout.pipeline_parallel

    def _backend(self) -> Any:
        return choose_backend(self._config.rollout, self._device)

    def _submit(self, request_id: str, request: GenerationRequest, sampling: Sampling) -> Finish | None:
        """Queue a request at the engine; or say how it ended if it never got there."""
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input

        room = self._context_window_tokens - len(request.prompt_ids)
        if room <= 0:
            return "overflow"
        params = self._sampling_params(request, sampling, max_tokens=min(room, sampling.max_response_tokens))
        try:
            self._engine.add_request(request_id, tokens_input(request.prompt_ids.tolist()), params)
        except (VLLMClientError, ValueError):
            return "failed"
        return None

    def _sampling_params(self, request: GenerationRequest, sampling: Sampling, *, max_tokens: int) -> SamplingParams:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            n=request.num_samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=stream_seed(request.seed),
            max_tokens=max_tokens,
            logprobs=0,  # of the chosen token only
            flat_logprobs=True,
            detokenize=False,  # text is decoded once, at the end
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _trajectories(self, request: GenerationRequest, finished: RequestOutput) -> tuple[Trajectory, ...]:
        outputs = finished.outputs
        finishes: list[Finish] = [typed_finish(output.finish_reason, len(output.token_ids)) for output in outputs]
        # A response that stopped ends in its stop token, which is no text.
        texts = self._tokenizer.batch_decode(
            [
                output.token_ids[:-1] if finish in ("stopped", "empty") else output.token_ids
                for output, finish in zip(outputs, finishes, strict=True)
            ],
            skip_special_tokens=True,
        )
        return tuple(
            Trajectory(
                prompt_ids=request.prompt_ids,
                response_ids=np.asarray(output.token_ids, dtype=np.int32),
                logprobs=np.asarray(output.logprobs.logprobs, dtype=np.float32),  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
                text=text,
                finish=finish,
                weight_versions=np.full(len(output.token_ids), self._weight_version, dtype=np.int32),
            )
            for output, text, finish in zip(outputs, texts, finishes, strict=True)
        )

    def _without_tokens(self, request: GenerationRequest, finish: Finish) -> tuple[Trajectory, ...]:
        nothing = Trajectory(
            prompt_ids=request.prompt_ids,
            response_ids=np.empty(0, dtype=np.int32),
            logprobs=np.empty(0, dtype=np.float32),
            text="",
            finish=finish,
            weight_versions=np.empty(0, dtype=np.int32),
        )
        return (nothing,) * request.num_samples


def typed_finish(reason: str | None, num_tokens: int) -> Finish:
    """How a generation ended, from vLLM's finish reason and the number of response tokens, stop token included."""
    if reason == "length":
        return "truncated"
    if reason == "stop":
        return "stopped" if num_tokens > 1 else "empty"
    return "failed"


def stream_seed(seed: int) -> int:
    """The engine's seed for a request's first sample, in [0, 2**62); vLLM adds i for sample i.

    Spread by a hash: with plain seeds, sample 1 of seed 7 would be sample 0 of seed 8.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def check_model_folder(path: str) -> None:
    """Refuse a folder that vLLM would refuse with a traceback. Anything that is no local path passes as a hub id.

    Raises:
        ValueError: the folder is missing, or has no configuration, weights or tokenizer.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or path.startswith((".", "~")):
            raise ValueError(f"model path {path} is not a folder; give a Hugging Face folder or a hub id.")
        return
    for what, patterns in (
        ("configuration", ("config.json",)),
        ("weights", ("*.safetensors", "pytorch_model*.bin")),
        ("tokenizer", ("tokenizer.json", "tokenizer.model", "vocab.json")),
    ):
        if not any(True for pattern in patterns for _ in folder.glob(pattern)):
            raise ValueError(
                f"model path {path} holds no {what} ({' or '.join(patterns)}); give a complete Hugging Face folder, as "
                "save_pretrained of model and tokenizer writes it."
            )
