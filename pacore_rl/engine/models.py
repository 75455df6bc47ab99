"""The two networks that learn: the policy with its log-probs, and the critic with its scalar head.

Each wraps a transformers model in a small module whose ``forward`` ends in what the losses need, because ZeRO-3 gathers
a weight only while some module that uses it runs forward.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from pacore_rl.checkpoints.files import replace_folder, sync
from pacore_rl.config import ModelConfig
from pacore_rl.engine import document_attention
from pacore_rl.ppo.log_probs import chosen_log_probs, log_probs_and_entropies


class PolicyModule(nn.Module):
    """A causal language model that returns log-probs of chosen tokens, and on request entropies."""

    def __init__(self, model: PreTrainedModel, *, temperature: float, chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        action_index: Tensor,
        labels: Tensor,
        sequence_position_ids: Tensor | None = None,
        *,
        with_entropies: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """fp32 log-probs [a] of ``labels`` [a], predicted at packed positions ``action_index`` [a].

        ``with_entropies`` adds the entropies [a], and leaves out all gradients.

        ``input_ids`` and ``position_ids`` are [1, T], laid out as in ``pacore_rl.ppo.batch``; where they are one of n
        ranks' slices, ``sequence_position_ids`` are [1, n * T].
        """
        hidden = _trunk_states(self.model, input_ids, position_ids, sequence_position_ids)
        # Reading the weight inside this forward is what makes ZeRO-3 gather it, now and in the backward pass.
        weight: Tensor = self.model.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess, reportAssignmentType]
        compute = log_probs_and_entropies if with_entropies else chosen_log_probs
        return compute(
            hidden[action_index],
            weight,
            labels,
            temperature=self.temperature,
            chunk_tokens=self.chunk_tokens,
        )


class ValueModule(nn.Module):
    """The same trunk with a scalar head: a token classifier of one class, in transformers' terms."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head = [_value_head(model)]
        """In a list: the head already belongs to ``model`` and must not be registered twice."""

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        action_index: Tensor,
        sequence_position_ids: Tensor | None = None,
    ) -> Tensor:
        """fp32 values [a] of the states at packed positions ``action_index`` [a]; inputs as for the policy."""
        hidden = _trunk_states(self.model, input_ids, position_ids, sequence_position_ids)
        head = self.head[0]
        # fp32: a bfloat16 value would be a multiple of 1/256.
        return nn.functional.linear(hidden[action_index].float(), head.weight.float(), head.bias.float()).squeeze(-1)


def load_policy(config: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model of ``model.path`` with document attention.

    Raises:
        ValueError: the folder lacks a configuration or weights.
    """
    return AutoModelForCausalLM.from_pretrained(config.path, **_load_options(config, dtype, config.path))


def load_critic(
    config: ModelConfig, dtype: torch.dtype, *, seed: int, saved_critic: str | None = None
) -> PreTrainedModel:
    """A saved critic, or one with the trunk of ``model.path`` and a fresh scalar head (its own, if it is a critic).

    The fresh head is normal with standard deviation 1 / (hidden size + 1), as in Open-Reasoner-Zero, and has no bias:
    values start near 0.

    Args:
        saved_critic: folder of a critic to go on with, which fits the policy (``pacore_rl.engine.layout``).

    Raises:
        ValueError: the folder lacks a configuration or weights.
    """
    path = config.path if saved_critic is None else saved_critic
    options = _load_options(config, dtype, path)
    options["config"].num_labels = 1
    options["config"].classifier_dropout = 0.0
    model, info = AutoModelForTokenClassification.from_pretrained(path, output_loading_info=True, **options)
    head = _value_head(model)
    missing = {name.rsplit(".", 1)[-1] for name in info["missing_keys"] if "score" in name}
    if missing:
        generator = torch.Generator().manual_seed(seed)
        fresh = torch.randn(head.weight.shape, generator=generator) / (head.in_features + 1)
        with torch.no_grad():
            head.weight.copy_(fresh)
            head.bias.zero_()
    return model


def save_model(model: PreTrainedModel, weights: Mapping[str, Tensor], source: ModelConfig, folder: Path) -> None:
    """Write a Hugging Face folder (weights, configuration, tokenizer) that appears whole or not at all.

    Args:
        model: supplies the configuration.
        weights: full tensors by parameter name, tied weights once.
        source: the model whose tokenizer and chat template are copied.
        folder: replaced if it exists.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial, state_dict=dict(weights))
    tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=source.trust_remote_code)
    tokenizer.save_pretrained(partial)
    for file in partial.rglob("*"):
        if file.is_file():
            sync(file)
    replace_folder(partial, folder)


def _load_options(config: ModelConfig, dtype: torch.dtype, path: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained``, after checking that a local folder holds a model."""
    check_folder("model.path" if path == config.path else "critic.path", path)
    document_attention.register()
    trust = {"trust_remote_code": config.trust_remote_code}
    settings = AutoConfig.from_pretrained(path, **trust)
    if config.rope_scaling is not None:
        settings.rope_parameters = {**(settings.rope_parameters or {}), **config.rope_scaling}
    attention = {"attn_implementation": document_attention.DOCUMENT_ATTENTION}
    return {"config": settings, "dtype": dtype} | attention | trust


def check_folder(setting: str, path: str) -> None:
    """Refuse a local path without a saved model; ``setting`` names it in the message.

    Raises:
        ValueError: no folder, no configuration, or no weights.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_absolute() or path.startswith((".", "~")):
            raise ValueError(f"{setting}={path} is not a folder; give a Hugging Face folder or a hub id.")
        return
    if not (folder / "config.json").is_file():
        raise ValueError(f"{setting}={path} holds no config.json; give the folder of a saved transformers model.")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise ValueError(
            f"{setting}={path} holds no weights (*.safetensors or pytorch_model*.bin); was the download or the save "
            "cut short? Fetch or save the model again."
        )


def _trunk_states(
    model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, sequence_position_ids: Tensor | None
) -> Tensor:
    """Last hidden states [T, H] of one packed sequence, or of a slice of it."""
    trunk = model.base_model
    for_attention = {} if sequence_position_ids is None else {"sequence_position_ids": sequence_position_ids}
    outputs = trunk(input_ids=input_ids, position_ids=position_ids, use_cache=False, **for_attention)
    return outputs.last_hidden_state[0]


def _value_head(model: PreTrainedModel) -> nn.Linear:
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise ValueError(
            f"{type(model).__name__} keeps its classifier in another place than `score`; train a model whose token "
            "classifier does (Llama, Qwen2, Qwen3 and their kin)."
        )
    return head
