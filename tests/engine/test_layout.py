"""Models that do not fit a run's parallel sizes, and critics that do not fit its policy, are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification

from pacore_rl.config import Config, ModelConfig
from pacore_rl.engine.cluster import open_engine
from pacore_rl.engine.layout import check_layout
from pacore_rl.engine.models import load_critic


@pytest.fixture
def altered(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., str]:
    """A function from changes of config.json to a folder with it and the tiny model's other files."""

    def build(**changes: Any) -> str:
        folder = tmp_path / "altered"
        folder.mkdir(exist_ok=True)
        for file in tiny_model_dir.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        settings = json.loads((tiny_model_dir / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | changes))
        return str(folder)

    return build


@pytest.fixture
def saved_critic(tiny_model_dir: Path, tmp_path: Path) -> str:
    critic = load_critic(ModelConfig(path=str(tiny_model_dir)), torch.float32, seed=5)
    critic.save_pretrained(tmp_path / "critic")
    return str(tmp_path / "critic")


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (1, None),
        (2, None),
        (4, None),  # two key-value heads, each on two ranks
        (8, "cannot share out the 4 attention heads of the model: 4 / 8 is no whole number; choose a divisor of 4"),
    ],
)
def test_heads_must_divide(tiny_config: Callable[..., Config], ranks: int, message: str | None) -> None:
    for name in ("actor", "critic"):
        config = tiny_config(**{name: {"num_ranks": ranks, "sequence_parallel": ranks}})
        if message is None:
            check_layout(config)
        else:
            with pytest.raises(ValueError, match=f"{name}.sequence_parallel=8 {message}"):
                check_layout(config)


def test_key_value_heads_must_divide_or_be_divided(
    tiny_config: Callable[..., Config], altered: Callable[..., str]
) -> None:
    folder = altered(num_attention_heads=12, num_key_value_heads=3)
    config = tiny_config(model={"path": folder}, actor={"num_ranks": 2, "sequence_parallel": 2})
    with pytest.raises(ValueError, match=r"does not fit the 3 key-value heads of the model: 3 / 2 .* and 2 / 3"):
        check_layout(config)


def test_an_engine_refuses_before_it_starts_anything(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(actor={"num_ranks": 8, "sequence_parallel": 8})
    with pytest.raises(ValueError, match="cannot share out the 4 attention heads"), open_engine(config):
        pass


def test_an_architecture_without_a_critic(tiny_config: Callable[..., Config], altered: Callable[..., str]) -> None:
    folder = altered(model_type="opt", architectures=["OPTForCausalLM"])
    with pytest.raises(ValueError, match="is of architecture opt, and a critic needs transformers' token"):
        check_layout(tiny_config(model={"path": folder}))


def test_a_saved_critic_goes_on(tiny_config: Callable[..., Config], tiny_model_dir: Path, saved_critic: str) -> None:
    config = tiny_config(critic={"path": saved_critic})
    check_layout(config)
    critic = load_critic(config.model, torch.float32, seed=9, saved_critic=config.critic.path)
    expected = AutoModelForTokenClassification.from_pretrained(saved_critic)
    torch.testing.assert_close(critic.get_parameter("score.weight"), expected.get_parameter("score.weight"))


def test_critics_that_are_none(
    tiny_config: Callable[..., Config], tiny_model_dir: Path, altered: Callable[..., str], saved_critic: str
) -> None:
    with pytest.raises(ValueError, match=r"critic\.path=.* holds Qwen3ForCausalLM with 2 outputs, not a saved critic"):
        check_layout(tiny_config(critic={"path": str(tiny_model_dir)}))
    with pytest.raises(ValueError, match=r"critic\.path=/nowhere is not a folder"):
        check_layout(tiny_config(critic={"path": "/nowhere"}))
    larger = altered(vocab_size=600, hidden_size=256)
    with pytest.raises(ValueError, match="vocabulary 522 against 600, hidden size 128 against 256"):
        check_layout(tiny_config(model={"path": larger}, critic={"path": saved_critic}))
