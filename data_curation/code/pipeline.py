"""One coding problem through all checks, and the filter for many: in-process, on this machine's cores or on Ray.

    statement rules -> tidy tests -> known solutions, checker -> new tests -> strong enough?

What was found of a problem is remembered on disk by everything it depends on, so that a killed run goes on. A failure
of the sandbox or of the endpoint is remembered by nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data_curation.chat import EndpointDown, OpenModel
from data_curation.code.new_tests import NewTests, new_tests
from data_curation.code.solutions import Judged, Runnable, judge, runnable
from data_curation.code.statement_rules import first_reason
from data_curation.code.suite_rules import contradiction, tidy, too_weak
from data_curation.endpoints import open_model
from data_curation.records import Candidate, Drop, Progress, Sifted, drop, unwatched
from pacore_rl.append_log import KeyedLog
from pacore_rl.config import RewardConfig
from pacore_rl.config_endpoints import CodeCurationConfig, WriterConfig
from pacore_rl.config_rewards import CODE_LIMITS
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.reward import budget_of, inspect_suite
from pacore_rl.rewards.code.sandbox import SandboxError
from pacore_rl.rewards.code.suite import TestSuite, suite_of
from pacore_rl.spread import InProcess, Spread

NAME = "code"
VERSION = 1
"""Of the checks: a change of what they decide forgets what was remembered."""
SANDBOX_STEP = "code_sandbox"
MAX_SANDBOX_FAILED_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one coding problem."""

    ground_truth: str
    """Its tests as they are now, with the checker that was chosen and the new tests; where it is dropped, as given."""
    step: str = ""
    """What dropped it; empty where it stays."""
    reason: str = ""
    checker_changed: bool = False
    num_new_tests: int = 0
    num_wrong_passing: int = 0
    """Known wrong solutions that pass all tests in the end: each is a way to be rewarded for a wrong program."""
    input_fates: dict[str, int] = field(default_factory=dict[str, int])
    """Generated inputs by what became of them (see ``new_tests.Fate``)."""
    writer_failure: str = ""
    """Why the writer of tests did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A chunk's work, as it travels to another process."""

    candidates: tuple[Candidate, ...]
    config: CodeCurationConfig
    reward: RewardConfig


def check_chunk(task: Task) -> list[Finding]:
    """Every finding of a chunk, in order: one task's work."""
    return [check(candidate, task.config, task.reward) for candidate in task.candidates]


def check(
    candidate: Candidate, config: CodeCurationConfig, reward: RewardConfig, *, open_writer: OpenModel | None = None
) -> Finding:
    """One coding problem through all checks.

    Args:
        open_writer: gives the writer of tests in place of the endpoints of ``config.writer``.

    Raises ValueError where no sandbox can be had here; what goes wrong in one is a finding at ``SANDBOX_STEP``.
    """
    given = candidate.problem.ground_truth
    try:
        suite = tidy(suite_of(given), config)
    except ValueError as error:
        return Finding(ground_truth=given, step="code_unreadable_tests", reason=str(error)[:300])
    backend = choose_backend(reward.sandbox, unsafe_local=reward.unsafe_local)
    try:
        return _check(candidate, suite, config, reward, backend, open_writer or _opener(config.writer))
    except (SandboxError, OSError) as error:
        return Finding(ground_truth=given, step=SANDBOX_STEP, reason=f"the sandbox failed: {error}"[:300])


def _check(
    candidate: Candidate,
    suite: TestSuite,
    config: CodeCurationConfig,
    reward: RewardConfig,
    backend: Backend,
    open_writer: OpenModel | None,
) -> Finding:
    given = candidate.problem.ground_truth

    def dropped(step: str, reason: str) -> Finding:
        return Finding(ground_truth=given, step=step, reason=reason)

    if found := first_reason(candidate.statement, suite):
        return dropped(*found)
    if not suite.tests:
        return dropped("code_tests", "it has no usable tests")
    if reason := contradiction(suite) or inspect_suite(suite, backend):
        return dropped("code_tests", reason)
    known = runnable(
        candidate.solutions, suite, max_right=config.max_right_solutions, max_wrong=config.max_wrong_solutions
    )
    if not known.right and config.need_right_solution:
        return dropped("code_no_solution", "no right solution in Python 3 or C++ vouches for its tests")
    judged = judge(known, suite, backend, budget_of(reward))
    if judged.complaint:
        return dropped("code_right_solution_fails", judged.complaint)
    made = _more_tests(candidate, known, judged, config, reward, backend, open_writer)
    final = replace(judged.suite, tests=(*judged.suite.tests, *made.tests))
    if reason := too_weak(final, config.min_tests):
        return dropped("code_weak_tests", reason)
    return Finding(
        ground_truth=final.to_json(),
        checker_changed=final.checker != suite.checker,
        num_new_tests=len(made.tests),
        num_wrong_passing=len(made.survivors),
        input_fates={str(fate): count for fate, count in made.fates.items()},
        writer_failure=made.failure,
    )


def _more_tests(
    candidate: Candidate,
    known: Runnable,
    judged: Judged,
    config: CodeCurationConfig,
    reward: RewardConfig,
    backend: Backend,
    open_writer: OpenModel | None,
) -> NewTests:
    """New tests where there is a writer, and solutions to validate them by."""
    can = judged.suite.kind == "stdin" and known.wrong and len(known.right) >= config.writer.min_right_solutions
    if open_writer is None or not can or not config.writer.rounds:
        return NewTests(survivors=set(range(len(judged.survivors))))

    async def ask() -> NewTests:
        async with open_writer() as model:
            return await new_tests(
                candidate.statement,
                judged.suite,
                right=known.right,
                wrong=known.wrong,
                survivors=judged.survivors,
                model=model,
                backend=backend,
                budget=budget_of(reward),
                config=config,
            )

    return asyncio.run(ask())


def _opener(writer: WriterConfig) -> OpenModel | None:
    if not writer.base_urls:
        return None
    return lambda: open_model(writer, max_tokens=writer.max_reply_tokens, temperature=writer.temperature)


class CodeFilter:
    """A ``records.Filter`` for coding problems; others pass."""

    name = NAME

    def __init__(
        self, config: CodeCurationConfig, reward: RewardConfig, cache: KeyedLog, *, spread: Spread | None = None
    ) -> None:
        """``spread``: where problems are checked; by default here, one after another."""
        self._config, self._reward, self._cache = config, reward, cache
        self._spread = spread or InProcess()
        self.on_progress: Progress = unwatched
        self.counts: Counter[str] = Counter()
        """Of all calls: problems whose checker changed, new tests, wrong solutions that pass, generated inputs by what
        became of them."""

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        """Check a batch.

        Raises:
            ValueError: no sandbox can be had.
            SandboxError: more than ``MAX_SANDBOX_FAILED_SHARE`` of the batch met a failing sandbox.
            EndpointDown: the writer of tests gave nobody an answer.
            What was found by then is on disk.
        """
        asked = [candidate for candidate in candidates if candidate.domain == "code"]
        findings = {one.id: self._recall(one) for one in asked}
        todo = [one for one in asked if findings[one.id] is None]
        tasks = (Task(candidates=(one,), config=self._config, reward=self._reward) for one in todo)
        checked = zip(todo, self._spread.map(check_chunk, tasks), strict=True)
        for number, (one, found) in enumerate(checked, start=1 + len(asked) - len(todo)):
            findings[one.id] = found[0]
            self.on_progress(number, len(asked))
            if found[0].step != SANDBOX_STEP and not found[0].writer_failure:
                self._cache.put(self._key(one), asdict(found[0]))
        self._refuse_to_go_on([finding for finding in findings.values() if finding is not None], len(asked))
        kept: list[Candidate] = []
        drops: list[Drop] = []
        for candidate in candidates:
            finding = findings.get(candidate.id)
            if finding is None:
                kept.append(candidate)
            elif finding.step:
                drops.append(drop(candidate, step=finding.step, reason=finding.reason))
            else:
                self._count(finding)
                kept.append(candidate.with_problem(ground_truth=finding.ground_truth))
        return Sifted(kept=tuple(kept), drops=tuple(drops))

    def _refuse_to_go_on(self, findings: Sequence[Finding], num_asked: int) -> None:
        broken = [one for one in findings if one.step == SANDBOX_STEP]
        if len(broken) > MAX_SANDBOX_FAILED_SHARE * num_asked and len(broken) > 1:
            raise SandboxError(
                f"the sandbox failed for {len(broken)} of {num_asked} problems, the last time with: "
                f"{broken[-1].reason}. What was found of the others is kept in {self._cache.path}: see "
                "`pacore-rl doctor`, and start again."
            )
        unanswered = [one for one in findings if one.writer_failure]
        if len(unanswered) >= self._config.writer.max_failures_in_a_row:
            raise EndpointDown(
                f"the writer of tests failed for {len(unanswered)} of {num_asked} problems, the last time with: "
                f"{unanswered[-1].writer_failure}. What was found of the others is kept in {self._cache.path}: repair "
                "the endpoint, or set curation.code.writer.rounds=0, and start again."
            )

    def _count(self, finding: Finding) -> None:
        self.counts["checker changed"] += finding.checker_changed
        self.counts["new tests"] += finding.num_new_tests
        self.counts["wrong solutions that pass"] += finding.num_wrong_passing
        self.counts.update({f"inputs: {fate}": num for fate, num in finding.input_fates.items()})

    def _recall(self, candidate: Candidate) -> Finding | None:
        known: dict[str, Any] | None = self._cache.get(self._key(candidate))
        return None if known is None else Finding(**known)

    def _key(self, candidate: Candidate) -> tuple[str | int, ...]:
        solutions = json.dumps([[one.language, one.is_right, one.code] for one in candidate.solutions])
        writer = self._config.writer
        asked = {"rounds", "seeds_per_generator", "min_right_solutions", "max_new_tests", "temperature", "model"}
        settings = self._config.model_dump(exclude={"writer"}) | writer.model_dump(include=asked)
        limits = self._reward.model_dump(include=set(CODE_LIMITS))
        return (
            NAME,
            VERSION,
            json.dumps(settings | limits, sort_keys=True),
            candidate.statement,
            candidate.problem.ground_truth,
            hashlib.sha256(solutions.encode(errors="surrogatepass")).hexdigest(),
        )
