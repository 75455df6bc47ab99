"""``pacore-rl score``: score the responses of a JSON Lines file, with the rewards that training uses.

in   id, domain (math or code), response, and answer (math) or tests [{input, output}] (code), with the optional
     checker, checker_program, fn_name, time_limit_seconds, memory_limit_mib
out  id, reward, correct, outcome, reason; one line for each, in the same order
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacore_rl.config import RewardConfig
from pacore_rl.problems import write_atomically
from pacore_rl.rewards.base import unparsed
from pacore_rl.rewards.code.probe import choose_backend
from pacore_rl.rewards.code.shapes import suite_of_record
from pacore_rl.rewards.extract import message_of
from pacore_rl.rewards.ground_truths import check_ground_truths
from pacore_rl.rewards.scorer import LocalScorer, PendingVerdicts
from pacore_rl.types import Problem, Turn, Verdict

DOMAINS = ("math", "code")
THINK, THINK_END = "<think>", "</think>"
SHOWN = 8
"""Records that cannot be scored by, listed by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a file came to."""

    num_responses: int
    num_correct: int
    mean_reward: float
    """Over the responses that could be scored: failures of ours are no zeros."""
    outcomes: Mapping[str, int]

    def as_text(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items()))
        return (
            f"{self.num_responses} responses: {self.num_correct} correct, mean reward {self.mean_reward:.4f} ({counts})"
        )


def score_file(
    path: Path,
    out: Path,
    config: RewardConfig,
    *,
    end_of_reasoning: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Score ``path`` into ``out``. Every record is read, and its answer or tests checked, before the first is scored.

    Args:
        end_of_reasoning: what follows its last occurrence is judged, as in training; a response without it is
            unparsed. "": the whole response. None: ``</think>`` for responses that reason in such tags.

    Raises ``ValueError``, with the record's id, for what cannot be scored by, and where no sandbox can be had.
    """
    records = _read(path)
    if any(problem.reward == "code" for problem, _ in records):
        choose_backend(config.sandbox, unsafe_local=config.unsafe_local)
    bad = check_ground_truths([problem for problem, _ in records], config)
    if bad:
        listing = "\n".join(f"  {problem.id}: {reason}" for problem, reason in bad[:SHOWN])
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(
            f"{len(bad)} of {len(records)} records of {path} cannot be scored by:\n{listing}{more}\n"
            "Correct or remove them."
        )
    scorer = LocalScorer(config, "")
    verdicts: list[Verdict] = []
    try:
        waiting: list[PendingVerdicts | Verdict] = []
        for problem, response in records:
            message = _message(response, end_of_reasoning)
            judged = message if isinstance(message, Verdict) else scorer.score([(problem, message, "stopped")])
            waiting.append(judged)
        for pending in waiting:
            verdicts += [pending] if isinstance(pending, Verdict) else pending.result()
            on_progress(len(verdicts), len(records))
    finally:
        scorer.close()
    lines = io.StringIO()
    for (problem, _), verdict in zip(records, verdicts, strict=True):
        lines.write(json.dumps(_line(problem.id, verdict), ensure_ascii=False) + "\n")
    write_atomically(out, lambda file: file.write(lines.getvalue().encode(errors="surrogatepass")))
    return _summary(verdicts)


def _message(response: str, end_of_reasoning: str | None) -> str | Verdict:
    """What of a response is judged, or the verdict on one whose reasoning never closed."""
    if end_of_reasoning is None:
        end_of_reasoning = THINK_END if THINK in response or THINK_END in response else ""
    message = message_of(response, end_of_reasoning)
    return unparsed(f"the reasoning never closed (no {end_of_reasoning})") if message is None else message


def _line(id: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": id,
        "reward": verdict.reward,
        "correct": verdict.correct,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
    }


def _summary(verdicts: list[Verdict]) -> Summary:
    scored = [verdict.reward for verdict in verdicts if not verdict.outcome.endswith("_error")]
    return Summary(
        num_responses=len(verdicts),
        num_correct=sum(verdict.correct for verdict in verdicts),
        mean_reward=sum(scored) / len(scored) if scored else 0.0,
        outcomes=Counter(verdict.outcome for verdict in verdicts),
    )


def _read(path: Path) -> list[tuple[Problem, str]]:
    records: list[tuple[Problem, str]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {number} is not JSON in UTF-8 ({error}); correct that line.") from error
        records.append(_record(record, f"{path}, line {number}"))
    if not records:
        raise ValueError(f"{path} holds no records; give one JSON object a line.")
    return records


def _record(record: Any, where: str) -> tuple[Problem, str]:
    if not isinstance(record, Mapping) or not isinstance(record.get("response"), str) or "id" not in record:
        raise ValueError(f"{where}: a record needs `id`, `domain` and the text `response`; correct it.")
    where, domain = f"{where} (id {record['id']!r})", record.get("domain")
    if domain not in DOMAINS:
        raise ValueError(f"{where}: unknown domain {domain!r}; the domains are 'math' and 'code'.")
    if domain == "math":
        answer = record.get("answer")
        if answer is None or not str(answer).strip():
            raise ValueError(f"{where}: `answer` is missing; a response is compared with it, so add it.")
        ground_truth = str(answer)
    else:
        try:
            suite = suite_of_record(record)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if suite is None:
            raise ValueError(f"{where}: `tests` are missing; give them as [{{input, output}}, ...].")
        ground_truth = suite.to_json()
    turns = (Turn(role="user", content=""),)
    problem = Problem(id=str(record["id"]), conversation=turns, ground_truth=ground_truth, reward=domain)
    return problem, record["response"]
