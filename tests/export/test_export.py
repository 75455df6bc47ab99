"""Exported folders: which checkpoint, which files, what their settings and their card say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoint_runs import METRICS, TINY_BASE, YARN, make_run

from pacore_rl.export.folder import checkpoints, choose, export_run
from pacore_rl.export.portable import portable, short_path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


class TestChoice:
    def test_newest_best_or_by_step(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run")
        found = checkpoints(run)
        assert [checkpoint.step for checkpoint in found] == [10, 20]
        assert choose(found, METRICS, "newest", run).step == 20
        assert choose(found, METRICS, "best", run).step == 10
        assert choose(found, METRICS, 20, run).step == 20
        with pytest.raises(ValueError, match=r"--step 15: .* has checkpoints of steps 10, 20"):
            choose(found, METRICS, 15, run)
        with pytest.raises(ValueError, match="was evaluated"):
            choose(found, (), "best", run)

    def test_those_that_their_run_vouches_for_come_first(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run")
        (run / "checkpoints/step_000010/manifest.json").write_text("{}")
        assert [checkpoint.step for checkpoint in checkpoints(run)] == [10]
        with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
            export_run(run)

    def test_what_is_being_written_is_no_checkpoint(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run", steps=[10])
        (run / "checkpoints/step_000010").rename(run / "checkpoints/.step_000010.partial")
        with pytest.raises(ValueError, match="has no checkpoint yet"):
            export_run(run)

    def test_a_folder_that_is_no_run_and_an_out_that_is_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"holds no recipe\.yaml"):
            export_run(tmp_path)
        run = make_run(tmp_path / "run")
        with pytest.raises(ValueError, match="is no exported model"):
            export_run(run, tmp_path)
        with pytest.raises(ValueError, match="is no exported model"):  # a checkpoint, or anybody's model
            export_run(run, run / "checkpoints/step_000010/actor")
        assert (run / "recipe.yaml").is_file() and (run / "checkpoints/step_000010/actor/config.json").is_file()


class TestFolder:
    def test_model_files_settings_and_card_and_nothing_else(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run", rope_scaling=YARN)
        actor = run / "checkpoints/step_000020/actor"
        for stray in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "evil.py", ".env"):
            (actor / stray).write_bytes(b"no")
        export_run(run)
        out, checkpoint = export_run(run)  # an earlier export is replaced
        assert checkpoint.step == 20 and out == run / "export/step_000020"
        assert {file.name for file in out.iterdir()} == {
            *("model.safetensors", "config.json", "generation_config.json"),
            *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
            *("README.md", "curves.png", "recipe.yaml"),
        }
        assert [folder.name for folder in out.parent.iterdir()] == ["step_000020"], "no partial folder is left"
        for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
            assert (out / name).read_bytes() == (TINY_BASE / name).read_bytes()

    def test_yarn_and_sampling_are_in_the_settings(self, tmp_path: Path) -> None:
        out, _ = export_run(make_run(tmp_path / "run", rope_scaling=YARN), tmp_path / "model")
        assert read(out / "config.json")["rope_parameters"] == {"rope_theta": 10000.0, **YARN}
        generation = read(out / "generation_config.json")
        assert (generation["do_sample"], generation["temperature"], generation["top_p"]) == (True, 0.9, 1.0)
        assert generation["top_k"] == 0 and generation["eos_token_id"] == 2

    def test_without_rope_settings_the_models_own_stay(self, tmp_path: Path) -> None:
        out, _ = export_run(make_run(tmp_path / "run"), tmp_path / "model")
        assert read(out / "config.json") == read(TINY_BASE / "config.json")

    def test_pickled_weights_are_not_exported(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run")
        actor = run / "checkpoints/step_000020/actor"
        (actor / "model.safetensors").rename(actor / "pytorch_model.bin")
        with pytest.raises(ValueError, match="holds no weights in safetensors"):
            export_run(run, tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_the_learners_model_and_the_exported_one_are_the_same(self, tmp_path: Path) -> None:
        """Log-probs under YaRN: the trainer's module against plain transformers on the exported folder."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from pacore_rl.engine.models import load_policy
        from pacore_rl.recipes import load_config

        run = make_run(tmp_path / "run", rope_scaling=YARN)
        out, _ = export_run(run, tmp_path / "model")
        trained = load_policy(load_config(run / "recipe.yaml").model, torch.float32)
        plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        base = AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32)
        ids = torch.arange(5, 205)[None]
        with torch.no_grad():
            expected = trained(ids, position_ids=torch.arange(200)[None]).logits
            assert torch.allclose(plain(ids).logits, expected, atol=1e-4)
            assert not torch.allclose(base(ids).logits, expected, atol=1e-2), "without YaRN it is another model"
        assert AutoTokenizer.from_pretrained(out).chat_template


class TestCard:
    def test_it_says_what_the_run_measured_up_to_that_step(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run")
        out, _ = export_run(run, tmp_path / "model", which=10)
        card = (out / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
        assert "| Held-out problems | step 0 | step 10 |" in card
        assert "| Synthesis | 10.0% | 60.0% |" in card and "| Solo, without references | 20.0% | 20.0% |" in card
        assert "| Reward | 0.25 | 0.25 |" in card, "the step after it is left out"
        assert "the weights after step 10" in card and "| Training problems | `problems.jsonl` | 1 |" in card
        assert f"vllm serve ./{out.name} --max-model-len 512" in card

    def test_the_card_and_the_recipe_name_no_folder_of_this_machine(self, tmp_path: Path) -> None:
        out, _ = export_run(make_run(tmp_path / "run"), tmp_path / "model")
        for name in ("README.md", "recipe.yaml"):
            text = (out / name).read_text()
            assert str(tmp_path) not in text and str(TINY_BASE) not in text
            assert "recipes/tiny_base" in text

    def test_paths_are_cut_and_hub_ids_are_not(self) -> None:
        assert short_path("Qwen/Qwen3-8B-Base") == "Qwen/Qwen3-8B-Base" and short_path("data/a.jsonl") == "data/a.jsonl"
        assert short_path("/home/me/models/base") == "models/base" and short_path("~/base") == "~/base"
        assert portable({"a": ["/x/y/z", 1], "b": None}) == {"a": ["y/z", 1], "b": None}
