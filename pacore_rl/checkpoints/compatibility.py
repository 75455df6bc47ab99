"""What may change between a checkpoint and the recipe that goes on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pacore_rl.checkpoints.manifest import Checkpoint
from pacore_rl.config import Config
from pacore_rl.types import PoolMessage, Problem

FIXED = (
    "run.seed",
    "model",
    "synthesis",
    "sampling",
    "ppo.problems_per_step",
    "ppo.responses_per_problem",
    "ppo.gamma",
    "ppo.gae_lambda",
    "ppo.actor_minibatches",
    "ppo.critic_minibatches",
    "ppo.critic_warmup_steps",
    "ppo.oversample",
    "actor.lora",
    "critic.lora",
    "reward.custom.name",
)
"""Settings, or whole sections, under which the stored state or the order of the data would mean something else."""


def data_fingerprints(problems: Sequence[Problem], pool: Mapping[str, Sequence[PoolMessage]]) -> dict[str, str]:
    """What was read from ``data.problems`` and ``data.pool``, in its order, as hashes."""
    digests = {"data.problems": hashlib.sha256(), "data.pool": hashlib.sha256()}
    for problem in problems:
        digests["data.problems"].update(repr(asdict(problem)).encode("utf-8", "surrogatepass"))
        for message in pool.get(problem.id, ()):
            digests["data.pool"].update(repr(message.text).encode("utf-8", "surrogatepass"))
    return {name: digest.hexdigest() for name, digest in digests.items()}


def changed_settings(checkpoint: Checkpoint, config: Config) -> list[str]:
    """Settings that differ from the checkpoint's and may, each as ``name: old -> new``.

    Raises:
        ValueError: one differs that must not (``FIXED``); the message names all of them.
    """
    old, new = _flat(checkpoint.manifest.recipe), _flat(config.model_dump(mode="json"))
    changes = {
        name: f"{name}: {old.get(name, 'not set')} -> {new.get(name, 'not set')}"
        for name in sorted(old.keys() | new.keys())
        if name not in ("run.name", "run.output_dir") and old.get(name) != new.get(name)
    }
    refused = [line for name, line in changes.items() if _is_fixed(name)]
    if refused:
        raise ValueError(
            f"{checkpoint.folder} cannot be gone on from with other values of\n"
            + "\n".join(f"  {line}" for line in refused)
            + "\nThe run's state or the order of its data depends on them. Set them back, or start a new run from the "
            f"weights: model.path={checkpoint.folder}/actor critic.path={checkpoint.folder}/critic."
        )
    return list(changes.values())


def check_data(checkpoint: Checkpoint, fingerprints: Mapping[str, str]) -> None:
    """Refuse other problems or another pool than the run began with.

    Raises:
        ValueError: naming the setting.
    """
    changed = [name for name, value in checkpoint.manifest.data.items() if fingerprints.get(name) != value]
    if changed:
        raise ValueError(
            f"the content of {' and '.join(changed)} is no longer what {checkpoint.folder} was trained on: the draws "
            "of the coming steps would be others. Give the files that the run began with, or start a new run from "
            f"model.path={checkpoint.folder}/actor."
        )


def _is_fixed(name: str) -> bool:
    return any(name == fixed or name.startswith(f"{fixed}.") for fixed in FIXED)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
