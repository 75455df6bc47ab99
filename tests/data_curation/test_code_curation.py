"""Coding problems through their checks: the model is scripted, the sandbox is real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_fakes import Script, ScriptedModel, down

from data_curation.chat import EndpointDown
from data_curation.code import statement_rules, suite_rules
from data_curation.code.new_tests import prompt_for
from data_curation.code.pipeline import SANDBOX_STEP, CodeFilter, Finding, check
from data_curation.code.solutions import choose_checker, runnable
from data_curation.records import Candidate, Solution
from pacore_rl.append_log import KeyedLog
from pacore_rl.config import RewardConfig
from pacore_rl.config_endpoints import CodeCurationConfig, WriterConfig
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.grading import Budget
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.sandbox import SandboxError
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import CheckerProgram, TestCase, TestSuite, suite_of
from pacore_rl.types import Problem, Turn

STATEMENT = "Read two integers a and b from the input, one a line, and print the larger of the two. |a|, |b| <= 100."
MAX = "a, b = int(input()), int(input())\nprint(max(a, b))"
IF = "a = int(input())\nb = int(input())\nprint(a if a > b else b)"
CPP = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << (a > b ? a : b) << std::endl; }"
ABS = "a, b = int(input()), int(input())\nprint(max(a, b, key=abs))"
"""Wrong where a negative number has the larger absolute value."""
FIRST = "a, b = int(input()), int(input())\nprint(a)"
TESTS = [("1\n2\n", "2\n"), ("7\n3\n", "7\n"), ("5\n9\n", "9\n")]
REWARD = RewardConfig(code_test_seconds=2.0)


@pytest.fixture(scope="module")
def backend() -> Backend:
    try:
        return choose_backend()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))


def suite(tests: Sequence[tuple[str, str]] = TESTS, **settings: Any) -> TestSuite:
    return TestSuite(tests=tuple(TestCase(input=given, output=output) for given, output in tests), **settings)


def candidate(
    tests: TestSuite | None = None,
    *,
    statement: str = STATEMENT,
    right: Sequence[str] = (MAX, IF),
    wrong: Sequence[str] = (FIRST,),
    id: str = "larger",
) -> Candidate:
    problem = Problem(
        id=id,
        conversation=(Turn(role="user", content=statement),),
        ground_truth=(tests or suite()).to_json(),
        reward="code",
    )
    solutions = [
        Solution(
            language="cpp" if "#include" in code else "python3",
            code=code,
            is_right=is_right,
            label="accepted" if is_right else "wrong_answer",
        )
        for is_right, codes in ((True, right), (False, wrong))
        for code in codes
    ]
    return Candidate(problem=problem, solutions=tuple(solutions))


def checked(one: Candidate, script: Script | None = None, **settings: Any) -> tuple[Finding, ScriptedModel]:
    model = ScriptedModel(script=script or (lambda prompt, seed: "no program"))
    config = CodeCurationConfig(**{"writer": WriterConfig(rounds=0 if script is None else 3), **settings})
    return check(one, config, REWARD, open_writer=model.opened), model


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("Print the larger one.", "code_length"),
        (STATEMENT + " <image>", "code_image"),
        (STATEMENT + "\nExamples\n\nInput\n\n1 2\n\nNote\n\n<image>", None),
        (STATEMENT + r" \includegraphics{graph}", "code_image"),
        (STATEMENT + " This is an interactive problem.", "code_interactive"),
        (STATEMENT + " If there are multiple solutions, print any of them.", "code_several_answers"),
        (STATEMENT + " You may output any valid colouring.", "code_several_answers"),
        ("Alice has a pile of stones and Bob has another. Who of them wins if both play well?", "code_no_format"),
        (STATEMENT, None),
        (STATEMENT + " In any case the numbers differ. If there are several test cases, they follow.", None),
    ],
)
def test_statements(statement: str, rule: str | None) -> None:
    found = statement_rules.first_reason(statement, suite())
    assert (found and found[0]) == rule


def test_statements_of_functions_must_name_them() -> None:
    calls = suite([("[1, 2]", "2")], kind="function", fn_name="bigger_of")
    named = "Write a function bigger_of(a, b) that returns the larger of two integers."
    assert statement_rules.first_reason(named, calls) is None
    assert statement_rules.first_reason(named.replace("bigger_of(", "biggest("), calls) == (
        "code_unnamed_function",
        "the statement does not name the function that its tests call (bigger_of)",
    )


def test_several_answers_are_fine_with_a_checker_program() -> None:
    program = CheckerProgram(language="python", source="")
    assert statement_rules.several_answers("Print any of them.", suite(checker_program=program)) is None


def test_tests_are_tidied_and_counted() -> None:
    config = CodeCurationConfig(max_tests=3, max_test_bytes=10)
    given = [("1", "1"), ("22", "2"), ("1", "1"), ("x" * 11, "1"), ("333", "3"), ("4", "4"), ("55555", "5")]
    assert [test.input for test in suite_rules.tidy(suite(given), config).tests] == ["1", "22", "4"]
    assert "tests 1 and 2 have the same input" in str(suite_rules.contradiction(suite([("1", "1"), ("1", "2")])))
    assert suite_rules.contradiction(suite([("1", "1"), ("1", "1\n")])) is None
    assert "it has 3 usable tests, at least 4" in str(suite_rules.too_weak(suite(), 4))
    assert "expect the same output ('NO')" in str(suite_rules.too_weak(suite([("1", "NO"), ("2", "NO\n")]), 2))


def test_a_sound_problem_stays_as_it_is(backend: Backend) -> None:
    one = candidate(right=(MAX, CPP))
    finding, _ = checked(one)
    assert finding == Finding(ground_truth=one.problem.ground_truth)


@pytest.mark.parametrize(
    ("one", "step", "reason"),
    [
        (candidate(right=(MAX, FIRST)), "code_right_solution_fails", "right solution 2 of 2 fails: 1 of 3 tests"),
        (candidate(right=("1 +", MAX)), "code_right_solution_fails", "does not compile"),
        (candidate(right=()), "code_no_solution", "no right solution"),
        (candidate(suite([*TESTS[:2], ("1\n2\n", "1\n")])), "code_tests", "same input and different outputs"),
        (candidate(suite(TESTS[:2])), "code_weak_tests", "it has 2 usable tests, at least 3"),
        (candidate(suite([("", ""), ("", "")])), "code_tests", "no test expects any output"),
        (candidate(statement="?"), "code_length", "has 1 characters"),
    ],
)
def test_an_unsound_problem_is_dropped_with_its_reason(
    backend: Backend, one: Candidate, step: str, reason: str
) -> None:
    finding, _ = checked(one)
    assert finding.step == step and reason in finding.reason


def test_unreadable_tests_are_a_drop() -> None:
    one = candidate().with_problem(ground_truth="{}")
    assert checked(one)[0].step == "code_unreadable_tests"


@pytest.mark.parametrize(
    ("program", "expected", "checker"),
    [
        ("print(input().upper())", "yes", "caseless"),
        ("print(input(), 1 / 3)", "yes 0.333333333", "tokens 1e-6"),
        ("input()\nprint(1 / 3, 2)", "0.3333333333333 2", "rcmp9"),
        ("input()\nprint(*sorted([3, 1, 2]))", "2 3 1", "uncmp"),
        ("print(input())", "no", None),
        ("print(1 / 0)", "yes", None),
    ],
)
def test_a_checker_is_chosen_from_the_outputs(
    backend: Backend, program: str, expected: str, checker: str | None
) -> None:
    tests = suite([("yes\n", expected)])
    right = [Program(language="python", source=program)]
    assert choose_checker(right, tests, backend, Budget()) == checker


def test_a_chosen_checker_becomes_the_problems(backend: Backend) -> None:
    lines = "n = int(input())\nprint('yes' if n % 2 else 'no')"
    tests = suite([("1\n", "YES"), ("2\n", "NO"), ("3\n", "YES")])
    finding, _ = checked(candidate(tests, right=(lines,), wrong=("print('YES')",)))
    assert not finding.step and finding.checker_changed
    assert suite_of(finding.ground_truth).checker == "caseless" and finding.num_wrong_passing == 0


def test_which_solutions_can_be_run() -> None:
    one = candidate(right=(MAX, MAX, IF, CPP), wrong=("",))
    java = Solution(language="java", code="class A {}", is_right=True, label="accepted")
    known = runnable((java, *one.solutions), suite(), max_right=3, max_wrong=3)
    assert [program.source for program in known.right] == [MAX, IF, CPP] and known.wrong == ()
    calls = suite([("[1]", "1")], kind="function", fn_name="f")
    assert len(runnable(one.solutions, calls, max_right=3, max_wrong=3).right) == 2


def generator(body: str) -> str:
    return f"Negative numbers.\n```python\nseed = int(input())\n{body}\n```"


def test_generated_inputs_are_kept_where_right_ones_agree_and_a_wrong_one_fails(backend: Backend) -> None:
    """Seeds 0 and 1 catch the wrong program; 2 does not; 3 is no input of the problem; 4 repeats; 5 crashes."""
    inputs = ["-9\\n1", "3\\n-4", "8\\n2", "1", "-9\\n1", None, "", "x\\ny"]
    body = f"inputs = {inputs}\nprint(inputs[seed] if inputs[seed] is not None else 1 / 0)".replace("\\\\", "\\")
    one = candidate(wrong=(ABS,))
    assert checked(one)[0].num_wrong_passing == 1
    finding, model = checked(one, lambda prompt, seed: generator(body))
    assert finding.input_fates == {"kept": 2, "too easy": 1, "invalid": 2, "duplicate": 1, "no input": 2}
    assert (finding.num_new_tests, finding.num_wrong_passing) == (2, 0)
    new = suite_of(finding.ground_truth).tests[3:]
    assert [(test.input.split(), test.output.split()) for test in new] == [(["-9", "1"], ["1"]), (["3", "-4"], ["3"])]
    assert len(model.asked) == 1  # no wrong program passes any more


def test_the_model_is_told_what_became_of_its_inputs_and_asked_again(backend: Backend) -> None:
    replies = [
        "There is no program.",
        generator("print(seed + 1, 1, sep='\\n')"),
        generator("print(-50 - seed, 1, sep='\\n')"),
    ]
    finding, model = checked(candidate(wrong=(ABS,)), lambda prompt, seed: replies[seed])
    assert [seed for _, seed in model.asked] == [0, 1, 2]
    assert "before" not in model.asked[0][0] and STATEMENT in model.asked[0][0]
    assert "written 1 generators before, of which 1 could not be run" in model.asked[1][0]
    assert "8 too easy. 1 wrong programs still pass" in model.asked[2][0]
    assert finding.num_wrong_passing == 0 and finding.input_fates == {"too easy": 8, "kept": 8}


def test_inputs_on_which_right_solutions_disagree_are_no_tests(backend: Backend) -> None:
    ties = "a, b = int(input()), int(input())\nprint(max(a, b) if a * b >= 0 else 0)"
    finding, _ = checked(
        candidate(right=(MAX, ties), wrong=(ABS,)), lambda prompt, seed: generator("print(-50 - seed, 1, sep='\\n')")
    )
    assert finding.input_fates == {"disagreement": 24} and finding.num_new_tests == 0


def test_hostile_generators_end_within_their_limits(backend: Backend) -> None:
    script = ["while True: print('x' * 1000)", "import os\nos.fork()\nprint(open('/etc/passwd').read())", "print('1')"]
    finding, _ = checked(
        candidate(wrong=(ABS,)),
        lambda prompt, seed: generator(script[seed]),
        writer=WriterConfig(rounds=3, seeds_per_generator=1),
    )
    assert not finding.step and finding.num_new_tests == 0
    assert sum(finding.input_fates.values()) == 3 and set(finding.input_fates) <= {"no input", "invalid", "too large"}


def test_too_few_right_solutions_or_no_wrong_one_make_no_tests(backend: Backend) -> None:
    for one in (candidate(right=(MAX,), wrong=(ABS,)), candidate(wrong=())):
        finding, model = checked(one, lambda prompt, seed: generator("print(-9, 1, sep='\\n')"))
        assert not model.asked and finding.num_new_tests == 0


def test_the_prompt_takes_statements_with_braces() -> None:
    text = prompt_for("Read {a_i}.", suite(), "", CodeCurationConfig())
    assert "Read {a_i}." in text and "1\n2" in text


def code_filter(tmp_path: Path, **settings: Any) -> CodeFilter:
    return CodeFilter(CodeCurationConfig(**settings), REWARD, KeyedLog.open(tmp_path / "code.jsonl"))


def test_the_filter_keeps_drops_and_remembers(backend: Backend, tmp_path: Path) -> None:
    maths = replace(candidate(id="maths"), problem=replace(candidate().problem, id="maths", reward="math"))
    batch = [candidate(id="good"), maths, candidate(id="bad", right=(FIRST,))]
    sifted = code_filter(tmp_path)(batch)
    assert [one.id for one in sifted.kept] == ["good", "maths"]
    assert [(one.id, one.step) for one in sifted.drops] == [("bad", "code_right_solution_fails")]

    class Nowhere:
        num_workers = 1

        def map(self, function: object, chunks: Any) -> Any:
            assert not list(chunks), "what is known is not checked again"
            return iter(())

    cache = KeyedLog.open(tmp_path / "code.jsonl")
    assert CodeFilter(CodeCurationConfig(), REWARD, cache, spread=Nowhere())(batch) == sifted


def test_a_broken_sandbox_and_a_silent_writer_stop_the_work_and_are_not_remembered(tmp_path: Path) -> None:
    class Failing:
        num_workers = 1

        def __init__(self, finding: Finding) -> None:
            self.finding = finding

        def map(self, function: object, chunks: Any) -> Any:
            return ([self.finding] for _ in chunks)

    batch = [candidate(id=str(i), statement=f"{STATEMENT} {i}") for i in range(4)]
    cache = KeyedLog.open(tmp_path / "code.jsonl")
    config = CodeCurationConfig(writer=WriterConfig(max_failures_in_a_row=4))
    broken = Failing(Finding(ground_truth="", step=SANDBOX_STEP, reason="no memory"))
    with pytest.raises(SandboxError, match=r"4 of 4 problems.*no memory.*code\.jsonl"):
        CodeFilter(config, REWARD, cache, spread=broken)(batch)
    silent = Failing(Finding(ground_truth=suite().to_json(), writer_failure=down().failure))
    with pytest.raises(EndpointDown, match=r"4 of 4 problems.*nobody listens.*writer\.rounds=0"):
        CodeFilter(config, REWARD, cache, spread=silent)(batch)
    assert len(cache) == 0
