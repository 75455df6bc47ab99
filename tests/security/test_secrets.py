"""Secrets of the environment reach neither recipes, nor messages, nor what a run writes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacore_rl import runs
from pacore_rl.config import Config
from pacore_rl.config_secrets import check_no_secrets, secrets_of
from pacore_rl.engine.address import check_authentication
from pacore_rl.recipes import load_config, resolved_yaml

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    name: f"planted-{name.lower()}-0f1e2d3c"
    for name in ("WANDB_API_KEY", "HF_TOKEN", "JUDGE_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD")
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")


def leaks(folder: Path, values: dict[str, str] | None = None) -> Iterator[str]:
    """Every file below a folder that holds a planted value."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for name, value in (values or PLANTED).items():
                if value.encode() in content:
                    yield f"{name} in {path.relative_to(folder)}"


def test_secret_variables_are_known_by_their_names() -> None:
    environment = {
        **PLANTED,
        "TOKENIZERS_PARALLELISM": "false-or-true",
        "MAX_TOKENS": "131072000",
        "HF_HOME": "/a/home/x",
    }
    assert set(secrets_of({**environment, "SHORT_TOKEN": "1234567"})) == set(PLANTED)


def test_a_recipe_that_holds_a_secret_is_refused_without_showing_it(tmp_path: Path, planted: None) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {path: m}\ndata: {problems: p}\nsynthesis: {min_messages: 0, max_messages: 0}\n"
        "reward: {judge: {base_url: 'http://host/v1?key=${oc.env:JUDGE_API_KEY}', model: m}}\n"
    )
    with pytest.raises(ValueError, match=r"reward\.judge\.base_url holds the value of .* JUDGE_API_KEY") as refused:
        load_config(recipe)
    assert PLANTED["JUDGE_API_KEY"] not in str(refused.value)
    plain = "reward.judge.base_url=http://host/v1"
    assert "planted" not in resolved_yaml(load_config(recipe, [plain]))
    for override in (f"reward.judge.api_key={PLANTED['HF_TOKEN']}", f"run.name={PLANTED['HF_TOKEN']}"):
        with pytest.raises(ValueError, match="HF_TOKEN") as refused:
            load_config(recipe, [plain, override])
        assert PLANTED["HF_TOKEN"] not in str(refused.value)


def test_an_address_with_a_password_is_refused() -> None:
    for address in ("https://user:word@host/v1", "http://:key@host:8000"):
        with pytest.raises(ValueError, match="a is an address with a password") as refused:
            check_no_secrets({"a": address}, {})
        assert "word" not in str(refused.value).replace("password", "")
    check_no_secrets({"a": "http://host:8000/v1", "b": ["mail@host"], "c": 3}, {})


def test_sinks_and_the_stored_recipe_hold_no_secret(tiny_config: Callable[..., Config], planted: None) -> None:
    config = tiny_config(logging={"wandb_project": "test", "console": False})
    run_dir = runs.prepare_run_dir(config)
    with runs.open_sinks(config) as sinks:
        for sink in sinks.metrics:
            sink.log(1, {"reward/mean": 0.5})
    assert list((run_dir / "wandb").glob("offline-run-*")), "wandb ran"
    assert list(leaks(run_dir)) == []


def test_ray_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match="whoever reaches its ports would run code as you"):
        check_authentication()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_authentication()


@pytest.mark.slow
def test_a_whole_run_writes_no_secret_into_its_folder_its_output_or_rays_logs(
    tiny_config: Callable[..., Config], write_data: Callable[[Config], None]
) -> None:
    config = tiny_config(
        trainer={"steps": 1, "checkpoint_every_steps": 0}, logging={"wandb_project": "test", "console": True}
    )
    write_data(config)
    recipe = config.run.output_dir / "recipe.yaml"
    recipe.write_text(resolved_yaml(config))
    with tempfile.TemporaryDirectory(prefix="ray") as ray_dir:  # pytest's own folder is too long a name for a socket
        environment = {**os.environ, **PLANTED, "WANDB_MODE": "offline", "RAY_TMPDIR": ray_dir, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, "-m", "pacore_rl", "train", str(recipe)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert [name for name, value in PLANTED.items() if value in ended.stdout + ended.stderr] == []
        logs = Path(ray_dir)
        assert len(list(logs.rglob("worker-*.out"))) >= 3, "Ray's logs are where this test looks"
        assert list(leaks(logs)) == []
    assert list(leaks(config.run.output_dir)) == []
    assert (config.run_dir / "samples.jsonl").stat().st_size > 0
