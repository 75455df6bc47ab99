"""Grading in real sandboxes: what a program earns, and who is to blame where it earns nothing."""

from __future__ import annotations

import json
import threading
import time

import pytest

from pacore_rl.config import RewardConfig
from pacore_rl.rewards.code import backends, probe
from pacore_rl.rewards.code.backends import BACKENDS, Backend
from pacore_rl.rewards.code.building import cpp_complaint
from pacore_rl.rewards.code.grading import Budget, Grade, grade
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import CheckerProgram, Language, TestCase, TestSuite
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.scorer import LocalScorer
from pacore_rl.types import Problem, Turn

SUM = TestSuite(tests=tuple(TestCase(input=f"{n} 2\n", output=f"{n + 2}\n") for n in range(8)))
ADD = "a, b = map(int, input().split())\nprint(a + b)"
CPP_ADD = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"


pytestmark = pytest.mark.usefixtures("backend")


def graded(source: str, suite: TestSuite = SUM, language: Language = "python", **budget: float) -> Grade:
    limits = Budget(**budget)  # pyright: ignore[reportArgumentType]
    return grade(Program(language=language, source=source), suite, choose_backend(), limits)


def test_the_share_of_tests_is_the_reward() -> None:
    assert graded(ADD).passed == 8
    half = graded("a, b = map(int, input().split())\nprint(a + b if a < 4 else 0)")
    assert (half.outcome, half.passed, half.total) == ("scored", 4, 8)
    assert half.reason == "4 of 8 tests passed; test 5: word 1: '0', expected '6'"
    broken = graded("print(")
    assert (broken.outcome, broken.passed) == ("scored", 0)
    assert "does not compile: SyntaxError" in broken.reason


@pytest.mark.parametrize("ending", ["exit()", "quit()", "exit(0)", "import sys; sys.exit(0)"])
def test_a_program_that_ends_itself_is_right(ending: str) -> None:
    assert graded(f"{ADD}\n{ending}\nprint('more')").passed == 8
    assert graded(f"{ADD}\nexit(1)").reason == "0 of 8 tests passed; test 1: exit code 1"


def test_a_stream_of_its_own_is_written_out_at_the_end() -> None:
    """Contest programs bring buffers that nobody flushes: the interpreter does when it ends."""
    buffered = (
        "import io, os\n"
        "class Buffer(io.IOBase):\n"
        "    kept = b''\n"
        "    def write(self, text): self.kept += text.encode()\n"
        "    def flush(self): os.write(1, self.kept); self.kept = b''\n"
        "out = Buffer()\n" + ADD.replace("print(a + b)", "out.write(str(a + b))")
    )
    assert graded(buffered).passed == 8


def test_a_stream_put_in_place_of_standard_output() -> None:
    kept = "import atexit, io, sys\nsys.stdout = io.StringIO()\n"
    kept += "atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))\n"
    assert graded(kept + ADD).passed == 8
    assert (
        graded("import sys\nwith sys.stdout as out:\n    print(sum(map(int, input().split())), file=out)").passed == 8
    )


def test_a_function_called_check_is_checked() -> None:
    asserted = TestSuite(
        kind="check",
        fn_name="check",
        tests=tuple(TestCase(input=f"assert check({n}) == {n + 1}", output="") for n in (1, 2)),
    )
    assert graded("def check(n): return n + 1", asserted).passed == 2
    assert graded("def check(n): return 2", asserted).passed == 1
    defined = "def check(candidate):\n    assert candidate(1) == 2"
    called = TestSuite(kind="check", fn_name="check", tests=(TestCase(input=defined, output=""),))
    assert graded("def check(n): return n + 1", called).passed == 1


@pytest.mark.parametrize("name", BACKENDS)
def test_cpp(name: Backend) -> None:
    if complaint := backends.obstacle(name) or cpp_complaint():
        pytest.skip(complaint)

    def cpp(source: str) -> Grade:
        return grade(Program(language="cpp", source=source), SUM, name)

    assert cpp("#include <bits/stdc++.h>\n" + CPP_ADD).passed == 8
    assert "does not compile" in cpp("int main() {").reason
    leaking = cpp('#include "/etc/passwd"\nint main() {}')
    assert "passwd" in leaking.reason and "root:" not in leaking.reason
    assembled = 'asm(".incbin \\"/etc/passwd\\"");\n' + CPP_ADD
    assert cpp(assembled).passed == 0


def test_a_program_that_loops_is_stopped_with_a_fixed_denominator() -> None:
    slow = graded(ADD + "\nwhile a > 2: pass", test_seconds=1.0)
    assert (slow.outcome, slow.passed, slow.total) == ("timeout", 3, 8)
    assert "stopped after 3 timeouts" in slow.reason
    spent = graded("import time\n" + ADD + "\nwhile time.process_time() < 0.6: pass", submission_seconds=1.0)
    assert spent.outcome == "timeout" and 1 <= spent.passed <= 3


def test_function_calls_are_compared_outside() -> None:
    suite = TestSuite(
        kind="function",
        fn_name="pair",
        tests=(
            TestCase(input='[[1, 2], {"a": 2}]', output='[3, {"b": 2}]'),
            TestCase(input='[[0.5], {"a": null}]', output='[0.5, {"b": null}]'),
        ),
    )
    solution = "class Solution:\n    def pair(self, xs: List[int], d):\n        print('noise')\n"
    assert graded(solution + "        return sum(xs), {'b': d['a']}", suite).passed == 2
    assert graded("def pair(xs, d): return [3, {'b': 2}]", suite).passed == 1
    assert graded("def other(xs, d): return 1", suite).reason.endswith("the code defines no function pair")
    assert graded("def pair(xs, d):\n    import os; os._exit(0)", suite).passed == 0


def test_checks_never_share_a_process_with_the_code() -> None:
    check = "def check(candidate):\n    secret = 'EXPECTED'\n    assert candidate((1, 2), {3}) == ({3}, 1.5)\n"
    suite = TestSuite(kind="check", fn_name="f", tests=(TestCase(input=check, output=""),))
    assert graded("def f(a, b): return b, sum(a) / 2", suite).passed == 1
    wrong = graded("def f(a, b): return [b, 1.5]", suite)
    assert (wrong.outcome, wrong.passed) == ("scored", 0)  # a list is no tuple
    walk = (
        "import sys, gc\ndef f(a, b):\n    fs = [sys._getframe()]\n    while fs[-1].f_back: fs.append(fs[-1].f_back)\n"
    )
    walk += "    assert not any('EXPECTED' in repr(x.f_locals) for x in fs), 'LEAK'\n    1 / 0"
    assert "ZeroDivisionError" in graded(walk, suite).reason


CHECKER = """import sys
given, output, answer = (open(path).read() for path in sys.argv[1:])
try: a, b = map(int, output.split())
except ValueError: sys.exit(2)
if a + b != int(given): print("not the sum", file=sys.stderr); sys.exit(1)
"""


def test_checker_programs() -> None:
    program = CheckerProgram(language="python", source=CHECKER)
    suite = TestSuite(
        tests=(TestCase(input="5", output="2 3"), TestCase(input="7", output="3 4")), checker_program=program
    )
    assert graded("n = int(input()); print(1, n - 1)", suite).passed == 2
    assert "not the sum" in graded("print(1, 4)", suite).reason
    assert graded("print('x')", suite).passed == 0
    partial = CheckerProgram(language="python", source="import sys\nprint('points 0.25')\nsys.exit(7)")
    assert graded("print(1)", TestSuite(tests=suite.tests, checker_program=partial)).passed == 0.5
    chatty = CheckerProgram(language="python", source="import sys\nprint('test 3 of 4')\nsys.exit(7)")
    assert graded("print(1)", TestSuite(tests=suite.tests, checker_program=chatty)).outcome == "failed"
    crashing = CheckerProgram(language="python", source="1 / 0")
    assert graded("print(1)", TestSuite(tests=suite.tests, checker_program=crashing)).outcome == "failed"


def problem(suite: TestSuite, name: str = "p") -> Problem:
    turns = (Turn(role="user", content="?"),)
    return Problem(id=name, conversation=turns, ground_truth=suite.to_json(), reward="code")


def test_verdicts_through_the_scorer() -> None:
    scorer = LocalScorer(RewardConfig(num_workers=2), "</think>")
    try:
        responses = [
            "<think>```python\nprint(0)\n```</think>It is\n```python\n" + ADD + "\n```",
            "</think>```\nprint(2)\n```",
        ]
        responses += ["</think>no code"]
        items = [(problem(SUM), response, "stopped") for response in responses]
        full, part, none = scorer.score([*items]).result()  # pyright: ignore[reportArgumentType]
    finally:
        scorer.close()
    assert (full.reward, full.correct, full.outcome) == (1.0, True, "scored")
    assert (part.reward, part.correct, part.outcome) == (0.125, False, "scored")
    assert (none.reward, none.outcome, none.reason) == (0.0, "unparsed", "no fenced code block")


def test_a_failure_of_ours_is_no_zero() -> None:
    failing = CheckerProgram(language="python", source="import sys; sys.exit(3)")
    suite = TestSuite(tests=SUM.tests, checker_program=failing)
    scorer = LocalScorer(RewardConfig(num_workers=1), "")
    try:
        (verdict,) = scorer.score([(problem(suite), "```\nprint(1)\n```", "stopped")]).result()
    finally:
        scorer.close()
    assert verdict.outcome == "sandbox_error" and "exit code 3" in verdict.reason


def test_closing_a_scorer_does_not_wait_for_its_programs() -> None:
    before = set(threading.enumerate())
    scorer = LocalScorer(RewardConfig(num_workers=1, code_test_seconds=30.0), "")
    pending = scorer.score([(problem(SUM), "```\nwhile True: pass\n```", "stopped")])
    time.sleep(1.0)
    started = time.monotonic()
    scorer.close()
    assert time.monotonic() - started < 5
    (verdict,) = pending.result()
    assert verdict.outcome == "sandbox_error" and "closed" in verdict.reason
    assert set(threading.enumerate()) <= before


FORGERIES = {
    "the runner's exit code": "import os; os._exit(125)",
    "a kill": "import ctypes, os\nctypes.CDLL(None).syscall(234, os.getpid(), os.getpid(), 9)",
    "a limit": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nprint(3)",
    "a nest": "x = " + "(" * 5000 + ")" * 5000,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_program_cannot_pass_its_failure_off_as_ours(name: str) -> None:
    """A sample that is masked out costs its writer nothing, and enough of them stop a run."""
    found = graded(FORGERIES[name])
    assert found.outcome == "scored" and found.passed < found.total, found.reason


def test_a_machine_without_a_sandbox_is_told_at_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no bwrap
    monkeypatch.setattr(probe, "_chosen", {})
    monkeypatch.setattr(probe, "_refused", {})
    told = check_ground_truths([problem(SUM, "first"), problem(SUM, "second")], RewardConfig(sandbox="bubblewrap"))
    assert [wrong.id for wrong, _ in told] == ["first", "second"]
    first, second = (reason for _, reason in told)
    assert "none holds on this machine" in first and "`bwrap` is not installed" in first
    assert "apt-get install bubblewrap" in first and "reward.unsafe_local=true" in first
    assert second == "reward 'code' cannot be used, as told of the first problem that asks for it"


def test_tests_that_cannot_be_used_are_told_at_load() -> None:
    tests = SUM.tests
    bad = {
        "unknown": TestSuite(tests=tests, checker="wcpm"),
        "refused": TestSuite(tests=(TestCase(input="1", output="maybe"),), checker="yesno"),
        "silent": TestSuite(tests=(TestCase(input="1", output=" "),)),
        "crashes": TestSuite(tests=tests, checker_program=CheckerProgram(language="python", source="1 / 0")),
        "refuses": TestSuite(tests=tests, checker_program=CheckerProgram(language="python", source="exit(1)")),
    }
    later = 'import sys\nif "4 5" in open(sys.argv[1]).read():\n    1 / 0'
    bad["crashes later"] = TestSuite(
        tests=(TestCase(input="1 2", output="3"), TestCase(input="4 5", output="9")),
        checker_program=CheckerProgram(language="python", source=later),
    )
    bad["broken"] = TestSuite(kind="check", fn_name="f", tests=(TestCase(input="assert f(", output=""),))
    bad["set-up"] = TestSuite(
        kind="check", fn_name="f", setup="Write f.", tests=(TestCase(input="assert f()", output=""),)
    )
    bad["arguments"] = TestSuite(kind="function", fn_name="f", tests=(TestCase(input="1", output="1"),))
    problems = [problem(SUM, "good"), *(problem(suite, name) for name, suite in bad.items())]
    problems.append(
        Problem(id="empty", conversation=problems[0].conversation, ground_truth=json.dumps([]), reward="code")
    )
    found = {wrong.id: reason for wrong, reason in check_ground_truths(problems)}
    assert found.keys() == {*bad, "empty"}
    assert "unknown checker 'wcpm'" in found["unknown"]
    assert "refuses the expected output of test 1 itself" in found["refused"]
    assert "the checker program failed" in found["crashes"]
    assert "on the expected output of test 2 itself" in found["crashes later"]
    assert "test 1 cannot be read" in found["broken"]
    assert "set-up" in found["set-up"] and "no list" in found["arguments"]
