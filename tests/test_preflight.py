"""What a run would refuse is refused before anything starts; a dry run shows the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pacore_rl import runs
from pacore_rl.benchmark_runs import evaluate_benchmarks
from pacore_rl.config import Config
from pacore_rl.dry_run import dry_run
from pacore_rl.inputs import read_problems
from pacore_rl.planning.search import changed
from pacore_rl.preflight import check_run, measured_workload
from pacore_rl.recipes import resolved_yaml
from pacore_rl.synthesis.message_pool import MessagePool

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tiny_config: Callable[..., Config], write_data: Callable[[Config], None]) -> Config:
    config = tiny_config()
    write_data(config)
    return config


def refused(config: Config | None) -> str:
    assert config is not None
    with pytest.raises(ValueError) as refusal:
        check_run(config)
    return str(refusal.value)


def copied(config: Config, folder: Path, **settings: object) -> Config:
    """The configuration on a copy of its model whose config.json has other values."""
    shutil.copytree(config.model.path, folder)
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | settings))
    there = changed(config, {"model.path": str(folder)})
    assert there is not None
    return there


def add_long_problem(path: Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"id": "long", "problem": "Add " + "A1 " * 400, "answer": "2", "reward": "exact"}) + "\n")


def test_what_is_sound_passes(config: Config) -> None:
    models = check_run(config)
    assert models.policy_parameters == 658_048 and models.critic_parameters == 658_048 + 128 + 1
    assert "out_features=1" in models.head
    assert models.shape is not None and models.shape.policy_parameters == models.policy_parameters


def test_train_asks_first(config: Config) -> None:
    with pytest.raises(ValueError, match="end_of_reasoning"):
        runs.train(config.model_copy(update={"model": config.model.model_copy(update={"end_of_reasoning": "</muse>"})}))


def test_a_marker_that_the_model_never_writes(config: Config) -> None:
    assert "'</muse>'" in refused(changed(config, {"model.end_of_reasoning": "</muse>"}))


def test_a_window_beyond_the_models_positions(config: Config) -> None:
    message = refused(changed(config, {"model.context_window_tokens": 4096}))
    assert "4096" in message and "1024" in message and "rope_scaling" in message
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    there = changed(config, {"model.context_window_tokens": 4096, "model.rope_scaling": scaling})
    assert there is not None
    check_run(there)


def test_a_window_smaller_than_a_prompt(config: Config) -> None:
    assert config.data.problems is not None
    add_long_problem(config.data.problems)
    message = refused(config)
    assert "'long'" in message and "model.context_window_tokens=512" in message


def test_a_window_smaller_than_a_held_out_prompt(config: Config, tmp_path: Path) -> None:
    assert config.data.problems is not None and config.data.pool is not None
    problems = Path(shutil.copy(config.data.problems, tmp_path / "held_out.jsonl"))
    pool = Path(shutil.copy(config.data.pool, tmp_path / "held_out_pool.jsonl"))
    messages = MessagePool.open(pool).messages(read_problems(config.data)[0].id)
    MessagePool.open(pool).append([replace(message, problem_id="long") for message in messages])
    add_long_problem(problems)
    there = changed(config, {"data.held_out_problems": str(problems), "data.held_out_pool": str(pool)})
    assert there is not None
    for refusing in (lambda: runs.train(there), lambda: runs.evaluate(there, out=tmp_path / "out.json")):
        with pytest.raises(ValueError, match=r"'long'.*model\.context_window_tokens=512"):
            refusing()


def test_a_window_smaller_than_a_benchmarks_prompt(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    add_long_problem(path)
    there = changed(config, {"evaluation.benchmarks": {"sets": {"mine": str(path)}}})
    assert there is not None
    with pytest.raises(ValueError, match=r"'long'.*model\.context_window_tokens=512"):
        evaluate_benchmarks(there, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_problems_a_step_than_there_are(config: Config) -> None:
    assert "8 problems" in refused(changed(config, {"ppo.problems_per_step": 16}))


def test_heads_that_cannot_be_shared_out(config: Config) -> None:
    message = refused(changed(config, {"rollout.tensor_parallel": 3}))
    assert "rollout.tensor_parallel=3" in message and "4 attention heads" in message


def test_colocated_sizes_that_differ(config: Config) -> None:
    rollout = config.rollout.model_copy(update={"placement": "colocated", "num_workers": 2})
    assert "Make the three equal" in refused(config.model_copy(update={"rollout": rollout}))


@pytest.mark.parametrize("path", ["/nowhere", "recipes/tiny_bsae/critic"])
def test_a_critic_that_is_not_there(config: Config, path: str) -> None:
    message = refused(changed(config, {"critic.path": path}))
    assert message.startswith(f"critic.path={path} ") and len(message.splitlines()) == 1
    assert "not a saved critic" in refused(changed(config, {"critic.path": config.model.path}))


def test_an_architecture_without_a_plan(config: Config, tmp_path: Path) -> None:
    """Mistral has a policy and a critic in transformers, and no row in the table of shapes."""
    folder = tmp_path / "mistral"
    folder.mkdir()
    settings = json.loads((Path(config.model.path) / "config.json").read_text())
    del settings["layer_types"]
    (folder / "config.json").write_text(
        json.dumps(settings | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]})
    )
    (folder / "pytorch_model.bin").touch()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(config.model.path) / name, folder)
    text = StringIO()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(resolved_yaml(config))
    dry_run(recipe, [f"model.path={folder}"], Console(file=text, width=200))
    assert "No plan for this architecture (MistralForCausalLM)" in text.getvalue()
    assert "Nothing was started." in text.getvalue()


def test_a_checkpoint_of_another_architecture(config: Config, tmp_path: Path) -> None:
    message = refused(copied(config, tmp_path / "wide", intermediate_size=320))
    assert "[256, 128] stored, [320, 128] expected" in message
    assert "missing" in refused(
        copied(config, tmp_path / "deep", num_hidden_layers=5, layer_types=["full_attention"] * 5)
    )


def test_an_architecture_without_a_critic(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 1024}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox_japanese", **sizes}))
    (folder / "pytorch_model.bin").touch()
    message = refused(changed(config, {"model.path": str(folder)}))
    assert "token classifier" in message


def test_a_pointer_instead_of_weights(config: Config, tmp_path: Path) -> None:
    there = copied(config, tmp_path / "pointer")
    (tmp_path / "pointer" / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    assert "not a whole safetensors file" in refused(there)


def test_a_gpu_that_is_not_there(config: Config) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "sees no GPU" in refused(changed(config, {"run.device": "cuda"}))


def test_caches_larger_than_the_memory(config: Config) -> None:
    message = refused(changed(config, {"rollout.kv_cache_gib": 5e4, "rollout.num_workers": 2}))
    assert "rollout.kv_cache_gib=50000" in message and "100000 GiB" in message and "lower it" in message


def test_kernels_for_gpus_on_a_cpu(config: Config) -> None:
    assert "critic.fused_kernels=true is for GPUs" in refused(changed(config, {"critic.fused_kernels": True}))


def test_prompts_are_measured_on_the_data(config: Config) -> None:
    work = measured_workload(config)
    assert work is not None and work.measured
    assert 0 < work.mean_prompt <= work.longest_prompt < 512 and work.response == 16
    assert config.data.problems is not None
    config.data.problems.unlink()
    assert measured_workload(config) is None


def test_a_dry_run_prints_all_and_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pacore_rl", "train", "recipes/quickstart.yaml", "--dry-run"]
    ended = subprocess.run(
        [*command, f"run.output_dir={tmp_path}/runs", "trainer.steps=7"],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "658,048 parameters" in ended.stdout and "out_features=1" in ended.stdout
    assert "trainer.steps=7  # command line, trainer.steps=7" in ended.stdout
    assert "synthesis.min_messages=4  # recipes/quickstart.yaml, line" in ended.stdout
    assert "run.seed=0  # default" in ended.stdout and "Nothing was started." in ended.stdout
    assert not (tmp_path / "runs").exists()
