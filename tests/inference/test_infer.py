"""``pacore-rl infer`` against a scripted server: in a thread of its own, since the command has an event loop itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Script, in_thread, numbered
from typer.testing import CliRunner

from pacore_rl.cli.app import app
from pacore_rl.inference.questions import load_questions

REPOSITORY = Path(__file__).parents[2]


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def questions(path: Path, num: int) -> Path:
    return write(path, *({"id": f"p{i}", "prompt": f"{i} + 1?"} for i in range(num)))


def infer(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["infer", *map(str, arguments)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_problem_is_one_line_with_its_rounds_and_their_tokens(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 3), tmp_path / "deep" / "a.jsonl"
    with in_thread(numbered) as server:
        result = infer(source, "--endpoint", server.url, "--level", "4", "-o", out)
    assert result.exit_code == 0, result.output
    records = lines(out)
    assert sorted(record["id"] for record in records) == ["p0", "p1", "p2"]
    for record in records:
        assert record["outcome"] == "answered" and record["answer"].isdigit() and record["reasoning"] == "<think>x"
        assert record["ttc_tokens"] == 5 * 20
        assert [(r["num_samples"], r["generated_tokens"], r["prompt_tokens"]) for r in record["rounds"]] == [
            (4, 80, 120),
            (1, 20, 30),
        ]
        assert len(record["rounds"][1]["messages"]) == 4
    assert "3 problems with tiny: 3 answered" in result.output
    assert "test-time compute: 100 tokens a problem, 300 in all" in result.output
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.jsonl"]


def test_it_goes_on_after_a_kill_and_makes_no_call_twice(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 6), tmp_path / "a.jsonl"

    def slow_at_the_end(request: dict[str, Any], number: int) -> Script:
        return Script(content=f"</think>{number}", delay_seconds=0 if number < 17 else 600)

    with in_thread(slow_at_the_end) as server:
        command = [sys.executable, "-m", "pacore_rl", "infer", str(source), "--endpoint", server.url, "--level", "4"]
        command += ["-o", str(out), "--max-open-calls", "4"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(server.requests) < 18:
            time.sleep(0.02)
        time.sleep(0.1)  # what was answered reaches the journal
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        before = len(lines(out)) if out.exists() else 0
        num_answered = 17
        assert 0 < before < 6
        with out.open("a") as file:
            file.write('{"schema_version":1,"id":"p')  # as if it had been killed within a line
        server.answer = numbered
        first_run = len(server.requests)
        result = infer(source, "--endpoint", server.url, "--level", "4", "-o", out, "--max-open-calls", 4)
        assert result.exit_code == 0, result.output
        assert len(server.requests) - first_run == 6 * 5 - num_answered
    assert sorted(record["id"] for record in lines(out)) == [f"p{i}" for i in range(6)]
    assert f"from before: {before} problems, {num_answered - 5 * before} calls of others" in result.output


def test_a_problem_that_failed_is_typed_and_tried_again(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 2), tmp_path / "a.jsonl"

    def fails(request: dict[str, Any], number: int) -> Script:
        return Script(status=400, error="no") if "0 + 1" in str(request) else Script(content="</think>1")

    with in_thread(fails) as server:
        result = infer(source, "--endpoint", server.url, "--level", "2", "-o", out)
        failed = next(record for record in lines(out) if record["id"] == "p0")
        assert result.exit_code == 0 and "1 answered, 1 failed" in result.output
        assert (failed["outcome"], failed["answer"]) == ("failed", None) and "400: no" in failed["error"]
        server.answer = numbered
        result = infer(source, "--endpoint", server.url, "--level", "2", "-o", out)
    assert "2 problems with tiny: 2 answered" in result.output
    assert [record["outcome"] for record in lines(out)] == ["answered", "answered"]


def test_nothing_but_failures_is_no_success(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 2), tmp_path / "a.jsonl"
    with in_thread(lambda request, number: Script(status=400, error="no")) as server:
        result = infer(source, "--endpoint", server.url, "--level", "2", "-o", out)
    assert result.exit_code == 1 and "Every problem failed" in result.stderr
    assert [record["outcome"] for record in lines(out)] == ["failed", "failed"]


def first_round_fails(num: int, script: Script) -> Callable[[dict[str, Any], int], Script]:
    """Of one problem at level 4: ``num`` calls of its first round get ``script``; the closing one is answered."""
    return lambda request, number: script if number < num else numbered(request, number)


@pytest.mark.parametrize("num_failed", [4, 1])
@pytest.mark.parametrize("release", ["this", "an earlier"])
@pytest.mark.parametrize("status", [500, 400])
def test_an_answer_beside_failed_calls_says_so_and_is_tried_again(
    tmp_path: Path, num_failed: int, release: str, status: int
) -> None:
    source, out = questions(tmp_path / "q.jsonl", 1), tmp_path / "a.jsonl"
    with in_thread(first_round_fails(num_failed, Script(status=status))) as server:
        command = [source, "--endpoint", server.url, "--level", "4", "-o", out, "--retries", "0"]
        result = infer(*command)
        assert result.exit_code == 0 and "1 problems with tiny: 1 answered" in result.output
        assert "1 of them read fewer messages than their level says" in " ".join(result.output.split())
        (record,) = lines(out)
        assert (record["outcome"], record["num_failed"]) == ("answered", num_failed)
        assert record["rounds"][0]["finishes"].count("failed") == num_failed
        assert len(record["rounds"][1]["messages"]) == 4 - num_failed
        if release == "an earlier":
            del record["num_failed"]
            write(out, record)
        server.answer = numbered
        before = len(server.requests)
        result = infer(*command)
        assert result.exit_code == 0 and "of them read fewer" not in result.output
        assert len(server.requests) - before == num_failed + 1, "the others are replayed"
        (record,) = lines(out)
        assert (record["outcome"], record["num_failed"]) == ("answered", 0)
        assert len(record["rounds"][1]["messages"]) == 4
        assert not out.with_name("a.jsonl.calls.jsonl").exists()


@pytest.mark.parametrize(
    ("script", "finish"),
    [
        (Script(content="no end", finish="length"), "truncated"),
        (Script(status=400, error="the context length is exceeded"), "overflow"),
    ],
)
def test_what_is_the_models_own_in_a_round_is_not_tried_again(tmp_path: Path, script: Script, finish: str) -> None:
    source, out = questions(tmp_path / "q.jsonl", 1), tmp_path / "a.jsonl"
    with in_thread(first_round_fails(4, script)) as server:
        for _ in range(2):
            result = infer(source, "--endpoint", server.url, "--level", "4", "-o", out)
            assert result.exit_code == 0 and "of them read fewer" not in result.output
        (record,) = lines(out)
        assert record["rounds"][0]["finishes"] == [finish] * 4 and record["num_failed"] == 0
        assert len(server.requests) == 5


@pytest.mark.parametrize("num_failed", [4, 1])
def test_an_endpoint_that_was_away_in_a_first_round_stops_the_run(tmp_path: Path, num_failed: int) -> None:
    """The closing call is answered: its answer would have read what the others left."""
    source, out = questions(tmp_path / "q.jsonl", 1), tmp_path / "a.jsonl"
    with in_thread(first_round_fails(num_failed, Script(status=401, error="revoked"))) as server:
        command = [source, "--endpoint", server.url, "--level", "4", "-o", out]
        result = infer(*command)
        assert result.exit_code == 2 and "revoked" in result.stderr
        assert "give the same command again" in " ".join(result.stderr.split())
        assert not out.exists()
        assert len(server.requests) == 5
        result = infer(*command)
        assert result.exit_code == 0 and len(server.requests) == 5 + num_failed + 1
    (record,) = lines(out)
    assert record["num_failed"] == 0 and len(record["rounds"][1]["messages"]) == 4


def test_a_file_of_other_settings_is_not_mixed(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 1), tmp_path / "a.jsonl"
    with in_thread(numbered) as server:
        infer(source, "--endpoint", server.url, "--level", "2", "-o", out)
        result = infer(source, "--endpoint", server.url, "--level", "3", "--seed", "1", "-o", out)
    assert result.exit_code == 2
    assert "other settings (configuration, seed)" in result.stderr
    assert len(lines(out)) == 1


def test_an_id_that_means_another_question_now_is_refused(tmp_path: Path) -> None:
    """Without ids, a line put in front moves all others by one."""
    out = tmp_path / "a.jsonl"
    first = write(tmp_path / "q.jsonl", {"prompt": "1 + 1?"}, {"prompt": "2 + 1?"})
    with in_thread(numbered) as server:
        assert infer(first, "--endpoint", server.url, "--level", "2", "-o", out).exit_code == 0
        before = out.read_bytes()
        write(first, {"prompt": "0 + 1?"}, {"prompt": "1 + 1?"}, {"prompt": "2 + 1?"})
        result = infer(first, "--endpoint", server.url, "--level", "2", "-o", out)
    assert result.exit_code == 2 and "answers another question under the id 'req_" in result.stderr
    assert out.read_bytes() == before


def test_lines_of_questions_that_are_not_asked_now_stay(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 2), tmp_path / "a.jsonl"
    other = write(tmp_path / "other.jsonl", {"id": "z", "prompt": "9 + 1?"})
    with in_thread(first_round_fails(1, Script(status=400, error="no"))) as server:
        infer(source, "--endpoint", server.url, "--level", "4", "-o", out, "--max-open-calls", 1)
        (failed,) = (record for record in lines(out) if record["num_failed"])
        infer(other, "--endpoint", server.url, "--level", "4", "-o", out)
        assert failed in lines(out) and sorted(record["id"] for record in lines(out)) == ["p0", "p1", "z"]
        infer(source, "--endpoint", server.url, "--level", "4", "-o", out)
    assert sorted(record["id"] for record in lines(out)) == ["p0", "p1", "z"]
    assert not any(record["num_failed"] for record in lines(out))


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """Without a line's end at its end, it would look like what a crash leaves."""
    source = questions(tmp_path / "q.jsonl", 1)
    source.write_bytes(source.read_bytes().rstrip())
    (other := tmp_path / "other.json").write_bytes(b'{"precious": 1}')
    for out in (other, source):
        before = out.read_bytes()
        with in_thread(numbered) as server:
            result = infer(source, "--endpoint", server.url, "-o", out)
        assert result.exit_code == 2 and "holds no answers of a batch" in result.output.replace("\n", " ")
        assert out.read_bytes() == before


def test_an_endpoint_that_goes_away_stops_the_run_and_keeps_what_was_done(tmp_path: Path) -> None:
    source, out = questions(tmp_path / "q.jsonl", 3), tmp_path / "a.jsonl"

    with in_thread() as server:
        key_is_revoked = Script(status=401, error="revoked")
        server.answer = lambda request, number: numbered(request, number) if number < 6 else key_is_revoked
        result = infer(source, "--endpoint", server.url, "--level", "4", "-o", out, "--max-open-calls", 1)
    assert result.exit_code == 2 and "give the same command again" in " ".join(result.stderr.split())
    assert [record["id"] for record in lines(out)] == ["p0"]


BAD: dict[str, tuple[Callable[[str, Path], list[Any]], str]] = {
    "an unknown level": (lambda url, q: [q, "--level", "ultra"], "low, medium, high"),
    "K of 0": (lambda url, q: [q, "--level", "[0]"], "every round takes 1 to 1,024"),
    "K of -1": (lambda url, q: [q, "--level", "[-1]"], "every round takes 1 to 1,024"),
    "K of 10,000": (lambda url, q: [q, "--level", "10000"], "every round takes 1 to 1,024"),
    "an unknown compaction": (lambda url, q: [q, "--compaction", "best"], "after_reasoning, none"),
    "a quorum above 1": (lambda url, q: [q, "--quorum", "2"], "must lie in (0, 1]"),
    "no user turn": (
        lambda url, q: [write(q, {"messages": [{"role": "assistant", "content": "hi"}]})],
        "line 1: the conversation has no user turn",
    ),
    "no question": (lambda url, q: [write(q, {"id": "p"})], "line 1: no question; give `prompt`"),
    "no JSON": (lambda url, q: [write(q, {"prompt": "a"}, ["b"])], "line 2 cannot be read"),
    "the same id twice": (lambda url, q: [write(q, *[{"id": "p", "prompt": "a"}] * 2)], "was already used in line 1"),
    "no file": (lambda url, q: [q.with_name("none.jsonl")], "must be a file that exists"),
    "a model that it lacks": (
        lambda url, q: [q, "--model", "big"],
        "does not serve the model 'big'; it serves ['tiny']",
    ),
    "a reserve above the window": (lambda url, q: [q, "--max-tokens", "5000"], "no prompt has room. Lower"),
    "a question above the window": (
        lambda url, q: [write(q, {"id": "long", "prompt": "word " * 4000})],
        "the question 'long' has 10,000 tokens",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_at_once_with_what_to_change(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    with in_thread() as server:
        server.tokens_per_byte = 0.5
        arguments = make(server.url, questions(tmp_path / "q.jsonl", 1))
        result = infer(*arguments, "--endpoint", server.url, "-o", tmp_path / "a.jsonl")
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert not server.requests and not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:1/v1", "cannot be reached"),
        ("127.0.0.1:8000", "is no address of a server"),
    ],
)
def test_an_endpoint_that_is_not_there_is_told_at_once(tmp_path: Path, endpoint: str, message: str) -> None:
    result = infer(questions(tmp_path / "q.jsonl", 1), "--endpoint", endpoint, "-o", tmp_path / "a.jsonl")
    assert result.exit_code == 2 and message in result.stderr


def test_the_released_scripts_questions_are_read(tmp_path: Path) -> None:
    source = write(
        tmp_path / "q.jsonl",
        {
            "id": "math_001",
            "messages": [{"role": "user", "content": "What is the sum of all integers from 1 to 100?"}],
            "ground_truth": {"answer": "5050"},
            "category": "math",
        },
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]},
        {"prompt": "2 + 2?"},
    )
    loaded = load_questions(source)
    assert [question.id for question in loaded] == ["math_001", "req_1", "req_2"]
    assert loaded[0].messages[0]["content"].startswith("What is the sum")
    assert loaded[2].messages == ({"role": "user", "content": "2 + 2?"},)
