"""Bad input to the commands: told before the cluster starts, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import Turn


@pytest.fixture
def config(tiny_config: Callable[..., Config], write_data: Callable[[Config], None]) -> Config:
    config = tiny_config()
    write_data(config)
    return config


def problems_of(config: Config) -> Path:
    assert config.data.problems is not None
    return config.data.problems


def refused(config: Config) -> str:
    with pytest.raises(ValueError) as refusal:
        runs.train(config)
    return str(refusal.value)


def test_missing_problem_file(config: Config) -> None:
    problems_of(config).unlink()
    assert str(config.data.problems) in refused(config)


def test_corrupt_problem_file_names_the_line(config: Config) -> None:
    with problems_of(config).open("a") as file:
        file.write('{"id": "broken"\n')
    assert "line 9" in refused(config)


def test_problem_without_an_answer(config: Config) -> None:
    with problems_of(config).open("a") as file:
        file.write(json.dumps({"id": "p", "problem": "1+1?"}) + "\n")
    assert "line 9" in refused(config)


def test_ground_truth_that_its_reward_cannot_parse(config: Config) -> None:
    with problems_of(config).open("a") as file:
        file.write(json.dumps({"id": "p", "problem": "1+1?", "answer": "\\frac{1}{", "reward": "math"}) + "\n")
    message = refused(config)
    assert "p:" in message and "Correct or remove" in message


def test_unknown_reward(config: Config) -> None:
    with problems_of(config).open("a") as file:
        file.write(json.dumps({"id": "p", "problem": "1+1?", "answer": "2", "reward": "maths"}) + "\n")
    assert "math" in refused(config)


def test_problem_without_messages(config: Config) -> None:
    with problems_of(config).open("a") as file:
        file.write(json.dumps({"id": "fresh", "problem": "1+1?", "answer": "2", "reward": "exact"}) + "\n")
    message = refused(config)
    assert "fresh" in message and "pacore-rl pool" in message


def test_a_folder_that_holds_a_run_is_not_overwritten(config: Config) -> None:
    config.run_dir.mkdir()
    (config.run_dir / "metrics.jsonl").write_text("{}\n")
    assert "already holds a run" in refused(config)
    assert (config.run_dir / "metrics.jsonl").read_text() == "{}\n"


def test_model_folder_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        load_tokenizer("./no/such/model")


def test_model_without_a_tokenizer(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(tiny_model_dir / "config.json", folder)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(str(folder))


def test_model_of_weights_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    """transformers makes up a tokenizer of the right class without a word in it."""
    for name in ("config.json", "model.safetensors", "chat_template.jinja"):
        if (tiny_model_dir / name).exists():
            shutil.copy(tiny_model_dir / name, tmp_path)
    with pytest.raises(ValueError, match=r"holds no usable tokenizer \(none of tokenizer\.json.*copy tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_tokenizer_without_a_chat_template(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns("chat_template*"))
    with pytest.raises(ValueError, match="without a chat template"):
        load_tokenizer(str(folder))


def test_any_text_survives_the_tokenizer_of_the_tiny_base(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_dir))
    text = "Add A3 B7; box A-B. Référence 参考 \n\t 12345 =17}"
    ids = tokenizer.encode_chat([Turn(role="user", content=text)])
    assert text in tokenizer.decode(ids)
