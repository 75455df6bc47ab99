"""What a run would refuse, found before anything starts: ``check_run`` reads recipe, data and the model's files.

``pacore-rl train`` calls it before Ray starts, ``train --dry-run`` instead of a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.config import Config
from pacore_rl.inputs import data_is_there, read_messages, read_problems
from pacore_rl.interfaces import ChatTokenizer
from pacore_rl.machine import available_memory_gib
from pacore_rl.planning.placement import DeviceKind, check_fits, plan_placement
from pacore_rl.planning.shapes import KNOWN_TYPES, ModelShape, longest_sequence, shape_of
from pacore_rl.planning.workload import Workload
from pacore_rl.synthesis.draws import draw_messages, draw_problems, draw_rng, fit_to_window
from pacore_rl.synthesis.prompt import build_conversation
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import PoolMessage, Problem

LONGEST_READ = 16
"""Problems, longest text first, whose prompts are tokenised to find the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaModels:
    """The two networks of a run without their weights."""

    architecture: str
    policy_parameters: int
    critic_parameters: int
    head: str
    """The critic's head, as torch prints it."""
    shape: ModelShape | None
    """Of the policy; None: ``planning.shapes`` does not count its architecture."""


def check_run(config: Config, problems: Sequence[Problem] | None = None) -> MetaModels:
    """Everything that can be known to fail without starting a worker.

    Args:
        problems: those of the run's data; None reads them where they are there.

    Raises:
        ValueError: what was given, what must hold, what to do.
    """
    from pacore_rl.engine.layout import check_layout  # late: torch and transformers

    check_gpus(config)
    models = build_on_meta(config)
    check_layout(config)
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    check_reasoning_marker(config, tokenizer.tokenizer)
    if problems is None and data_is_there(config.data):
        problems = read_problems(config.data)
    if problems is not None:
        check_prompts(config, tokenizer, problems)
    return models


def check_gpus(config: Config) -> None:
    """The sizes of a run must go together, and this machine must have its GPUs. A cluster's are counted when joined."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = config.cluster.address is None
    kind: DeviceKind = "cpu" if config.run.device == "cpu" or (here and not found) else "cuda"
    plan = plan_placement(config, kind=kind)
    for name, learner in (("actor", config.actor), ("critic", config.critic)):
        if learner.fused_kernels and kind == "cpu":
            raise ValueError(f"{name}.fused_kernels=true is for GPUs, and this run computes on CPUs; leave it out.")
    if kind == "cpu" and here:
        check_cpu_memory(config)
    if config.run.device == "cpu" or not here:
        return
    if config.run.device == "cuda" and found == 0:
        raise ValueError(
            "run.device=cuda, but torch sees no GPU on this machine; install the GPU lock on a machine with one, join "
            "a cluster with cluster.address, or set run.device=cpu."
        )
    if found:  # a private cluster offers as many CPUs as it takes
        check_fits(plan, {"this machine": {"CPU": plan.num_slots * plan.bundle["CPU"], "GPU": found}})


def check_cpu_memory(config: Config) -> None:
    """Raise ValueError where the engines' caches alone exceed the memory that this machine has free."""
    rollout, free = config.rollout, available_memory_gib()
    processes = rollout.num_workers * rollout.tensor_parallel * rollout.pipeline_parallel
    wanted = processes * rollout.kv_cache_gib
    if free is not None and wanted > free:
        raise ValueError(
            f"rollout.kv_cache_gib={rollout.kv_cache_gib:g} for each of {processes} engine processes is {wanted:g} "
            f"GiB, and {free:.1f} GiB of this machine's memory are free; lower it, or rollout.num_workers."
        )


def build_on_meta(config: Config) -> MetaModels:
    """Policy and critic on torch's meta device: shapes and parameters without memory.

    Raises:
        ValueError: the model's configuration cannot be had, its architecture lacks what training needs, its window is
            too small, or its files hold another architecture's weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    from pacore_rl.engine.layout import read_settings  # late: torch and transformers

    path = config.model.path
    settings = read_settings("model.path", path, trust_remote_code=config.model.trust_remote_code)
    name = type(settings).__name__
    _check_window(config, settings)
    settings.num_labels = 1
    trust = {"trust_remote_code": config.model.trust_remote_code}
    try:
        with torch.device("meta"):
            policy: Any = AutoModelForCausalLM.from_config(settings, **trust)
            critic: Any = AutoModelForTokenClassification.from_config(settings, **trust)
    except ValueError as error:
        raise ValueError(
            f"model.path={path} is a {settings.model_type} model ({name}); training needs an architecture with a "
            "causal language model and a token classifier in transformers (Llama, Qwen2, Qwen3 and kin have both)."
        ) from error
    folder = Path(path).expanduser()
    if folder.is_dir():
        check_weight_files(folder, {key: tuple(value.shape) for key, value in policy.state_dict().items()})
    return MetaModels(
        architecture=type(policy).__name__,
        policy_parameters=sum(parameter.numel() for parameter in policy.parameters()),
        critic_parameters=sum(parameter.numel() for parameter in critic.parameters()),
        head=str(critic.score),
        shape=shape_of(settings.to_dict()) if settings.model_type in KNOWN_TYPES else None,
    )


def _check_window(config: Config, settings: Any) -> None:
    """The context window must lie within the positions of the model, stretched by rope scaling where there is one."""
    longest = int(settings.max_position_embeddings)
    reach = longest_sequence(longest, {**(settings.rope_parameters or {}), **(config.model.rope_scaling or {})})
    window = config.model.context_window_tokens
    if window > reach:
        raise ValueError(
            f"model.context_window_tokens={window} exceeds the {reach} positions of {config.model.path}; lower the "
            "window, or stretch the model with model.rope_scaling, e.g. {rope_type: yarn, factor: 2.0, "
            f"attention_factor: 1.0, original_max_position_embeddings: {longest}}}."
        )


def check_weight_files(folder: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """The safetensors files of a folder must hold the tensors that its config.json promises, by name and shape.

    A tensor that is missing is allowed where the model ties it; a critic's checkpoint is told apart.

    Raises:
        ValueError: weights of another architecture or size.
    """
    found = _stored_shapes(folder)
    if not found:
        return  # pytorch_model.bin, which is not read without unpickling it
    if "score.weight" in found and "score.weight" not in expected:
        raise ValueError(
            f"model.path={folder} is a critic's checkpoint (it has score.weight); give the actor's folder beside it."
        )
    tied = {"lm_head.weight"}
    wrong = [
        f"{name}: {list(found[name])} stored, {list(shape)} expected"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [name for name in expected if name not in found and name not in tied]
    if missing and len(missing) == len(expected) - len(tied & expected.keys()):
        wrong.append(f"none of the expected tensors is stored (first stored: {next(iter(found))})")
    elif missing and not _fuses_experts(missing):
        wrong.append(f"{len(missing)} tensors are missing, e.g. {missing[0]}")
    if wrong:
        raise ValueError(
            f"model.path={folder}: the weights are not those of its config.json: {'; '.join(wrong[:3])}. Give the "
            "folder as save_pretrained wrote it, weights and config.json of one model."
        )


def _fuses_experts(names: Sequence[str]) -> bool:
    """Whether all of these are expert weights, which transformers fuses while it loads them."""
    return all(".experts." in name for name in names)


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a folder's safetensors files; only their headers are read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(size)) if size <= file.stat().st_size else None
            except (json.JSONDecodeError, UnicodeDecodeError):
                header = None
        if header is None:
            raise ValueError(
                f"{file} is not a whole safetensors file (its header cannot be read); was the download cut short, or "
                "is it a pointer of Git LFS? Fetch it again."
            )
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def check_reasoning_marker(config: Config, tokenizer: Any) -> None:
    """``model.end_of_reasoning`` must be something that this model writes: in its chat template, or a token of its own.

    Raises:
        ValueError: it is neither, and every message would come out empty.
    """
    marker = config.model.end_of_reasoning
    if config.synthesis.compaction != "after_reasoning":
        return
    if marker in str(tokenizer.chat_template) or marker in tokenizer.get_vocab():
        return
    raise ValueError(
        f"model.end_of_reasoning={marker!r} is neither in the chat template of {config.model.path} nor one of its "
        "tokens: no response would hold it, and every message would be empty. Set it to what ends this model's "
        "reasoning, or train a model that reasons before it answers."
    )


def check_prompts(config: Config, tokenizer: ChatTokenizer, problems: Sequence[Problem]) -> None:
    """A step's problems must be there, and the longest must fit the window without any message.

    Raises:
        ValueError: too few problems, or a problem without room for its answer.
    """
    if len(problems) < config.ppo.problems_per_step:
        raise ValueError(
            f"ppo.problems_per_step={config.ppo.problems_per_step} exceeds the {len(problems)} problems in "
            f"{config.data.path or config.data.problems}; lower it or give more problems."
        )
    check_room(config, tokenizer, problems)


def check_room(config: Config, tokenizer: ChatTokenizer, problems: Sequence[Problem]) -> None:
    """Raise ValueError where the longest problem does not fit the window beside the room for its answer."""
    window, reserve = config.model.context_window_tokens, config.sampling.answer_reserve_tokens
    for problem in _longest(problems):
        tokens = len(tokenizer.encode_chat(build_conversation(problem, ())))
        if tokens + reserve > window:
            raise ValueError(
                f"problem {problem.id!r} has {tokens} tokens, which with sampling.answer_reserve_tokens={reserve} "
                f"exceed model.context_window_tokens={window}; raise the window, lower the reserve, or leave the "
                "problem out."
            )


def measured_workload(config: Config, problems: Sequence[Problem] | None = None) -> Workload | None:
    """Prompt lengths of the run's own data: step 1 as it will be drawn, and the longest problems, all messages shown.

    None where the data or a local tokenizer is not there. ``problems``: those of the data, if they are read.
    """
    if not data_is_there(config.data) or not Path(config.model.path).expanduser().is_dir():
        return None
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    problems = read_problems(config.data) if problems is None else problems
    first = draw_problems(problems, min(config.ppo.problems_per_step, len(problems)), seed=config.run.seed, step=0)
    looked_at = [*first, *_longest(problems)]
    pool = read_messages(config.data, {problem.id for problem in looked_at})
    drawn = [_prompt_length(config, tokenizer, problem, pool.get(problem.id, ())) for problem in first]
    longest = [
        _prompt_length(config, tokenizer, problem, pool.get(problem.id, ()), full=True)
        for problem in looked_at[len(first) :]
    ]
    longest_prompt = max(*drawn, *longest)
    response = min(config.sampling.max_response_tokens, config.model.context_window_tokens - min(drawn))
    return Workload(
        mean_prompt=round(sum(drawn) / len(drawn)),
        longest_prompt=longest_prompt,
        response=response,
        window=config.model.context_window_tokens,
        measured=True,
    )


def _prompt_length(
    config: Config, tokenizer: ChatTokenizer, problem: Problem, messages: Sequence[PoolMessage], *, full: bool = False
) -> int:
    """Tokens of a prompt as the trainer draws it for step 1; ``full``: with the largest message set."""
    rng = draw_rng(config.run.seed, "messages", 1, problem.id)
    least = config.synthesis.max_messages if full else config.synthesis.min_messages
    _, prompt_ids = fit_to_window(
        problem,
        draw_messages(messages, least, config.synthesis.max_messages, rng),
        tokenizer,
        window_tokens=config.model.context_window_tokens,
        reserve_tokens=config.sampling.answer_reserve_tokens,
        rng=rng,
    )
    return len(prompt_ids)


def _longest(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: sum(len(turn.content) for turn in problem.conversation))[-LONGEST_READ:]
