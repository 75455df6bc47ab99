"""Parameter counts, against transformers' own modules on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pacore_rl.planning.shapes import BUILT_IN, ModelShape, model_shape, shape_of


def counted(settings: object) -> tuple[int, int]:
    """Parameters of transformers' policy and critic."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(settings)
        settings.num_labels = 1  # pyright: ignore[reportAttributeAccessIssue]
        critic = AutoModelForTokenClassification.from_config(settings)
    return sum(p.numel() for p in policy.parameters()), sum(p.numel() for p in critic.parameters())


def settings_of(shape: ModelShape) -> object:
    from transformers import Qwen3Config, Qwen3MoeConfig

    sizes: dict[str, Any] = {
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied_embeddings,
    }
    if shape.num_experts:
        experts: dict[str, Any] = {"num_experts": shape.num_experts, "num_experts_per_tok": shape.experts_per_token}
        return Qwen3MoeConfig(**sizes, **experts, moe_intermediate_size=shape.intermediate_size)
    return Qwen3Config(**sizes, intermediate_size=shape.intermediate_size)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "Qwen/Qwen3-4B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-30B-A3B"])
def test_counts_what_transformers_builds(name: str) -> None:
    shape = BUILT_IN[name]
    assert counted(settings_of(shape)) == (shape.policy_parameters, shape.critic_parameters)


@pytest.mark.parametrize("kind", ["LlamaConfig", "Qwen2Config"])
def test_other_families_with_ungrouped_and_biased_heads(kind: str) -> None:
    import transformers

    settings = getattr(transformers, kind)(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    shape = shape_of(settings.to_dict())
    assert counted(settings) == (shape.policy_parameters, shape.critic_parameters)


def test_published_sizes() -> None:
    """The figures of the models' cards: 8.2B, 4.0B, 30.5B with 3.3B active."""
    assert BUILT_IN["Qwen/Qwen3-8B"].policy_parameters / 1e9 == pytest.approx(8.2, abs=0.05)
    assert BUILT_IN["Qwen/Qwen3-4B"].policy_parameters / 1e9 == pytest.approx(4.0, abs=0.05)
    mixture = BUILT_IN["Qwen/Qwen3-30B-A3B"]
    assert mixture.policy_parameters / 1e9 == pytest.approx(30.5, abs=0.05)
    assert mixture.active_parameters / 1e9 == pytest.approx(3.3, abs=0.06)


def test_a_local_config_comes_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((Path("recipes/tiny_base") / "config.json").read_text())
    assert model_shape(str(tmp_path)).policy_parameters == 658_048  # what the tiny base's weights add up to


def test_what_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Qwen/Qwen3-8B.*config\.json"):
        model_shape("some/model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ValueError, match="mamba"):
        model_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(ValueError, match="hidden_size"):
        model_shape(str(tmp_path))
