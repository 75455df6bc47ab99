"""Folders of runs that never were, with numbers and texts that tests know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pacore_rl.reporting.panels import PANELS
from pacore_rl.reporting.sample_file import SAMPLES, SampleFile
from pacore_rl.samples import Sample, SampledMessage, SampledResponse
from pacore_rl.types import Finish

RECIPE = "run: {name: made, seed: 3}\nmodel: {path: /a/b/models/tiny, context_window_tokens: 512}\n"
HOSTILE = (
    "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">\u2028&amp;${data}"
)


def message(text: str, correct: bool) -> SampledMessage:
    return SampledMessage(text=text, correct=correct, outcome="scored", answer="1", reason="as told")


def response(text: str, correct: bool, finish: Finish = "stopped") -> SampledResponse:
    return SampledResponse(
        text=text,
        finish=finish,
        num_tokens=5,
        weight_version=0,
        reward=float(correct),
        correct=correct,
        outcome="truncated" if finish == "truncated" else "scored",
        answer="2",
        reason="as told",
    )


def sample(
    step: int, problem_id: str, *, messages: Sequence[SampledMessage] = (), responses: Sequence[SampledResponse] = ()
) -> Sample:
    num_correct = sum(one.correct for one in responses)
    return Sample(
        step=step,
        problem_id=problem_id,
        source="made",
        reward_name="exact",
        question=f"What is {problem_id}?",
        ground_truth="2",
        num_dropped_messages=0,
        messages=tuple(messages),
        responses=tuple(responses),
        num_responses=len(responses),
        num_correct=num_correct,
        mean_reward=num_correct / max(len(responses), 1),
    )


SAMPLES_OF_EVERY_KIND = (
    sample(1, "seen-twice", messages=[message("a", True)], responses=[response("no", False), response("no", False)]),
    sample(1, "hostile", messages=[message(HOSTILE, True)], responses=[response(HOSTILE, False)]),
    sample(2, "emergent", messages=[message("a", False)], responses=[response("as Ref 1 and Reference 2", True)]),
    sample(2, "long", messages=[message("b", True)], responses=[response("and on", False, "truncated")]),
    sample(3, "seen-twice", messages=[message("a", True)], responses=[response("yes", True), response("no", False)]),
    sample(3, "plain", responses=[response("no message was shown", True)]),
)


def write_run(folder: Path, *, num_steps: int = 30, samples: Sequence[Sample] = SAMPLES_OF_EVERY_KIND) -> Path:
    """A run whose every metric rises from 1/num_steps to 1."""
    folder.mkdir(parents=True)
    keys = [key for panel in PANELS for key in panel.lines]
    lines = [
        json.dumps({"schema": 1, "step": step} | dict.fromkeys(keys, step / num_steps) | {"time/step": 2.0})
        for step in range(1, num_steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "recipe.yaml").write_text(RECIPE)
    file = SampleFile(folder / SAMPLES)
    file.log_samples(samples)
    file.close()
    return folder
