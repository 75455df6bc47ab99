"""Shapes of models, from a local ``config.json`` or built in for those that the recipes name; and their parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder-only transformer with grouped-query attention and a gated MLP (or experts)."""

    model_type: str
    """transformers' name of the architecture."""
    num_layers: int
    hidden_size: int
    """H"""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    """I: inner size of the MLP, or of one expert."""
    vocab_size: int
    """V"""
    tied_embeddings: bool
    """The output head is the input embedding."""
    max_positions: int
    """``max_position_embeddings``."""
    qk_norm: bool
    """Queries and keys are normalised per head."""
    attention_bias: bool
    """The query, key and value projections have biases."""
    num_experts: int = 0
    """E; 0 is a dense MLP."""
    experts_per_token: int = 0
    rope_scaling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The model's own; ``model.rope_scaling`` overrides it."""

    def positions(self, rope_scaling: Mapping[str, Any] | None) -> int:
        """Longest sequence with these overrides of the model's rope scaling (``model.rope_scaling``)."""
        return longest_sequence(self.max_positions, {**self.rope_scaling, **(rope_scaling or {})})

    @property
    def query_size(self) -> int:
        """Q: width of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """K: width of all key heads, and of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """V x H."""
        return self.vocab_size * self.hidden_size

    @property
    def gate_parameters(self) -> int:
        """Of one layer's gate and up projections, over all experts: 2 H I (E)."""
        return 2 * self.hidden_size * self.intermediate_size * max(1, self.num_experts)

    @property
    def largest_parameter(self) -> int:
        """Elements of the largest tensor: the embedding, or with experts their gates, which are one tensor."""
        return max(self.embedding_parameters, self.gate_parameters if self.num_experts else 0)

    @property
    def trunk_parameters(self) -> int:
        """Everything but the output head: what the critic shares with the policy."""
        return self.embedding_parameters + self.num_layers * self._layer_parameters(self.num_experts)

    @property
    def policy_parameters(self) -> int:
        """The whole language model; a tied head counts once."""
        return self.trunk_parameters + self.hidden_size + (0 if self.tied_embeddings else self.embedding_parameters)

    @property
    def critic_parameters(self) -> int:
        """The trunk with its final norm and a scalar head with a bias."""
        return self.trunk_parameters + self.hidden_size + self.hidden_size + 1

    @property
    def active_parameters(self) -> int:
        """Those of the policy that one token passes through."""
        idle = self.num_layers * (
            self._layer_parameters(self.num_experts) - self._layer_parameters(self.experts_per_token)
        )
        return self.policy_parameters - idle

    def _layer_parameters(self, num_experts: int) -> int:
        hidden, query, key = self.hidden_size, self.query_size, self.kv_size
        attention = 2 * hidden * query + 2 * hidden * key
        attention += (query + 2 * key) * self.attention_bias + 2 * self.head_dim * self.qk_norm
        mlp = 3 * hidden * self.intermediate_size
        if self.num_experts:
            mlp = num_experts * mlp + hidden * self.num_experts  # the router keeps a row for each expert
        return attention + mlp + 2 * hidden


def longest_sequence(max_positions: int, rope_scaling: Mapping[str, Any]) -> int:
    """The positions of a model, or those that rope scaling stretches the original ones to where that is more."""
    original = int(rope_scaling.get("original_max_position_embeddings") or max_positions)
    return max(max_positions, int(original * float(rope_scaling.get("factor") or 1.0)))


_QWEN3 = ModelShape(
    model_type="qwen3",
    num_layers=36,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=12_288,
    vocab_size=151_936,
    tied_embeddings=False,
    max_positions=40_960,
    qk_norm=True,
    attention_bias=False,
)
_QWEN3_4B = replace(_QWEN3, hidden_size=2560, intermediate_size=9728, tied_embeddings=True)
_QWEN3_1_7B = replace(
    _QWEN3, num_layers=28, hidden_size=2048, num_heads=16, intermediate_size=6144, tied_embeddings=True
)
_QWEN3_30B_A3B = replace(
    _QWEN3,
    model_type="qwen3_moe",
    num_layers=48,
    hidden_size=2048,
    num_kv_heads=4,
    intermediate_size=768,
    num_experts=128,
    experts_per_token=8,
)
BUILT_IN: Mapping[str, ModelShape] = {
    "Qwen/Qwen3-8B": _QWEN3,
    "Qwen/Qwen3-8B-Base": replace(_QWEN3, max_positions=32_768),
    "stepfun-ai/RLVR-8B-0926": _QWEN3,
    "stepfun-ai/PaCoRe-8B": _QWEN3,
    "Qwen/Qwen3-4B": _QWEN3_4B,
    "Qwen/Qwen3-4B-Base": replace(_QWEN3_4B, max_positions=32_768),
    "Qwen/Qwen3-1.7B": _QWEN3_1_7B,
    "Qwen/Qwen3-1.7B-Base": replace(_QWEN3_1_7B, max_positions=32_768),
    "Qwen/Qwen3-30B-A3B": _QWEN3_30B_A3B,
    "Qwen/Qwen3-30B-A3B-Base": replace(_QWEN3_30B_A3B, max_positions=32_768),
}
"""Numbers of the ``config.json`` that is published with each model; the paper's models have the shape of Qwen3-8B."""

KNOWN_TYPES = ("qwen3", "qwen3_moe", "qwen2", "llama")
"""Architectures whose layers are counted here, by transformers' names."""


def model_shape(path: str) -> ModelShape:
    """The shape of ``model.path``: its ``config.json`` where it is a folder here, else a built-in one.

    Raises:
        ValueError: neither is there, or the architecture is one whose shape is not known.
    """
    file = Path(path).expanduser() / "config.json"
    if file.is_file():
        try:
            return shape_of(json.loads(file.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(
                f"{file} does not say the model's shape ({type(error).__name__}: {error}); give the config.json that "
                "was saved with the model."
            ) from error
    if path in BUILT_IN:
        return BUILT_IN[path]
    raise ValueError(
        f"model.path={path}: its shape is not known here; a plan needs a local folder with a config.json, or one of "
        f"{', '.join(BUILT_IN)}. Download the model's config.json into a folder and plan with model.path=FOLDER."
    )


def shape_of(settings: Mapping[str, Any]) -> ModelShape:
    """The shape behind the keys of a transformers ``config.json``.

    Raises:
        ValueError: an architecture whose layers are not counted here.
        KeyError: a size is missing.
    """
    model_type = str(settings.get("model_type"))
    if model_type not in KNOWN_TYPES:
        raise ValueError(
            f"model_type={model_type!r} is not one that a plan can count; known are {', '.join(KNOWN_TYPES)}. "
            "Add its layers to pacore_rl/planning/shapes.py."
        )
    experts = int(settings["num_experts"]) if model_type == "qwen3_moe" else 0
    hidden, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
    return ModelShape(
        model_type=model_type,
        num_layers=int(settings["num_hidden_layers"]),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=int(settings.get("num_key_value_heads") or heads),
        head_dim=int(settings.get("head_dim") or hidden // heads),
        intermediate_size=int(settings["moe_intermediate_size" if experts else "intermediate_size"]),
        vocab_size=int(settings["vocab_size"]),
        tied_embeddings=bool(settings.get("tie_word_embeddings", False)),
        max_positions=int(settings["max_position_embeddings"]),
        qk_norm=model_type.startswith("qwen3"),
        attention_bias=model_type == "qwen2" or bool(settings.get("attention_bias", False)),
        num_experts=experts,
        experts_per_token=int(settings["num_experts_per_tok"]) if experts else 0,
        rope_scaling=settings.get("rope_parameters") or settings.get("rope_scaling") or {},
    )
