"""Engine and trainer must mean the same model: asserted on real log-probs before the first step.

Both read ``model.path``, but with code of their own. What they may understand differently is mostly positions: YaRN's
attention factor, its original window, the base frequency. A wrong one trains without complaint, off-policy from the
first token on. So the engine continues a few prompts, and the trainer says how probable it finds each token.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from transformers import AutoConfig

from pacore_rl.config import Config
from pacore_rl.interfaces import Actor, Generator
from pacore_rl.types import ExperienceBatch, GenerationRequest, Sampling, TokenRows, Trajectory

NUM_PROMPTS = 4
SAMPLES_PER_PROMPT = 2
RESPONSE_TOKENS = 8
SHORT_PROMPT_TOKENS = 64
LONGEST_PROBE_TOKENS = 4096
"""Of a prompt where the model's positions are scaled: past its original window where that is shorter, and where it is
not, far enough for a scaling that only one of both applies. At position 72 YaRN with factor 2 turns by 0.01 rad, at
4,096 by 0.75."""

MAX_MEAN_GAP = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Nats a token. The kernels differ, and bfloat16 has 8 bits; settings that differ cost more."""


class Engines(Protocol):
    """What the check needs of ``RayEngine``."""

    @property
    def generator(self) -> Generator: ...

    @property
    def actor(self) -> Actor: ...

    def turn_to(self, work: Literal["generation", "learning"]) -> None: ...


def check_agreement(engine: Engines, config: Config, dtype: torch.dtype) -> float:
    """Compare the engine's log-probs with the trainer's on a few continuations; their mean gap in nats a token.

    Raises:
        ValueError: the gap is above the limit of ``dtype``: they do not compute the same model.
    """
    requests = probe_requests(config)
    # The trainer knows the whole distribution at this temperature: no top-p.
    sampling = Sampling(temperature=config.sampling.temperature, max_response_tokens=RESPONSE_TOKENS)
    engine.turn_to("generation")
    finished = dict(engine.generator.generate(requests, sampling))
    engine.turn_to("learning")
    trajectories = [
        trajectory
        for index in range(len(requests))
        for trajectory in finished[index]
        if len(trajectory.response_ids) > 0
    ]
    assert trajectories, "the engine generated nothing for any probe"
    batch = probe_batch(trajectories)
    log_probs_A, _ = engine.actor.log_probs(batch).result()
    gap = float(np.abs(log_probs_A - batch.engine_logprobs_A).mean())
    limit = MAX_MEAN_GAP[dtype]
    if not gap <= limit:  # a gap that is not a number is no agreement
        longest = max(len(trajectory.prompt_ids) for trajectory in trajectories)
        raise ValueError(
            f"Engine and trainer disagree about {config.model.path} before the first step: their log-probs of "
            f"{batch.num_actions} tokens (after prompts of up to {longest}) differ by {gap:.2e} nats on average, above "
            f"{limit:.0e}. Most often positions are understood differently: model.rope_scaling="
            f"{config.model.rope_scaling} (attention_factor, factor, original_max_position_embeddings must be spelt "
            "out) or the rope_parameters of the model's config.json. Set them so that vLLM and transformers agree."
        )
    return gap


def probe_requests(config: Config) -> list[GenerationRequest]:
    """Prompts of random tokens: long ones where the model's positions are scaled, else short ones."""
    room = config.model.context_window_tokens - RESPONSE_TOKENS
    original = (config.model.rope_scaling or {}).get("original_max_position_embeddings")
    length = SHORT_PROMPT_TOKENS
    if original is not None:
        length = min(int(original) + SHORT_PROMPT_TOKENS, LONGEST_PROBE_TOKENS)
    settings = AutoConfig.from_pretrained(config.model.path, trust_remote_code=config.model.trust_remote_code)
    vocabulary = settings.get_text_config().vocab_size
    rng = np.random.default_rng(config.run.seed)
    # The upper part of a vocabulary holds special tokens, and rows of no token at all.
    return [
        GenerationRequest(
            prompt_ids=rng.integers(0, vocabulary // 2, size=max(1, min(length, room)), dtype=np.int32),
            num_samples=SAMPLES_PER_PROMPT,
            seed=config.run.seed + number,
        )
        for number in range(NUM_PROMPTS)
    ]


def probe_batch(trajectories: list[Trajectory]) -> ExperienceBatch:
    """Continuations as the trainer's batch; the rewards mean nothing."""
    return ExperienceBatch(
        rows=TokenRows.of(trajectories),
        engine_logprobs_A=np.concatenate([t.logprobs for t in trajectories]),
        rewards_B=np.zeros(len(trajectories), dtype=np.float32),
        weight_versions_A=np.concatenate([t.weight_versions for t in trajectories]),
    )
