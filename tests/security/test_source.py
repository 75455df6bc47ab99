"""What no source file of ours does: unpickle, trust code that comes with a model, listen to strangers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("pacore_rl", "data_curation", "scripts") for path in (ROOT / folder).rglob("*.py"))
UNPICKLES = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *("dill.loads", "joblib.load", "shelve.open", "pandas.read_pickle", "pd.read_pickle", "torch.jit.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "engine.load_checkpoint"),  # the last is DeepSpeed's
}
RESTRICTED_UNPICKLER = ROOT / "pacore_rl" / "rewards" / "code" / "shapes.py"
"""It subclasses Unpickler so that a pickle that names any class is refused (tests/rewards/code/test_code_shapes.py)."""


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def calls(path: Path) -> Iterator[tuple[str, dict[str, ast.expr], int]]:
    """Dotted name, keyword arguments and line of each call."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            yield ast.unparse(node.func), keywords, node.lineno


def constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def offences(path: Path) -> list[str]:
    found = []
    for name, keywords, line in calls(path):
        short = ".".join(name.split(".")[-2:])
        if short in UNPICKLES:
            found.append(f"{path}:{line} {name} unpickles, or loads what can name any class")
        if short == "torch.load" and constant(keywords.get("weights_only")) is not True:
            found.append(f"{path}:{line} torch.load without weights_only=True unpickles")
        if constant(keywords.get("allow_pickle")) is True:
            found.append(f"{path}:{line} allow_pickle=True unpickles")
        if constant(keywords.get("trust_remote_code")) is True:
            found.append(f"{path}:{line} trusts code that comes with a model without being asked to")
        if short in ("os.system",) or constant(keywords.get("shell")) is True:
            found.append(f"{path}:{line} {name} hands a text to a shell")
    return found


def test_nothing_is_unpickled_and_no_model_code_is_trusted_unasked() -> None:
    assert len(FILES) > 100
    assert [offence for path in FILES for offence in offences(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle; pickle.load(open('x', 'rb'))",
        "import torch; torch.load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "import yaml; yaml.load('x', Loader=yaml.Loader)",
    ],
)
def test_this_search_finds_what_it_looks_for(tmp_path: Path, line: str) -> None:
    (tmp_path / "made.py").write_text(line)
    assert len(offences(tmp_path / "made.py")) == 1


def test_the_one_unpickler_is_the_one_that_refuses_classes() -> None:
    users = {
        path
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "pickle.Unpickler"
    }
    assert users == {RESTRICTED_UNPICKLER}


def test_every_model_and_tokenizer_is_loaded_with_the_recipes_trust() -> None:
    """``from_pretrained`` asks the terminal where nobody says whether code may run; ours always says."""
    loads = [
        (path, keywords, line)
        for path in FILES
        if "pacore_rl" in path.parts
        for name, keywords, line in calls(path)
        if name.startswith("Auto") and name.endswith(".from_pretrained")
    ]
    assert len(loads) >= 6
    silent = [
        f"{path}:{line}"
        for path, keywords, line in loads
        if "trust_remote_code" not in keywords and "**" not in path.read_text().splitlines()[line - 1]
    ]
    assert silent == []


def test_nothing_listens_to_other_machines_and_no_lock_is_turned_off() -> None:
    """Ray's dashboard, its token authentication, servers of ours."""
    scripts = [*FILES, *(path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".sh", ".sbatch", ".yaml"))]
    texts = {path: path.read_text(encoding="utf-8") for path in scripts}
    assert [path for path, text in texts.items() if "0.0.0.0" in text] == []
    unlocked = re.compile(r"RAY_AUTH_MODE\W+disabled")
    assert [path for path, text in texts.items() if unlocked.search(text)] == []
    heads = [line for text in texts.values() for line in text.splitlines() if "--head" in line and "start" in line]
    started = [line for line in heads if line.strip().startswith(("ray start", "start ", '"$ray"'))]
    assert started and all("--dashboard-host=127.0.0.1" in line for line in started)
