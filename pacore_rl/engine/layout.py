"""Whether the models of a run fit its parallel sizes: read from their configurations, before any worker starts."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

from pacore_rl.config import Config
from pacore_rl.engine.models import check_folder
from pacore_rl.tokenizer import first_line


def check_layout(config: Config) -> None:
    """Refuse what the learners could not train as it is set up.

    Raises:
        ValueError: a path holds no model, heads cannot be shared out over ``sequence_parallel`` or
            ``tensor_parallel`` ranks, the architecture has no critic, or ``critic.path`` is no critic for this policy.
    """
    policy = read_settings("model.path", config.model.path, trust_remote_code=config.model.trust_remote_code)
    if type(policy) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"model.path={config.model.path} is of architecture {policy.model_type}, and a critic needs transformers' "
            "token classifier of the same, which does not exist; choose a model whose architecture has one (Llama, "
            "Qwen2, Qwen3 and their kin)."
        )
    critic = policy
    if config.critic.path is not None:
        critic = read_settings("critic.path", config.critic.path, trust_remote_code=config.model.trust_remote_code)
        _check_critic(config, policy, critic)
    _check_heads("actor.sequence_parallel", config.actor.sequence_parallel, policy)
    _check_heads("critic.sequence_parallel", config.critic.sequence_parallel, critic)
    _check_heads("rollout.tensor_parallel", config.rollout.tensor_parallel, policy)


def read_settings(setting: str, path: str, *, trust_remote_code: bool) -> Any:
    """The configuration of the model at ``path``, which ``setting`` names in messages.

    Raises:
        ValueError: it is neither the folder of a model nor a hub id that can be read.
    """
    check_folder(setting, path)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        if "custom code" in str(error) and not trust_remote_code:
            raise ValueError(
                f"{setting}={path} comes with Python of its own, which model.trust_remote_code=false does not run. "
                "Read that code; if you trust it as your own, set model.trust_remote_code=true."
            ) from error
        raise ValueError(
            f"{setting}={path} has no configuration that transformers can read "
            f"({first_line(error)}); give a Hugging Face folder with a config.json, or a hub id that this machine can "
            "reach."
        ) from error


def _check_critic(config: Config, policy: Any, critic: Any) -> None:
    given = f"critic.path={config.critic.path}"
    kind = ", ".join(critic.architectures or ["no architecture"])
    if not kind.endswith("ForTokenClassification") or critic.num_labels != 1:
        raise ValueError(
            f"{given} holds {kind} with {critic.num_labels} outputs, not a saved critic (a token classifier with one); "
            "give the `critic` folder of a checkpoint, or null to start from the policy's weights with a fresh head."
        )
    differences = [
        f"{name} {theirs} against {ours}"
        for name, theirs, ours in (
            ("architecture", critic.model_type, policy.model_type),
            ("vocabulary", critic.get_text_config().vocab_size, policy.get_text_config().vocab_size),
            ("hidden size", critic.get_text_config().hidden_size, policy.get_text_config().hidden_size),
        )
        if theirs != ours
    ]
    if differences:
        raise ValueError(
            f"{given} does not fit model.path={config.model.path}: {', '.join(differences)}; give a critic that was "
            "trained beside this policy or its like, or null for a fresh one."
        )


def _check_heads(setting: str, num_ranks: int, model: Any) -> None:
    """Ulysses and vLLM share attention heads out; key-value heads too, or each is repeated for several ranks."""
    heads = model.get_text_config().num_attention_heads
    key_value_heads = getattr(model.get_text_config(), "num_key_value_heads", None) or heads
    if heads % num_ranks:
        raise ValueError(
            f"{setting}={num_ranks} cannot share out the {heads} attention heads of the model: "
            f"{heads} / {num_ranks} is no whole number; choose a divisor of {heads}."
        )
    if key_value_heads % num_ranks and num_ranks % key_value_heads:
        raise ValueError(
            f"{setting}={num_ranks} does not fit the {key_value_heads} key-value heads of the model: "
            f"{key_value_heads} / {num_ranks} (heads a rank) and {num_ranks} / {key_value_heads} (ranks a head) are no "
            f"whole numbers; choose a divisor or a multiple of {key_value_heads} that divides {heads}."
        )
