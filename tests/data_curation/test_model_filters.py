"""The judge and the code checks within ``curate problems``, over files, a socket and the real sandbox."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_fakes import serving

from data_curation.chat import EndpointDown
from data_curation.model_filters import model_filters
from data_curation.problem_set import CurationPaths, curate_problems
from pacore_rl.config import Config
from pacore_rl.problems import load_problems
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.suite import suite_of

LARGER = "Read two integers from the input, one a line, and print the larger one. Both are between -100 and 100."
RIGHT = ("a, b = int(input()), int(input())\nprint(max(a, b))", "print(max(int(input()), int(input())))")
WRONG = "a, b = int(input()), int(input())\nprint(max(a, b, key=abs))"
GENERATOR = "```python\nseed = int(input())\nprint(-9 - seed)\nprint(seed)\n```"


def write_sources(folder: Path) -> dict[str, Any]:
    maths = [
        {"id": "sum", "problem": "What is the sum of the first ten positive integers, one to ten?", "answer": "55"},
        {
            "id": "vague",
            "problem": "What is the area of the rectangle whose one side has the length of 4 cm?",
            "answer": "12",
        },
    ]
    code = {
        "id": "larger",
        "problem": LARGER,
        "tests": [{"input": f"{a}\n{b}\n", "output": f"{max(a, b)}\n"} for a, b in ((1, 2), (7, 3), (5, 9))],
        "solutions": [{"lang": "python3", "verdict": "accepted", "code": code} for code in RIGHT]
        + [{"lang": "python3", "verdict": "wrong_answer", "code": WRONG}],
    }
    for name, records in (("maths", maths), ("code", [code])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {name: {"path": str(folder / f"{name}.jsonl"), "licence": "made here"} for name in ("maths", "code")}


def config_of(folder: Path, url: str) -> Config:
    endpoint = {"base_urls": (url,), "model": "m", "backoff_seconds": 0.001, "max_retries": 0}
    curation = {
        "output_dir": folder / "out",
        "sources": write_sources(folder),
        "judge": {**endpoint, "max_failures_in_a_row": 2},
        "code": {"writer": {**endpoint, "seeds_per_generator": 2}},
    }
    return Config.model_validate(
        {"model": {"path": "none"}, "data": {"problems": "none", "pool": "none"}, "curation": curation}
    )


def test_problems_go_through_the_judge_and_the_checks_of_code(tmp_path: Path) -> None:
    try:
        choose_backend()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))

    def answer(number: int, body: dict[str, Any]) -> str:
        prompt = body["messages"][0]["content"]
        if "Write a generator" in prompt:
            return GENERATOR
        return "VERDICT: NO" if "rectangle" in prompt else "VERDICT: YES"

    with serving(answer) as (url, bodies):
        config = config_of(tmp_path, url)
        funnel = curate_problems(config, further=model_filters(config))
        assert len(bodies) == 4 + 1 + 1  # four votes, one, and a generator
    paths = CurationPaths(root=config.curation.output_dir)
    problems = {problem.source: problem for problem in load_problems(paths.problems)}
    assert set(problems) == {"maths", "code"} and problems["maths"].ground_truth == "55"
    assert [test.input for test in suite_of(problems["code"].ground_truth).tests[3:]] == ["-9\n0\n", "-10\n1\n"]
    assert (funnel.num_read, funnel.num_kept, dict(funnel.dropped["judge"])) == (3, 2, {"maths": 1})
    # The server is gone. What was found is remembered, even where the parts of the steps are not.
    before = paths.problems.read_bytes()
    shutil.rmtree(paths.parts)
    curate_problems(config, further=model_filters(config))
    assert paths.problems.read_bytes() == before
    other = config_of(tmp_path, "http://127.0.0.1:9/v1").model_copy(
        update={
            "curation": config.curation.model_copy(
                update={"judge": config.curation.judge.model_copy(update={"votes": 5})}
            )
        }
    )
    with pytest.raises(EndpointDown, match="cannot be reached"):
        curate_problems(other, further=model_filters(other))


def test_limits_of_programs_belong_to_the_checks_of_code(tmp_path: Path) -> None:
    """Settings that change make a step be done again."""
    config = config_of(tmp_path, "http://127.0.0.1:9/v1")

    def settings(**reward: Any) -> object:
        (_, found), _ = model_filters(config.model_copy(update={"reward": config.reward.model_copy(update=reward)}))
        return found

    assert settings() == settings(num_workers=3)
    for change in ({"code_test_seconds": 9.0}, {"code_submission_seconds": 9.0}, {"code_memory_mib": 9}):
        assert settings(**change) != settings()


def test_without_an_endpoint_there_is_no_judge(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "model": {"path": "none"},
            "data": {"problems": "none", "pool": "none"},
            "curation": {"output_dir": tmp_path, "judge": {}},
        }
    )
    assert [filter.name for filter, _ in model_filters(config)] == ["code"]
    with pytest.raises(ValueError, match="name the model that they serve"):
        config_of(tmp_path, "http://127.0.0.1:9/v1").curation.judge.model_validate({"base_urls": ["http://h/v1"]})
