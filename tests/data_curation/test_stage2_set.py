"""``curate stage2``: measured by a generator that follows a script, with the real scorer; stopped, and gone on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import numpy as np
import pytest

from data_curation.problem_set import CurationPaths, curate_problems
from data_curation.stage_sets import load_stage_reports
from pacore_rl import curation_stages
from pacore_rl.config import Config
from pacore_rl.curation_stages import make_stage2
from pacore_rl.inputs import load_training_data
from pacore_rl.problems import load_problems, save_problems
from pacore_rl.synthesis.draws import draw_seed
from pacore_rl.synthesis.pools import open_pool
from pacore_rl.types import GenerationRequest, PoolMessage, Problem, Sampling, Trajectory, Turn, Verdict

MODEL = Path(__file__).resolve().parents[2] / "recipes" / "tiny_base"

IsRight = Callable[[int, int], bool]
"""(draw, sample): 4 draws of 4 samples, and 12 more where all or none of those are right."""
SCRIPTS: Mapping[str, IsRight] = {
    "never": lambda draw, sample: False,
    "always": lambda draw, sample: True,
    "once": lambda draw, sample: (draw, sample) == (0, 0),
    "half": lambda draw, sample: sample % 2 == 0,
    "all but once": lambda draw, sample: (draw, sample) != (3, 3),
    "late": lambda draw, sample: draw >= 4 and sample == 0,
    "slips": lambda draw, sample: (draw, sample) != (15, 3),
    "silent": lambda draw, sample: False,  # has no message
    "fails": lambda draw, sample: True,
}
KEPT = {"once": 1 / 16, "half": 1 / 2, "all but once": 15 / 16, "late": 12 / 64, "slips": 63 / 64}
ASKED = {"never": 64, "always": 64, "once": 16, "half": 16, "all but once": 16, "late": 64, "slips": 64, "fails": 64}
"""Responses: what the first 16 do not tell apart is asked 64 times."""
TOGETHER = 3


class Stopped(KeyboardInterrupt):
    """The user's Ctrl-C."""


@dataclass(kw_only=True)
class Scripted:
    """A generator; knows by its seed which draw of which problem a request is."""

    seed: int
    stop_after: int | None = None
    """Requests; then the user stops the run."""
    fails: bool = False
    """Whether ``fails`` gets no response at all."""
    asked: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    models: list[str] = field(default_factory=list[str])
    weight_version: int = 0
    context_window_tokens: int = 100_000

    @contextmanager
    def opened(self, model: str) -> Iterator[Scripted]:
        self.models.append(model)
        yield self

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Trajectory, ...]]]:
        draws = {
            draw_seed(self.seed, "synthesis_accuracy_responses", f"raw/{name}", draw): (name, draw)
            for name in SCRIPTS
            for draw in range(16)
        }
        for index, request in enumerate(requests):
            if len(self.asked) == self.stop_after:
                raise Stopped
            name, draw = draws[request.seed]
            self.asked.append((name, draw))
            yield index, tuple(self.response(name, draw, sample, request) for sample in range(request.num_samples))

    def response(self, name: str, draw: int, sample: int, request: GenerationRequest) -> Trajectory:
        failed = name == "fails" and self.fails
        text = f"<think>Hm.</think>It is \\boxed{{{7 if SCRIPTS[name](draw, sample) else 8}}}."
        return Trajectory(
            prompt_ids=request.prompt_ids,
            response_ids=np.arange(0 if failed else 9, dtype=np.int32),
            logprobs=np.zeros(0 if failed else 9, np.float32),
            text="" if failed else text,
            finish="failed" if failed else "stopped",
            weight_versions=np.zeros(0 if failed else 9, np.int32),
        )

    def counts(self) -> Counter[str]:
        """Responses by problem."""
        return Counter(name for name, _ in self.asked for _ in range(4))


def message(name: str, correct: bool) -> PoolMessage:
    verdict = Verdict(reward=float(correct), correct=correct, outcome="scored", reason="equal", answer="7")
    return PoolMessage(
        problem_id=f"raw/{name}", text="So \\boxed{7}.", finish="stopped", verdict=verdict, num_tokens=9, model="m"
    )


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """By a name, a recipe with a folder of its own, in which problems and pool are there."""
    monkeypatch.setattr(curation_stages, "_MEASURED_TOGETHER", TOGETHER)
    source = tmp_path / "raw.jsonl"
    save_problems(
        source,
        [
            Problem(
                id=name,
                conversation=(Turn(role="user", content=f"Find $x$ with $x - {i} = {7 - i}$."),),
                ground_truth="7",
            )
            for i, name in enumerate(SCRIPTS)
        ],
    )

    def make(name: str) -> Config:
        out = tmp_path / name
        config = Config.model_validate(
            {
                "model": {"path": str(MODEL)},
                "data": {"path": out / "stage2"},
                "synthesis": {"min_messages": 1, "max_messages": 2},
                "reward": {"num_workers": 1},
                "curation": {
                    "output_dir": out,
                    "sources": {"raw": {"path": str(source), "licence": "MIT"}},
                    "rules": {"near_duplicate_similarity": 1.0},
                },
            }
        )
        curate_problems(config)
        pool = open_pool(CurationPaths(root=out).pool)
        pool.append([message(name, correct) for name in SCRIPTS if name != "silent" for correct in (True, False)])
        return config

    return make


def files(config: Config) -> dict[str, bytes]:
    """What stage 2 made."""
    paths = CurationPaths(root=config.curation.output_dir)
    written = [paths.stage_report(2), *paths.stage(2).rglob("*.parquet")]
    return {str(path.relative_to(paths.root)): path.read_bytes() for path in written}


def test_kept_is_what_is_right_sometimes_and_it_loads_everywhere(
    recipe: Callable[[str], Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe("out")
    generator = Scripted(seed=config.run.seed)
    folder = make_stage2(config, open_generator=generator.opened)
    assert generator.counts() == ASKED and generator.models == [str(MODEL)]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows: Any = datasets.load_dataset(str(folder), split="train")
    assert {row["id"].removeprefix("raw/"): row["synthesis_accuracy"] for row in rows} == KEPT
    assert {row["message_accuracy"] for row in rows} == {0.5}
    assert all(row["responses"] == ["So \\boxed{7}."] * 2 and len(row["pool"]) == 2 for row in rows)
    report, by_source = load_stage_reports(CurationPaths(root=folder.parent).stage_report(2))
    assert (report.num_kept, report.num_never_right, report.num_too_easy, report.num_unscored) == (5, 1, 2, 1)
    assert by_source == {"raw": report}
    data = load_training_data(config)
    assert [problem.id for problem in data.problems] == [f"raw/{name}" for name in KEPT]
    assert data.problems[0].tags["synthesis_accuracy"] == 1 / 16


# The eight problems are measured by threes: in 36, 24 and 32 requests of 4 responses each.
@pytest.mark.parametrize("stop_after", [0, 5, 36, 40, 70])
def test_stopped_and_gone_on_with_equals_not_having_been_stopped(
    recipe: Callable[[str], Config], stop_after: int
) -> None:
    whole, stopped = recipe("whole"), recipe("stopped")
    make_stage2(whole, open_generator=Scripted(seed=whole.run.seed).opened)
    first, second = Scripted(seed=whole.run.seed, stop_after=stop_after), Scripted(seed=whole.run.seed)
    with pytest.raises(Stopped):
        make_stage2(stopped, open_generator=first.opened)
    assert not (stopped.curation.output_dir / "stage2").exists()
    make_stage2(stopped, open_generator=second.opened)
    assert files(stopped) == files(whole)
    # Only what was measured together when the run was stopped is asked again.
    order = list(ASKED)
    ends = np.cumsum([sum(ASKED[name] for name in order[i : i + TOGETHER]) // 4 for i in range(0, 8, TOGETHER)])
    num_done = TOGETHER * int(np.searchsorted(ends, stop_after, side="right"))
    assert second.counts() == {name: ASKED[name] for name in order[num_done:]}
    third = Scripted(seed=whole.run.seed)
    make_stage2(stopped, open_generator=third.opened)
    assert not third.asked and not third.models, "all is remembered: no engine is started"
    assert files(stopped) == files(whole)


def test_what_failed_through_our_fault_is_tried_again_by_the_next_run(recipe: Callable[[str], Config]) -> None:
    config = recipe("out")
    make_stage2(config, open_generator=Scripted(seed=config.run.seed, fails=True).opened)
    paths = CurationPaths(root=config.curation.output_dir)
    assert load_stage_reports(paths.stage_report(2))[0].num_unscored == 2
    again = Scripted(seed=config.run.seed)
    make_stage2(config, open_generator=again.opened)
    assert again.counts() == {"fails": 64} and load_stage_reports(paths.stage_report(2))[0].num_unscored == 1


def test_another_model_is_measured_anew(recipe: Callable[[str], Config]) -> None:
    config = recipe("out")
    make_stage2(config, open_generator=Scripted(seed=config.run.seed).opened)
    other = Scripted(seed=config.run.seed)
    copy = config.curation.output_dir / "another"
    copy.symlink_to(MODEL)
    make_stage2(config, model=str(copy), open_generator=other.opened)
    assert other.counts() == ASKED and other.models == [str(copy)]


def test_a_problem_with_more_messages_is_measured_anew(recipe: Callable[[str], Config]) -> None:
    config = recipe("out")
    make_stage2(config, open_generator=Scripted(seed=config.run.seed).opened)
    name = "fails"
    open_pool(CurationPaths(root=config.curation.output_dir).pool).append([message(name, correct=False)])
    grown = Scripted(seed=config.run.seed)
    make_stage2(config, open_generator=grown.opened)
    assert grown.counts().keys() == {name}


def test_another_question_under_the_same_id_is_measured_anew(
    recipe: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe("out")
    make_stage2(config, open_generator=Scripted(seed=config.run.seed).opened)
    question = (Turn(role="user", content="Find $x$ with $x + 100 = 107$."),)

    def load(path: Path) -> list[Problem]:
        return [replace(one, conversation=question) if one.id == "raw/fails" else one for one in load_problems(path)]

    monkeypatch.setattr(curation_stages, "load_problems", load)
    changed = Scripted(seed=config.run.seed)
    make_stage2(config, open_generator=changed.opened)
    assert changed.counts().keys() == {"fails"}
