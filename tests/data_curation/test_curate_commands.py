"""``pacore-rl curate problems`` and ``card`` as a user starts them, on a recipe of a few problems."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from chat_fakes import serving
from typer.testing import CliRunner

from data_curation.problem_set import CurationPaths
from data_curation.rule_quality import LABELS
from pacore_rl.cli.app import app
from pacore_rl.problems import load_problems
from pacore_rl.synthesis.pools import open_pool
from pacore_rl.training_sets import load_training_set
from pacore_rl.types import PoolMessage, Verdict

ROWS: list[dict[str, str]] = [
    {"id": "sum", "problem": "Find $x$ with $x + 3 = 10$.", "answer": "7"},
    {"id": "product", "problem": "What is the product of $12$ and $11$?", "answer": "132"},
    {"id": "again", "problem": "Find $x$ with $x + 3 = 10$.", "answer": "7"},
    {"id": "short", "problem": "What?", "answer": "7"},
    {"id": "figure", "problem": "In the diagram, what is the area of the shaded region?", "answer": "4"},
    {"id": "asked", "problem": "How many primes are there below $30$?", "answer": "10"},
]
KEPT = ["raw/sum", "raw/product"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    source, asked = tmp_path / "raw.jsonl", tmp_path / "benchmark.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "no JSON\n")
    asked.write_text(
        json.dumps({"id": "b1", "problem": "How many primes are there below $50$?", "answer": "15"}) + "\n"
    )
    settings = {
        "run": {"name": "tiny"},
        "model": {"path": "none"},
        "data": {"path": str(tmp_path / "out" / "stage1")},
        "reward": {"num_workers": 1},
        "curation": {
            "output_dir": str(tmp_path / "out"),
            "sources": {"raw": {"path": str(source), "licence": "CC BY 4.0"}},
            "decontamination": {"against": [str(asked)]},
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def curate(*arguments: object) -> tuple[int, str]:
    """Exit code, and what is shown, in one line."""
    result = CliRunner().invoke(app, ["curate", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def labelled(folder: Path, *, without: str = "") -> Path:
    """The files of the labelled problems, with statements of ours: all as they are labelled, but for four of ``dev``.

    Three of those that are labelled to be dropped are fine, and one that is labelled to be kept is too short.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    left = {("dev", "drop"): 3, ("dev", "keep"): 1}
    for label in map(json.loads, LABELS.read_text().splitlines()):
        kind, fine = (label["split"], label["label"]), label["label"] == "keep"
        if left.get(kind):
            left[kind] -= 1
            fine = not fine
        if label["id"] != without:
            statement = f"Find $x$ with $x + {len(rows)} = 10$." if fine else "What?"
            rows[label["file"]].append({"id": label["id"], "problem": statement, "answer": "7"})
    for name, some in rows.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(json.dumps(row) + "\n" for row in some).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def test_problems_shows_what_each_step_took_and_names_what_comes_next(recipe: Path) -> None:
    code, shown = curate("problems", recipe)
    assert code == 0, shown
    assert "exact_duplicate 1 the same as raw/sum" in shown and "contaminated 1 the same as b1" in shown
    assert "raw 7 1 2 1 1 2" in shown and "all 7 1 2 1 1 2" in shown
    paths = CurationPaths(root=recipe.parent / "out")
    assert [problem.id for problem in load_problems(paths.problems)] == KEPT
    rejects = [json.loads(line) for line in paths.rejects.read_text().splitlines()]
    assert {(reject["id"], reject["step"]) for reject in rejects} == {
        ("raw/7", "read"),
        ("raw/short", "length"),
        ("raw/figure", "image_or_link"),
        ("raw/again", "exact_duplicate"),
        ("raw/asked", "contaminated"),
    }
    assert f"pacore-rl curate pools {recipe}" in shown and str(paths.problems) in shown
    before = {path: path.stat().st_mtime_ns for path in paths.parts.rglob("*") if path.is_file()}
    assert curate("problems", recipe) == (0, shown)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is done twice"


def test_problems_refuses_a_recipe_without_sources(recipe: Path) -> None:
    settings = json.loads(recipe.read_text())
    settings["curation"]["sources"] = {}
    recipe.write_text(json.dumps(settings))
    code, shown = curate("problems", recipe)
    assert code == 2 and "no source of problems" in shown and "Traceback" not in shown


def test_a_card_before_there_are_problems_names_what_comes_first(recipe: Path) -> None:
    code, shown = curate("card", recipe)
    assert code == 2 and "curate problems" in shown and not (recipe.parent / "out" / "README.md").exists()


def test_the_card_measures_the_rules_on_problems_that_were_labelled_by_hand(recipe: Path) -> None:
    assert curate("problems", recipe)[0] == 0
    folder = labelled(recipe.parent / "labelled")
    code, shown = curate("card", recipe, f"curation.rules.labelled_data={folder}")
    assert code == 0 and "pacore-rl train" in shown, shown
    card = (recipe.parent / "out" / "README.md").read_text()
    # dev: 15 labelled drop, of which 12 are dropped, and one more: 12/13 and 12/15.
    assert "| split | problems | labelled drop | precision | recall |" in card
    assert "| dev | 100 | 15 | 0.923 | 0.800 |" in card
    assert "| held_out | 100 | 10 | 1.000 | 1.000 |" in card
    wrong = [line for line in card.splitlines() if line.startswith(("- dev: ", "- held_out: "))]
    assert len(wrong) == 4 and sum(" dropped (length, 5 characters" in line for line in wrong) == 1
    assert sum(" kept; " in line for line in wrong) == 3
    assert "# tiny: curated problems" in card and "7 records were read, 2 problems came through" in card
    assert "benchmark.jsonl (sha256 " in card and "| raw | CC BY 4.0 | raw.jsonl |" in card


def test_a_folder_that_lacks_a_labelled_problem_is_refused(recipe: Path) -> None:
    assert curate("problems", recipe)[0] == 0
    first = json.loads(LABELS.read_text().splitlines()[0])["id"]
    folder = labelled(recipe.parent / "labelled", without=first)
    code, shown = curate("card", recipe, f"curation.rules.labelled_data={folder}")
    assert code == 2 and f"lacks 1 labelled problems (first: {first})" in shown


def test_the_card_follows_the_stages(recipe: Path) -> None:
    assert curate("problems", recipe)[0] == 0
    assert curate("card", recipe)[0] == 0
    out = recipe.parent / "out"
    card = (out / "README.md").read_text()
    assert "Not measured: `curation.rules.labelled_data`" in card and "stage 1" not in card
    verdicts = [Verdict(reward=float(i == 0), correct=i == 0, outcome="scored", reason="") for i in range(4)]
    open_pool(CurationPaths(root=out).pool).append(
        [
            PoolMessage(problem_id="raw/sum", text="7", finish="stopped", verdict=verdict, num_tokens=1, model="m")
            for verdict in verdicts
        ]
    )
    assert curate("stage1", recipe)[0] == 0
    assert curate("card", recipe)[0] == 0
    card = (out / "README.md").read_text()
    assert "| source | read | curated | stage 1: measured | never right | too easy | stage 1 |" in card
    assert "| raw | 7 | 2 | 1 | . | . | 1 |" in card and "accuracy.png" in card
    assert (out / "stage1" / "README.md").read_text().startswith("---\nconfigs:")


def test_pools_come_from_an_endpoint_and_stage1_follows(recipe: Path) -> None:
    def reply(_number: int, body: dict[str, Any]) -> str:
        question = body["messages"][-1]["content"]
        return f"<think>Hm.</think>So \\boxed{{{7 if 'x + 3' in question and body['seed'] % 4 == 0 else 8}}}."

    curate("problems", recipe)
    paths = CurationPaths(root=recipe.parent / "out")
    with serving(reply) as (url, asked):
        settings = [f"curation.pools.endpoint.base_urls=[{url}]", "curation.pools.endpoint.model=proposer"]
        code, shown = curate("pools", recipe, *settings, "curation.pools.size=40")
        assert code == 0 and "Next" in shown, shown
        assert len(asked) == 2 * 40 and len({(one["seed"], one["messages"][-1]["content"]) for one in asked}) == 80
        code, _ = curate("pools", recipe, *settings, "curation.pools.size=41")
        assert code == 0 and len(asked) == 2 * 41, "one more of each"
    pool = open_pool(paths.pool, must_exist=True)
    assert [pool.num_written(problem, "proposer") for problem in KEPT] == [41, 41]
    assert 0 < pool.message_accuracy("raw/sum") < 9 / 24 and pool.message_accuracy("raw/product") == 0.0
    code, shown = curate("stage1", recipe)
    assert code == 0, shown
    assert [problem.id for problem in load_training_set(paths.stage(1)).problems] == ["raw/sum"]
