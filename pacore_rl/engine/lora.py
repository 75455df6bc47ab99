"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: W + scale B A, where only A and B learn.

Outside the learner nothing knows of them: what is saved and what the inference engines get is merged, parameter by
parameter, into an ordinary model of the same architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pacore_rl.config import LoraConfig

ADAPTER = "default"
"""peft's name for the only adapter."""
BASE = ".base_layer."
"""Where peft keeps the layer that an adapter wraps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MergedParameter:
    """A parameter as the model without adapters would have it."""

    name: str
    """Its name in that model."""
    parameters: tuple[nn.Parameter, ...]
    """What it is made of: W, or W [out, in], A [rank, in] and B [out, rank]. Under ZeRO-3, to be gathered together."""
    scale: float
    """alpha / rank; 0 without an adapter."""

    def tensor(self) -> Tensor:
        """W + scale B A, computed in fp32 and rounded once to W's type; W itself without an adapter."""
        if len(self.parameters) == 1:
            return self.parameters[0].detach()
        weight, down, up = (parameter.detach() for parameter in self.parameters)
        return torch.addmm(weight.float(), up.float(), down.float(), alpha=self.scale).to(weight.dtype)


def add_adapters(model: PreTrainedModel, config: LoraConfig) -> None:
    """Wrap linear layers of the trunk in adapters that start as 0, and freeze all else but the critic's head.

    A is drawn from torch's global generator: ranks seed it alike.

    Raises:
        ValueError: a name in ``target_modules`` is no linear layer of the trunk.
    """
    import peft  # late: takes seconds, and most runs do without

    heads = _heads(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and all(module is not head for head in heads)
    ]
    targets = linear if config.target_modules is None else _matches(linear, config.target_modules)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0),  # pyright: ignore[reportArgumentType] (peft says int; it only divides)
        model,
        adapter_name=ADAPTER,
    )
    score = getattr(model, "score", None)
    if isinstance(score, nn.Module):  # fresh weights: an adapter could not make a value function of them
        score.requires_grad_(True)


def merged_parameters(model: PreTrainedModel) -> list[MergedParameter]:
    """Every parameter of the model without adapters, in the model's order; tied ones once, under their first name."""
    parameters = dict(model.named_parameters())
    merged: list[MergedParameter] = []
    for name, parameter in parameters.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer, is_wrapped, own = name.rpartition(BASE)
        if is_wrapped and own == "weight":
            down, up = (parameters[f"{layer}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
            scaling: Any = model.get_submodule(layer).scaling  # peft's alpha / rank, by adapter
            merged.append(
                MergedParameter(name=f"{layer}.{own}", parameters=(parameter, down, up), scale=scaling[ADAPTER])
            )
        else:
            merged.append(MergedParameter(name=name.replace(BASE, "."), parameters=(parameter,), scale=0.0))
    return merged


def _heads(model: PreTrainedModel) -> tuple[nn.Module | None, ...]:
    """The policy's output head and the critic's: their weights are read without their forward, past any adapter."""
    return model.get_output_embeddings(), getattr(model, "score", None)


def _matches(linear: list[str], wanted: tuple[str, ...]) -> list[str]:
    """The linear layers whose last name is wanted."""
    last = {name: name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(wanted) - set(last.values()))
    if unknown or not wanted:
        raise ValueError(
            f"lora.target_modules={list(wanted)} must name linear layers of the model, but "
            f"{', '.join(unknown) or 'an empty list'} is none; choose from {sorted(set(last.values()))}, or leave it "
            "out for all of them."
        )
    return [name for name in linear if last[name] in wanted]
