"""One inference engine in one process: vLLM, stepped by the worker that owns it.

The engine runs in this process and only moves when ``generate`` steps it. So jobs that are given at once meet the
scheduler in their order, all before the first step: what a batch holds never depends on timing, and neither do the
floating-point sums in it. Jobs that follow while it generates, and word to stop, wait in an inbox for the end of the
current step: one thread steps the engine, another one fills the inbox. (vLLM's ``AsyncLLM`` puts the engine into a
second process that steps whenever something has arrived; on one core it also generates half as many tokens a second.)
"""

from __future__ import annotations

import gc
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pacore_rl.config import Config
from pacore_rl.engine import vllm_plugin
from pacore_rl.engine.generation import Generation, Response, forget_prefixes
from pacore_rl.engine.placement import Device
from pacore_rl.engine.routing import Job
from pacore_rl.engine.weight_sync import choose_backend, vllm_backend
from pacore_rl.engine.whereabouts import Whereabouts
from pacore_rl.tokenizer import TOKENIZER_FILES
from pacore_rl.types import GenerationRequest, Sampling

if TYPE_CHECKING:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What the controller tells a worker while it generates."""

    call: str
    jobs: Sequence[Job] = ()
    more: bool = False
    """Whether further jobs may follow."""
    stop: bool = False
    """Interrupt what is under way and end the call."""


class RolloutWorker:
    """Generates with one engine. ``RolloutGroup`` makes it a Ray actor; every method is a command of the controller."""

    def __init__(self, config: Config, device: Device, model_path: str) -> None:
        """Keep the arguments; ``start`` does the work, so that its errors arrive as they are."""
        self._config = config
        # A placement group is the controller's business.
        self._device = replace(device, placement=None)
        self._model_path = model_path
        self._weight_version = 0
        self._num_steps = 0
        self._context_window_tokens = config.model.context_window_tokens
        self._inbox: queue.SimpleQueue[News] = queue.SimpleQueue()

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
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        rollout = self._config.rollout
        try:
            # The context decides how many tokens vLLM computes in a step where no setting does. Synthesis prompts hold
            # many messages: the default of a bare engine, 2,048 on any GPU, would read them slowly.
            self._engine: LLMEngine = LLMEngine.from_engine_args(
                EngineArgs(**self._engine_settings()), usage_context=UsageContext.OPENAI_API_SERVER
            )
        except (ValueError, RuntimeError, OSError) as error:
            room = (
                f"rollout.kv_cache_gib={rollout.kv_cache_gib}"
                if self._device.kind == "cpu"
                else f"rollout.gpu_memory_utilization={rollout.gpu_memory_utilization}"
            )
            raise ValueError(
                f"vLLM does not start on {self._model_path} with {room} and "
                f"model.context_window_tokens={self._context_window_tokens}: {error}\n"
                "The weights, and the KV cache of at least one full context window, must fit into memory. Lower the "
                "cache where it does not fit, raise it where memory is free, lower the context window, or repair the "
                "model folder if that is at fault."
            ) from error
        if self._config.rollout.pipeline_parallel > 1 and self._device.kind == "cpu":
            # vLLM's later stages allocate what they receive in the profiling run, which CPUs skip in eager mode.
            self._engine.collective_rpc("execute_dummy_batch")
        self._tokenizer: Any = self._engine.get_tokenizer()
        # The engine's many objects live as long as the process: the garbage collector need not visit them at each step.
        gc.collect()
        gc.freeze()

    def generate(
        self,
        call: str,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        jobs: Sequence[Job],
        *,
        more: bool,
    ) -> Iterator[list[Response]]:
        """Generate jobs and yield the responses that end, a list an engine step.

        One that the engine refuses comes back as ``failed`` and leaves the others alone.

        Args:
            call: a name that ``tell`` repeats: what is told of another call is dropped.
            requests: of the whole call; jobs name them by index.
            more: go on for jobs that ``tell`` brings, until it says that there are no more.

        Raises:
            TimeoutError: there was nothing to do and nothing was told for ``run.worker_timeout_seconds``.
        """
        # What earlier calls left in the cache would change which tokens are computed together, and so the last digits.
        forget_prefixes(self._engine)
        generation = Generation(
            self._engine,
            self._tokenizer,
            requests,
            sampling,
            context_window_tokens=self._context_window_tokens,
            weight_version=self._weight_version,
        )
        ended = generation.submit(jobs)
        while True:
            for news in self._news(call, wait=more and not generation.busy and not ended):
                if news.stop:
                    yield ended + generation.interrupt()
                    return
                ended += generation.submit(news.jobs)
                more = news.more
            if generation.busy:
                ended += generation.step()
                self._num_steps += 1
            if ended:
                yield ended
                ended = []
            if not more and not generation.busy:
                return

    def tell(self, news: News) -> None:
        """Leave word for the ``generate`` that is running; it reads it between two engine steps. Runs beside it."""
        self._inbox.put(news)

    def whereabouts(self) -> Whereabouts:
        """Where this process runs; answered at once, whatever the engine is doing."""
        return Whereabouts.of_this_process(self._num_steps)

    def _news(self, call: str, *, wait: bool) -> Iterator[News]:
        """What was told of a call so far; with ``wait``, at least one."""
        while wait or not self._inbox.empty():
            try:
                news = self._inbox.get(timeout=self._config.run.worker_timeout_seconds)
            except queue.Empty:
                raise TimeoutError(
                    f"an idle engine heard nothing for {self._config.run.worker_timeout_seconds:.0f} s "
                    "(run.worker_timeout_seconds), although more responses were announced."
                ) from None
            if news.call == call:
                wait = False
                yield news

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
        """Join the group that carries weights, with every process of the engine; blocks until all members came.

        An older group is left first: vLLM would forget it and keep its communicator, which holds memory of the GPU.
        """
        self._engine.collective_rpc("shutdown_weight_transfer_engine")
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
        forget_prefixes(self._engine)
        self._weight_version = version
        return self._weight_version

    def _engine_settings(self) -> dict[str, Any]:
        """Arguments of vLLM's ``EngineArgs``."""
        from vllm.config.weight_transfer import WeightTransferConfig

        rollout, model = self._config.rollout, self._config.model
        settings: dict[str, Any] = {
            "model": self._model_path,
            "dtype": str(self._device.dtype(model.dtype)).removeprefix("torch."),
            "trust_remote_code": model.trust_remote_code,
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

        settings = AutoConfig.from_pretrained(self._model_path, trust_remote_code=self._config.model.trust_remote_code)
        return {**(settings.rope_parameters or {}), **overrides}

    @property
    def _num_processes(self) -> int:
        return self._config.rollout.tensor_parallel * self._config.rollout.pipeline_parallel

    def _backend(self) -> Any:
        return choose_backend(self._config.rollout, self._device)


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
        ("tokenizer", TOKENIZER_FILES),
    ):
        if not any(True for pattern in patterns for _ in folder.glob(pattern)):
            raise ValueError(
                f"model path {path} holds no {what} ({' or '.join(patterns)}); give a complete Hugging Face folder, as "
                "save_pretrained of model and tokenizer writes it."
            )
