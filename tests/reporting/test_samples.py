"""The excerpt of a step that people read, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pacore_rl.config import LoggingConfig
from pacore_rl.experience import Draw, Scored
from pacore_rl.reporting.sample_file import SampleFile, read_samples
from pacore_rl.samples import choose_samples, clip
from pacore_rl.types import MessageSet, Problem, Trajectory, Turn, Verdict


def rows(problem_id: str, rewards: list[float], text: str = "so 2") -> list[Scored]:
    wrong = Verdict(reward=0.0, correct=False, outcome="scored", reason="not equal", answer="1")
    draw = Draw(
        problem=Problem(id=problem_id, conversation=(Turn(role="user", content="1 + 1?"),), ground_truth="2"),
        message_set=MessageSet(messages=("it is 1",), verdicts=(wrong,), num_dropped=2),
        prompt_ids=np.arange(3, dtype=np.int32),
        seed=0,
    )
    return [
        Scored(
            draw=draw,
            trajectory=Trajectory(
                prompt_ids=draw.prompt_ids,
                response_ids=np.arange(4, dtype=np.int32),
                logprobs=np.zeros(4, np.float32),
                text=text,
                finish="stopped",
                weight_versions=np.array([6, 6, 7, 7], np.int32),
            ),
            verdict=Verdict(reward=reward, correct=reward == 1.0, outcome="scored", reason="", answer="2"),
        )
        for reward in rewards
    ]


def settings(**values: int) -> LoggingConfig:
    return LoggingConfig.model_validate(values)


STEP = [row for number in range(40) for row in rows(f"p{number}", [1.0, 0.5, 0.0])]


def test_a_sample_tells_of_all_responses_and_shows_the_first_few() -> None:
    (one,) = choose_samples(rows("p", [1.0, 0.5, 0.0]), settings(sample_responses_per_problem=2), seed=0, step=7)
    assert (one.step, one.problem_id, one.question, one.ground_truth) == (7, "p", "1 + 1?", "2")
    assert (one.num_responses, one.num_correct, one.mean_reward) == (3, 1, 0.5)
    assert [response.reward for response in one.responses] == [1.0, 0.5]
    assert one.responses[0].num_tokens == 4 and one.responses[0].weight_version == 7
    assert [(message.text, message.correct) for message in one.messages] == [("it is 1", False)]
    assert one.num_dropped_messages == 2


def test_half_of_the_problems_are_met_again_and_half_are_drawn_anew() -> None:
    first, second = (
        [one.problem_id for one in choose_samples(STEP, settings(sample_problems_per_step=4), seed=0, step=step)]
        for step in (1, 2)
    )
    assert len(first) == len(set(first)) == 4
    assert first[:2] == second[:2] and first[2:] != second[2:]


def test_a_step_with_fewer_problems_gives_what_it_has() -> None:
    few = STEP[:6]
    assert len(choose_samples(few, settings(sample_problems_per_step=9), seed=0, step=1)) == 2
    assert choose_samples(few, settings(sample_problems_per_step=0), seed=0, step=1) == ()


def test_long_texts_keep_their_beginning_and_their_end() -> None:
    text = "a" * 500 + "b" * 500
    (one,) = choose_samples(rows("p", [1.0], text=text), settings(sample_text_chars=100), seed=0, step=1)
    assert one.responses[0].text == "a" * 50 + "\n[... 900 characters left out ...]\n" + "b" * 50
    assert clip("short", 100) == "short"


def test_what_is_written_is_read_back_and_a_step_done_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    old = choose_samples(rows("p", [0.0]), settings(), seed=0, step=1)
    new = choose_samples(rows("p", [1.0], text="\ud800 \u2028 </script>"), settings(), seed=0, step=1)
    for samples in (old, new):
        file = SampleFile(path)
        file.log_samples(samples)
        file.close()
    (read,) = read_samples(path)
    assert read.mean_reward == 1.0 and read.messages == new[0].messages
    assert read.responses[0].text == "? \u2028 </script>", "a lone surrogate has no UTF-8"


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    file = SampleFile(path)
    file.log_samples(choose_samples(rows("p", [0.0]), settings(), seed=0, step=1))
    file.close()
    path.write_text(path.read_text() + '{"schema": 1, "st')
    assert len(read_samples(path)) == 1
    for damaged in ("{}", '{"schema": 1, "step": 2}', "[]", "no json"):
        path.write_text(json.dumps({"schema": 2}) + "\n" if damaged == "{}" else damaged + "\n")
        with pytest.raises(ValueError, match="line 1 is not a sample"):
            read_samples(path)
