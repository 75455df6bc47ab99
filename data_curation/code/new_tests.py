"""New tests by generators that a model writes, validated against known solutions (paper, Appendix C).

    model -> generator -> sandbox -> input -> right solutions, which must all agree -> expected output
                                                 -> wrong solutions -> kept when one fails

The model is asked for another generator, and told what became of the last one's inputs, while wrong solutions still
pass or tests are too few. Nothing that the model writes is run outside of the sandbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data_curation.chat import ChatModel
from data_curation.code.solutions import Runs, opened
from pacore_rl.config_endpoints import CodeCurationConfig
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.building import CompileError
from pacore_rl.rewards.code.checkers import checker_named, compare
from pacore_rl.rewards.code.external import open_checker
from pacore_rl.rewards.code.grading import Budget
from pacore_rl.rewards.code.source import Program, last_program
from pacore_rl.rewards.code.suite import TestCase, TestSuite
from pacore_rl.types import Turn

PROMPT = (Path(__file__).parents[1] / "prompts" / "test_generator.txt").read_text(encoding="utf-8")
MAX_EXAMPLE_CHARACTERS = 2_000
GENERATOR_BUDGET = Budget(test_seconds=10.0, submission_seconds=120.0)

Fate = Literal["kept", "too easy", "invalid", "disagreement", "duplicate", "no input", "too large"]
"""What became of one input.

kept          right solutions agree, and a wrong one fails
too easy      right solutions agree, and no wrong one fails
invalid       a right solution crashes, prints nothing or runs out of time on it
disagreement  right solutions print different outputs
duplicate     it is there already
no input      the generator crashed, ran out of time or printed nothing
too large     beyond ``max_test_bytes``
"""
Agree = Callable[[str, bytes, bytes], str | None]
"""(input, expected output, another output): what is wrong, or None."""


@dataclass(slots=True, kw_only=True)
class NewTests:
    """What came of asking for new tests."""

    tests: list[TestCase] = field(default_factory=list[TestCase])
    fates: Counter[Fate] = field(default_factory=Counter["Fate"])
    num_replies: int = 0
    num_unusable: int = 0
    """Replies without a Python program, or with one that does not compile."""
    survivors: set[int] = field(default_factory=set[int])
    """Numbers of the wrong solutions that pass every test, the new ones included."""
    failure: str = ""
    """Why the model was not asked further."""

    @property
    def feedback(self) -> str:
        """What the model is told; empty before its first reply."""
        if not self.num_replies:
            return ""
        inputs = ", ".join(f"{count} {fate}" for fate, count in self.fates.most_common()) or "none"
        return (
            f"You have written {self.num_replies} generators before, of which {self.num_unusable} could not be run. "
            f"Their inputs so far: {inputs}. {len(self.survivors)} wrong programs still pass every test. Write another "
            "generator, with inputs of other kinds.\n\n"
        )


async def new_tests(
    statement: str,
    suite: TestSuite,
    *,
    right: Sequence[Program],
    wrong: Sequence[Program],
    survivors: Sequence[Program],
    model: ChatModel,
    backend: Backend,
    budget: Budget,
    config: CodeCurationConfig,
) -> NewTests:
    """Tests to add to a suite of kind stdin whose right solutions pass.

    Args:
        survivors: those of ``wrong`` that pass every test there is.

    Raises ``SandboxError`` for failures of ours; a model that does not answer is told in ``failure``.
    """
    assert suite.kind == "stdin", "inputs are generated for standard input"
    made = NewTests(survivors={wrong.index(program) for program in survivors})
    settings = config.writer
    with ExitStack() as stack:
        # Every solution waits in a sandbox of its own: an input costs a run, not a start or a compilation.
        right_runs = [stack.enter_context(opened(program, suite, backend, budget)) for program in right]
        wrong_runs = [stack.enter_context(opened(program, suite, backend, budget)) for program in wrong]
        agree = _agreement(suite, backend, stack)
        for number in range(settings.rounds):
            if not _is_wanted(made, suite, config):
                break
            prompt = prompt_for(statement, suite, made.feedback, config)
            reply = await model.reply((Turn(role="user", content=prompt),), seed=number)
            if reply.failure:
                made.failure = reply.failure
                break
            made.num_replies += 1
            program = last_program(reply.text)
            if isinstance(program, str) or program.language != "python":
                made.num_unusable += 1
                continue
            try:
                with opened(program, _without_limits(suite), backend, GENERATOR_BUDGET) as generator:
                    for seed in range(settings.seeds_per_generator):
                        if len(made.tests) >= settings.max_new_tests:
                            break
                        given, fate = _generate(generator, seed, suite, made, config)
                        if fate is None:
                            fate = _validate(given, right_runs, wrong_runs, agree, made, config)
                        made.fates[fate] += 1
            except CompileError:
                made.num_unusable += 1
    return made


def prompt_for(statement: str, suite: TestSuite, feedback: str, config: CodeCurationConfig) -> str:
    """What the model is asked."""
    example = min((test.input for test in suite.tests), key=len, default="(there is none)")
    text = PROMPT.format(
        statement=statement,
        example=example[:MAX_EXAMPLE_CHARACTERS],
        feedback=feedback,
        max_bytes=config.max_test_bytes,
    )
    return text.encode(errors="replace").decode()


def _is_wanted(made: NewTests, suite: TestSuite, config: CodeCurationConfig) -> bool:
    """Whether wrong solutions still pass, or tests are too few, and there is room for more."""
    if len(made.tests) >= config.writer.max_new_tests:
        return False
    return bool(made.survivors) or len(suite.tests) + len(made.tests) < config.min_tests


def _generate(
    generator: Runs, seed: int, suite: TestSuite, made: NewTests, config: CodeCurationConfig
) -> tuple[str, Fate | None]:
    """An input, and what became of it where that is clear already."""
    ran = generator(f"{seed}\n")
    if ran.ending != "ended" or not ran.output.strip():
        return "", "no input"
    if len(ran.output) > config.max_test_bytes:
        return "", "too large"
    try:
        given = ran.output.decode()
    except UnicodeDecodeError:
        return "", "no input"
    known = {test.input.strip() for test in (*suite.tests, *made.tests)}
    return given, "duplicate" if given.strip() in known else None


def _validate(
    given: str,
    right: Sequence[Runs],
    wrong: Sequence[Runs],
    agree: Agree,
    made: NewTests,
    config: CodeCurationConfig,
) -> Fate:
    """Run an input through the known solutions, and keep it if it is worth it."""
    outputs: list[bytes] = []
    for run in right:
        ran = run(given)
        if ran.ending != "ended" or not ran.output.strip():
            return "invalid"
        outputs.append(ran.output)
    if any(agree(given, outputs[0], output) is not None for output in outputs):
        return "disagreement"
    if len(outputs[0]) > config.max_test_bytes:
        return "too large"
    failing: set[int] = set()
    for number, run in enumerate(wrong):
        ran = run(given)
        if ran.ending != "ended" or agree(given, outputs[0], ran.output) is not None:
            failing.add(number)
    if not failing:
        return "too easy"
    made.tests.append(TestCase(input=given, output=outputs[0].decode(errors="surrogateescape")))
    made.survivors -= failing
    return "kept"


def _agreement(suite: TestSuite, backend: Backend, stack: ExitStack) -> Agree:
    """How outputs are compared: by the suite's checker program, or by its named checker."""
    if suite.checker_program is None:
        checker = checker_named(suite.checker)
        return lambda given, expected, got: compare(checker, expected, got)
    program = stack.enter_context(open_checker(suite.checker_program, backend))

    def agree(given: str, expected: bytes, got: bytes) -> str | None:
        share, said = program.share(given.encode(errors="surrogatepass"), got, expected)
        return None if share == 1 else said

    return agree


def _without_limits(suite: TestSuite) -> TestSuite:
    """A generator's time and memory are not the problem's."""
    return replace(suite, time_limit_seconds=None, memory_limit_mib=None)
