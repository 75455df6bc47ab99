"""The command line as its users meet it: processes, exit codes, what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pacore_rl.problems import load_problems

ROOT = Path(__file__).parents[1]
RECIPE = "model: {path: some/model}\ndata: {problems: problems.jsonl, pool: pool.jsonl}\n"
COMMANDS = ["", "train", "pool", "curate", "curate arithmetic", "curate stage1", "curate stage2", "evaluate", "doctor"]
COMMANDS += ["plan", "quickstart", "score", "report", "watch", "export", "infer", "serve"]
COMMANDS += ["curate problems", "curate pools", "curate card"]
HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "wandb", "matplotlib")


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "PACORE_RL_DEBUG")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


def cli(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacore_rl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment(), check=False)


def script(lines: Sequence[str]) -> list[str]:
    """A command of ours whose body is ``lines``, guarded as every command is."""
    program = [
        "import sys, time",
        "from pathlib import Path",
        "import typer",
        "from pacore_rl.cli.guard import guard",
        "def command():",
        "    with guard(debug='--debug' in sys.argv) as outputs:",
        *(f"        {line}" for line in lines),
        "app = typer.Typer(pretty_exceptions_enable=False)",
        "app.command(context_settings={'ignore_unknown_options': True, 'allow_extra_args': True})(command)",
        "app()",
    ]
    return [sys.executable, "-c", "\n".join(program)]


def run_script(lines: Sequence[str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*script(lines), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment(), check=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_teaches_by_example_and_names_what_comes_next(self, command: str) -> None:
        shown = cli(*command.split(), "--help")
        assert shown.returncode == 0, shown.stderr
        if command:
            assert re.search(rf"Example:\s+pacore-rl {command}", shown.stdout)
            assert "Next:" in shown.stdout
        else:
            assert "quickstart" in shown.stdout and "curate stage2" in shown.stdout

    def test_loads_nothing_heavy(self) -> None:
        program = (
            "import sys, pacore_rl.cli, pacore_rl.recipes, pacore_rl.cli.explain, pacore_rl.doctor\n"
            f"print([name for name in {HEAVY} if name in sys.modules])"
        )
        seen = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            env=environment(),
            check=True,
        )
        assert seen.stdout.strip() == "[]"

    def test_is_fast(self) -> None:
        begin = time.monotonic()
        cli("--help")
        assert time.monotonic() - begin < 10, "about half a second when nothing else runs"

    def test_version(self) -> None:
        shown = cli("--version")
        assert shown.returncode == 0 and shown.stdout.startswith("pacore-rl ")


class TestTrain:
    def test_a_misspelt_key_costs_one_screen_and_exit_2(self, recipe: Path) -> None:
        refused = cli("train", str(recipe), "trainer.step=10")
        assert refused.returncode == 2
        assert "trainer.step" in refused.stderr and "did you mean trainer.steps?" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert len(refused.stderr.splitlines()) < 25

    def test_debug_shows_the_traceback_too(self, recipe: Path) -> None:
        refused = cli("train", str(recipe), "trainer.step=10", "--debug")
        assert refused.returncode == 2 and "Traceback" in refused.stderr and "did you mean" in refused.stderr

    def test_no_recipe(self) -> None:
        refused = cli("train")
        assert refused.returncode == 2 and "recipes/quickstart.yaml" in refused.stderr

    def test_a_recipe_that_is_not_there(self, tmp_path: Path) -> None:
        refused = cli("train", str(tmp_path / "none.yaml"))
        assert refused.returncode == 2 and "none.yaml cannot be read" in refused.stderr

    def test_explain_prints_every_setting_with_default_and_doc(self) -> None:
        from pacore_rl.settings import settings

        shown = cli("train", "--explain")
        assert shown.returncode == 0
        text = " ".join(shown.stdout.split())
        for setting in settings():
            assert f"{setting.key} [{setting.kind}] default {setting.default}" in text
            assert setting.doc in text

    def test_explain_a_recipe_shows_what_it_sets_and_where(self, recipe: Path) -> None:
        shown = cli("train", str(recipe), "trainer.steps=7", "--explain")
        assert "trainer.steps = 7" in shown.stdout and "set in command line, trainer.steps=7" in shown.stdout
        assert f"set in {recipe}, line 1" in shown.stdout


class TestFiles:
    @pytest.mark.parametrize(
        "command", [["pool"], ["curate", "stage1", "--out", "out"], ["curate", "stage2", "--out", "out"]]
    )
    def test_missing_problems_are_told_before_anything_heavy_loads(self, recipe: Path, command: list[str]) -> None:
        refused = cli(*command, str(recipe), cwd=recipe.parent)
        assert refused.returncode == 2
        assert "problems.jsonl" in refused.stderr and "must be a file that exists" in refused.stderr
        assert not (recipe.parent / "out").exists()

    def test_a_missing_pool(self, recipe: Path) -> None:
        (recipe.parent / "problems.jsonl").touch()
        refused = cli("curate", "stage1", str(recipe), "--out", "out.jsonl", cwd=recipe.parent)
        assert refused.returncode == 2 and "pool.jsonl" in refused.stderr

    def test_evaluation_needs_held_out_problems(self, recipe: Path) -> None:
        refused = cli("evaluate", str(recipe), cwd=recipe.parent)
        assert refused.returncode == 2 and "data.held_out_problems" in refused.stderr


class TestBenchmarks:
    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            (["--benchmark", "aime2025"], "did you mean 'aime_2025'"),
            (["--benchmark", "aime_2025=nowhere.jsonl"], "no problem file at nowhere.jsonl"),
            (["--endpoint", "http://127.0.0.1:9/v1"], "Add --benchmark NAME"),
            (["--benchmark", "aime_2025", "--endpoint", "localhost"], "is no address of a server"),
            (["evaluation.benchmarks.pool_size=8", "--benchmark", "aime_2025"], "first round of 32 samples"),
            (["evaluation.benchmarks.configurations=[[8,10000]]", "--benchmark", "aime_2025"], "a round of 10,000"),
        ],
    )
    def test_a_mistake_costs_one_screen_and_exit_2(self, recipe: Path, arguments: list[str], shown: str) -> None:
        refused = cli("evaluate", str(recipe), *arguments, cwd=recipe.parent)
        assert refused.returncode == 2, refused.stderr
        assert shown in " ".join(refused.stderr.replace("│", " ").split())
        assert not list(recipe.parent.glob("runs/*"))

    def test_a_folder_without_an_evaluation_is_told(self, tmp_path: Path) -> None:
        refused = cli("report", str(tmp_path))
        assert refused.returncode == 2
        assert "pacore-rl evaluate RECIPE" in " ".join(refused.stderr.replace("│", " ").split())


class TestArithmetic:
    def test_makes_problems_and_keeps_a_tenth_apart(self, tmp_path: Path) -> None:
        made = cli("curate", "arithmetic", "--num", "60", "--out", "a.jsonl", "--held-out", "h.jsonl", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        train, held_out = (load_problems(tmp_path / name) for name in ("a.jsonl", "h.jsonl"))
        assert len(train) + len(held_out) == 60 and len(train) > len(held_out) > 0
        assert not {problem.id for problem in train} & {problem.id for problem in held_out}
        sums = [problem for problem in train if problem.tags["operation"] == "add"]
        for problem in sums:
            a, b = (int(number) for number in problem.id.split("-")[2:])
            assert int(problem.ground_truth) == a + b and 10**11 <= a <= 10**13

    def test_an_unknown_operation_is_refused(self, tmp_path: Path) -> None:
        refused = cli("curate", "arithmetic", "--operations", "add,divide", "--out", "a.jsonl", cwd=tmp_path)
        assert refused.returncode == 2 and "divide" in refused.stderr and "power_mod" in refused.stderr
        assert not (tmp_path / "a.jsonl").exists()


class TestGuard:
    @pytest.mark.parametrize(
        ("raised", "code", "shown"),
        [
            ("ValueError('a was given; mend it')", 2, "a was given; mend it"),
            ("FileNotFoundError('no such file: x; make it')", 2, "no such file: x; make it"),
            ("OSError(28, 'No space left on device')", 2, "No space left"),
            ("OSError(98, 'Address already in use')", 2, "Address already in use"),
            ("TimeoutError('worker rollout-0 was silent')", 2, "rollout-0 was silent"),
            ("ZeroDivisionError('division by zero')", 1, "This should not happen: ZeroDivisionError"),
        ],
    )
    def test_exit_codes(self, tmp_path: Path, raised: str, code: int, shown: str) -> None:
        ended = run_script([f"raise {raised}"], cwd=tmp_path)
        assert ended.returncode == code
        assert shown in ended.stderr
        assert ("Traceback" in ended.stderr) == (code == 1)

    def test_a_long_message_is_cut_to_a_screen(self, tmp_path: Path) -> None:
        ended = run_script([r"raise ValueError('\n'.join(str(n) for n in range(500)))"], cwd=tmp_path)
        assert len(ended.stderr.splitlines()) < 40 and "more lines" in ended.stderr

    def test_a_workers_error_is_shown_without_its_wrapping(self, tmp_path: Path) -> None:
        wrapped = [
            "class TaskError(ValueError):",
            "    cause = ValueError('what the worker said')",
            "raise TaskError('a remote traceback of eighty lines')",
        ]
        ended = run_script(wrapped, cwd=tmp_path)
        assert ended.returncode == 2
        assert "what the worker said" in ended.stderr and "eighty lines" not in ended.stderr

    def test_a_dead_worker_is_one_screen(self, tmp_path: Path) -> None:
        lines = [
            "from pacore_rl.failures import WorkerDied",
            "try:",
            "    raise OSError('what Ray said, at length')",
            "except OSError as error:",
            "    raise WorkerDied('rollout worker 1 died; lower rollout.kv_cache_gib') from error",
        ]
        ended = run_script(lines, cwd=tmp_path)
        assert ended.returncode == 2 and "lower rollout.kv_cache_gib" in ended.stderr
        assert "Traceback" not in ended.stderr and "at length" not in ended.stderr

    def test_an_unexpected_failure_says_where_things_lie(self, tmp_path: Path) -> None:
        lines = [
            "outputs.add(Path('written.txt'))",
            "Path('written.txt').write_text('x')",
            "raise RuntimeError('broken')",
        ]
        ended = run_script(lines, cwd=tmp_path)
        assert ended.returncode == 1 and "written.txt" in ended.stderr and "broken" in ended.stderr

    @pytest.mark.parametrize(
        ("raised", "told"),
        [("", "--resume auto goes on"), ("('the same command goes on')", "saved: the same command goes on")],
    )
    def test_a_run_that_was_saved_on_sigterm_ends_with_75(self, tmp_path: Path, raised: str, told: str) -> None:
        lines = ["from pacore_rl.termination import TerminatedSaved", f"raise TerminatedSaved{raised}"]
        ended = run_script(lines, cwd=tmp_path)
        assert ended.returncode == 75 and told in ended.stderr and "Traceback" not in ended.stderr

    @pytest.mark.parametrize(
        ("sent", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
    )
    def test_a_signal_says_where_things_were_saved(
        self, tmp_path: Path, sent: signal.Signals, code: int, word: str
    ) -> None:
        lines = [
            "outputs.add(Path('run'), Path('never'))",
            "Path('run').mkdir()",
            "Path('run/metrics.jsonl').write_text('{}')",
            "print('ready', flush=True)",
            "time.sleep(60)",
        ]
        with subprocess.Popen(
            script(lines), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(sent)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == code
        assert f"{word}. What was written so far lies in run." in errors
        assert "Traceback" not in errors
