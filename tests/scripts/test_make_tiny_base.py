"""The shipped base model is what its script makes, in kind: same architecture, same tokenizer, same skill."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "recipes" / "tiny_base"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tiny_base", REPOSITORY / "scripts" / "make_tiny_base.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_is_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4 * 1024**2


def test_tokenizer_and_architecture_are_the_scripts(script: ModuleType, tmp_path: Path) -> None:
    tokenizer = script.make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    script.make_model(tokenizer).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "config.json", "chat_template.jinja"):
        assert (SHIPPED / name).read_text() == (tmp_path / name).read_text(), name


def test_the_shipped_weights_have_the_skill_that_the_script_teaches(script: ModuleType) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    shipped = Qwen3ForCausalLM.from_pretrained(SHIPPED)
    fresh = script.make_model(tokenizer)
    last = script.COURSES[-1].phases[-1]
    losses = {}
    for name, model in (("shipped", shipped), ("fresh", fresh)):
        rng = random.Random(0)
        with torch.no_grad():
            batches = [script.encode(tokenizer, script.demonstrate(last, rng)) for _ in range(4)]
            losses[name] = float(sum(script.demonstration_loss(model, *batch) for batch in batches)) / 4
    assert losses["fresh"] > 4
    # What is left is the demonstrator's own chance: where it opens, how long, whether it goes on from a reference.
    assert losses["shipped"] < 0.45


def test_the_script_learns(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phases = (script.Phase(steps=40, rows=16, solo_share=0.5, use_reference=0.5, later_round=0.3),)
    course = script.Course(phases=phases, learning_rate=3e-3, rise_steps=10, fall_share=0.5)
    script.train(tmp_path, seed=0, courses=(course,))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warm-up 40/40"))
    assert float(line.split("loss ")[1].split()[0]) < 3.5
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"
