"""Every known right solution must pass every test, and every known wrong one must fail at least one.

    python scripts/check_known_solutions.py FOLDER --results results.jsonl          # whole; goes on where it stopped
    python scripts/check_known_solutions.py FOLDER --sample 10 --skip-loops         # a few of each file
    python scripts/check_known_solutions.py FOLDER --results results.jsonl --write-exceptions

Reads JSON Lines of problems with ``tests`` and ``solutions: [{lang, verdict, code, check?}]``, runs those in Python and
C++, and prints each surprise: a solution whose label does not hold and that the file of exceptions
does not name. Ends with 1 if there is one, or if solutions are left over.

The label is ``verdict``, given by whoever judged the solution on all tests of its problem. What the record holds may be
a part of them, without the checker: ``check.verdict_here`` tells what happened when its collector ran these very tests,
outside of a sandbox. Where that explains why a label does not hold, ``--write-exceptions`` writes the solution down by
its name under that reason.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pacore_rl.append_log import AppendLog
from pacore_rl.machine import num_cores
from pacore_rl.problems import write_atomically
from pacore_rl.reporting.progress import ProgressReport
from pacore_rl.rewards.code.backends import Backend
from pacore_rl.rewards.code.grading import Budget, Grade, grade
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.shapes import suite_of_record
from pacore_rl.rewards.code.source import Program
from pacore_rl.rewards.code.suite import Language, TestSuite

FILES = ("code_contests_py", "kattis_packages", "lcb_atcoder", "humaneval", "mbpp")
LANGUAGES: dict[str, Language] = {"python3": "python", "cpp": "cpp"}
EXCEPTIONS = Path(__file__).with_name("known_solutions_exceptions.json")
BUDGET = Budget(test_seconds=10.0, submission_seconds=300.0, max_timeouts=1)
"""Twice the CPU time that the collector gave; one timeout settles that not every test is passed."""
SLOW = "time_limit_exceeded"

NO_CHECKER = "judged by a program of the jury's that the data does not hold; not run"
WHOLE_DATA = "wrong on the jury's full data, of which these tests are a part: it passes them outside of a sandbox too"
JURY_LIMIT = "its label is the jury's time limit; it ends within 10 s of CPU time a test here"
OTHER_OUTPUT = "gives another output outside of a sandbox too: several are right, or the tests were copied wrongly"
DECIMALS = (
    "wrong on the jury's hidden tests; on these its decimals are within 1e-6, which a comparison of words refuses"
)
CRASHES = "crashes on these tests outside of a sandbox too"
TOO_SLOW = "takes more than 5 s of CPU time a test outside of a sandbox too"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One solution with a label."""

    name: str
    """``PROBLEM/NUMBER``, and its file's name where it has one."""
    program: Program
    suite: TestSuite | None
    """None where its tests need a checker that is not there."""
    is_right: bool
    verdict: str
    seen: str
    """What the collector saw of it on these tests; empty where it was not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one solution here."""

    name: str
    kind: str
    """File, language and label, for the table at the end."""
    holds: bool
    """Whether its label holds."""
    reason: str
    explanation: str
    """Why it may not hold; empty where nothing explains it."""


def known_solutions(path: Path) -> Iterator[Known]:
    """The labelled solutions of a file, those in Python and C++."""
    lines = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with lines:
        for record in map(json.loads, lines):
            is_judged = record.get("kind") == "interactive" or str(record.get("checker", "")).startswith("custom")
            suite = None if is_judged else suite_of_record(record)
            assert is_judged or suite is not None, record["id"]
            for number, solution in enumerate(record["solutions"]):
                language = LANGUAGES.get(solution["lang"])
                if language is None:
                    continue
                yield Known(
                    name=f"{record['id']}/{number} {solution.get('name', '')}".rstrip(),
                    program=Program(language=language, source=solution["code"]),
                    suite=suite,
                    is_right=solution["verdict"] == "accepted",
                    verdict=solution["verdict"],
                    seen=solution.get("check", {}).get("verdict_here", ""),
                )


def judge(known: Known, file: str, backend: Backend) -> Result:
    """Run one solution. A failure of ours never holds and has no explanation."""
    kind = f"{file} {known.program.language} {'right' if known.is_right else 'wrong'}"
    if known.suite is None:
        return Result(name=known.name, kind=kind, holds=False, reason="not run", explanation=NO_CHECKER)
    graded = grade(known.program, known.suite, backend, BUDGET)
    passed = graded.passed == graded.total
    holds = graded.outcome != "failed" and passed == known.is_right
    explanation = "" if holds or graded.outcome == "failed" else explain(known, graded)
    return Result(name=known.name, kind=kind, holds=holds, reason=graded.reason, explanation=explanation)


def explain(known: Known, graded: Grade) -> str:
    """Why a label does not hold, from what the collector saw; empty where they saw it hold."""
    if not known.is_right:
        assert known.suite is not None, "it was run"
        is_decimal = known.seen == "wrong_answer" and known.suite.checker.startswith("rcmp")
        return DECIMALS if is_decimal else {"accepted": WHOLE_DATA, SLOW: JURY_LIMIT}.get(known.seen, "")
    if known.seen == SLOW:
        return TOO_SLOW if graded.outcome == "timeout" else ""
    return {"wrong_answer": OTHER_OUTPUT, "run_time_error": CRASHES}.get(known.seen, "")


def is_loop(known: Known) -> bool:
    """Whether running it is sure to take its whole time limit."""
    return SLOW in (known.verdict, known.seen)


def read_results(log: AppendLog | None) -> dict[str, Result]:
    """What an earlier call found out, by name."""
    if log is None or not log.path.exists():
        return {}
    found = (Result(**json.loads(line)) for line in log.lines())
    return {result.name: result for result in found}


def read_exceptions(path: Path) -> dict[str, str]:
    """Names to reasons."""
    if not path.exists():
        return {}
    by_reason: dict[str, list[str]] = json.loads(path.read_text())
    return {name: reason for reason, names in by_reason.items() for name in names}


def write_exceptions(path: Path, results: Mapping[str, Result]) -> None:
    """Write down the solutions whose label does not hold for a reason, under it. Those named by hand stay."""
    explained = {name: found.explanation for name, found in results.items() if not found.holds and found.explanation}
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in sorted((read_exceptions(path) | explained).items()):
        if name not in results or not results[name].holds:
            by_reason[reason].append(name)
    text = json.dumps(dict(sorted(by_reason.items())), indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def chosen_solutions(arguments: argparse.Namespace) -> list[tuple[Known, str]]:
    """Each with its file, as the arguments say."""
    chosen: list[tuple[Known, str]] = []
    for name in arguments.files:
        path = next(iter(sorted(arguments.folder.glob(f"{name}.jsonl*"))), None)
        if path is None:
            raise SystemExit(f"there is no {name}.jsonl or {name}.jsonl.gz in {arguments.folder}")
        found = [known for known in known_solutions(path) if not (arguments.skip_loops and is_loop(known))]
        if arguments.sample:
            found = [known for known in found if known.suite is not None]
            found = random.Random(0).sample(found, min(arguments.sample, len(found)))
        chosen += [(known, name) for known in found]
    names = Counter(known.name for known, _ in chosen)
    assert not names or max(names.values()) == 1, names.most_common(1)
    return chosen


def run(
    waiting: Sequence[tuple[Known, str]],
    backend: Backend,
    log: AppendLog | None,
    arguments: argparse.Namespace,
    started: float,
) -> Iterator[Result]:
    """Results as they come, until the time is over; each is in the log before it is yielded."""
    with ThreadPoolExecutor(arguments.jobs) as threads, ProgressReport("solutions", len(waiting)) as progress:
        for done in as_completed([threads.submit(judge, *each, backend) for each in waiting]):
            result = done.result()
            if log is not None:
                fields = {name: getattr(result, name) for name in Result.__slots__}
                log.append(json.dumps(fields).encode() + b"\n")
            yield result
            progress.advance(1)
            if time.monotonic() - started > arguments.seconds:
                threads.shutdown(wait=False, cancel_futures=True)
                return


def main() -> int:
    arguments = parse_arguments()
    backend, started = choose_backend(), time.monotonic()
    chosen, exceptions = chosen_solutions(arguments), read_exceptions(arguments.exceptions)
    log = AppendLog(arguments.results, what="file of results") if arguments.results else None
    results = read_results(log)
    waiting = [each for each in chosen if each[0].name not in results][: arguments.limit or None]
    for result in run(waiting, backend, log, arguments, started):
        results[result.name] = result
        if not result.holds and result.name not in exceptions:
            print(f"SURPRISE {result.kind}, {result.name}: {result.reason}; {result.explanation}", flush=True)
    if arguments.write_exceptions:
        write_exceptions(arguments.exceptions, results)
        exceptions = read_exceptions(arguments.exceptions)
    here = [results[known.name] for known, _ in chosen if known.name in results]
    return report(here, exceptions, len(chosen) - len(here), f"{backend}, {time.monotonic() - started:.0f} s")


def report(results: Sequence[Result], exceptions: Mapping[str, str], num_left: int, how: str) -> int:
    """Print a table, and return the exit status."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        word = "as labelled" if result.holds else "excepted" if result.name in exceptions else "surprises"
        table[result.kind][word] += 1
    for kind, counts in sorted(table.items()):
        print(f"{counts.total():6d}  {kind}: " + ", ".join(f"{number} {word}" for word, number in counts.items()))
    for name in sorted(result.name for result in results if result.holds and result.name in exceptions):
        print(f"as labelled after all, although an exception: {name}")
    totals = sum(table.values(), Counter[str]())
    print(
        f"{totals['surprises']} surprises, {totals.total()} solutions, {totals['as labelled']} as labelled, "
        f"{totals['excepted']} exceptions, {num_left} left over, {how}"
    )
    return 1 if totals["surprises"] or num_left else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", nargs="*", default=FILES)
    parser.add_argument("--sample", type=int, default=0, help="take this many of each file, at random")
    parser.add_argument("--limit", type=int, default=0, help="run at most this many, and leave the others")
    parser.add_argument("--jobs", type=int, default=num_cores(), help="run this many at once (default: the cores)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no solution after this long")
    parser.add_argument("--skip-loops", action="store_true", help="leave out those that are known to run into a limit")
    parser.add_argument("--results", type=Path, help="JSON Lines of what was found; a later call goes on from there")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS, help="JSON: solutions by reason")
    parser.add_argument("--write-exceptions", action="store_true", help="add those that the records explain")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
