"""Python that comes with a model runs only where the recipe asks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pacore_rl.config import ModelConfig
from pacore_rl.engine.layout import read_settings
from pacore_rl.engine.models import load_policy
from pacore_rl.tokenizer import load_tokenizer

TINY_BASE = Path(__file__).resolve().parents[2] / "recipes" / "tiny_base"


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A model folder whose own code leaves a file when it is loaded."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_BASE, folder)
    (folder / "own.py").write_text(
        f"from pathlib import Path\nfrom transformers import Qwen3Config\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\nclass OwnConfig(Qwen3Config):\n    model_type = 'own'\n"
    )
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_it_does_not_run_unasked(with_code: Path) -> None:
    ran = with_code.parent / "ran"
    with pytest.raises(ValueError, match=r"comes with Python of its own.*trust_remote_code=true"):
        read_settings("model.path", str(with_code), trust_remote_code=ModelConfig(path="x").trust_remote_code)
    with pytest.raises(ValueError):
        load_policy(ModelConfig(path=str(with_code)), torch.float32)
    load_tokenizer(str(with_code))  # its tokenizer needs no code
    assert not ran.exists()


def test_it_runs_where_the_recipe_asks_for_it(with_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(with_code.parent / "modules"))
    settings = read_settings("model.path", str(with_code), trust_remote_code=True)
    assert type(settings).__name__ == "OwnConfig" and (with_code.parent / "ran").exists()
