"""``pacore-rl infer``: questions in, answers out, over endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pacore_rl.cli.endpoint_options import (
    Compaction,
    DeadlineSeconds,
    EndOfReasoning,
    Endpoints,
    FirstTokenSeconds,
    IdleSeconds,
    KeyVariable,
    MaxOpenCalls,
    ModelName,
    Quorum,
    ReserveTokens,
    Retries,
    WindowTokens,
    connection,
    stragglers,
)
from pacore_rl.cli.guard import guard
from pacore_rl.cli.options import Debug, existing, say_done

if TYPE_CHECKING:
    from pacore_rl.inference.batch import BatchSummary


def infer(
    questions: Annotated[
        Path,
        typer.Argument(metavar="QUESTIONS", help="JSON Lines: id, and prompt (a text) or messages (a conversation)."),
    ],
    endpoint: Endpoints,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File of the answers (JSON Lines); completed if it is there.")
    ],
    model: ModelName = None,
    level: Annotated[str, typer.Option(help="low, medium, high, or samples per round such as 32,4.")] = "medium",
    seed: Annotated[int, typer.Option(help="Of samples and message orders.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling.")] = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of every trajectory.", show_default="the window")
    ] = None,
    compaction: Compaction = "after_reasoning",
    quorum: Quorum = None,
    deadline_seconds: DeadlineSeconds = 0.0,
    end_of_reasoning: EndOfReasoning = "</think>",
    reserve_tokens: ReserveTokens = None,
    window_tokens: WindowTokens = None,
    api_key_variable: KeyVariable = "OPENAI_API_KEY",
    max_open_calls: MaxOpenCalls = 512,
    first_token_seconds: FirstTokenSeconds = 1_800.0,
    idle_seconds: IdleSeconds = 300.0,
    retries: Retries = 5,
    keep_calls: Annotated[bool, typer.Option("--keep-calls", help="Keep every call in OUT.calls.jsonl.")] = False,
    debug: Debug = False,
) -> None:
    """Answer questions through rounds of parallel calls to a served model.

    A line is written as each problem ends. Given again, the command goes on where it was stopped, within a problem too.

    Example: [cyan]pacore-rl infer questions.jsonl --endpoint http://127.0.0.1:8000/v1 --level high -o answers.jsonl[/]

    Next: [cyan]pacore-rl serve --endpoint http://127.0.0.1:8000/v1[/], to offer the same as an API.
    """
    with guard(debug=debug) as outputs:
        from pacore_rl.inference.batch import BatchOptions, answer_questions
        from pacore_rl.inference.questions import load_questions
        from pacore_rl.synthesis.levels import parse_configuration
        from pacore_rl.synthesis.plan import RoundsPlan

        plan = RoundsPlan.of(
            parse_configuration(level),
            compaction=compaction,
            end_of_reasoning=end_of_reasoning,
            seed=seed,
            stragglers=stragglers(quorum, deadline_seconds),
        )
        loaded = load_questions(existing(questions, "QUESTIONS"))
        sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
        if max_tokens is not None:
            sampling["max_tokens"] = max_tokens
        endpoints, client = connection(
            endpoint,
            api_key_variable,
            first_token_seconds=first_token_seconds,
            idle_seconds=idle_seconds,
            max_retries=retries,
            max_open_calls=max_open_calls,
        )
        options = BatchOptions(
            endpoints=endpoints,
            model=model,
            plan=plan,
            sampling=sampling,
            reserve_tokens=reserve_tokens,
            window_tokens=window_tokens,
            client=client,
            keep_calls=keep_calls,
        )
        outputs.add(out)
        summary = answer_questions(loaded, out, options)
        _show(summary, Console())
        _require_answers(summary, out)
        say_done(out, f"pacore-rl infer {questions} --endpoint {endpoint[0]} --level high -o OTHER.jsonl, to compare")


def _require_answers(summary: BatchSummary, out: Path) -> None:
    """End with 1 where nothing but failures came: a script must not go on as if there were answers."""
    if summary.outcomes.get("failed") != summary.num_problems:
        return
    say = f"Every problem failed; `error` in the lines of {out} says why. The same command tries them again."
    Console(stderr=True).print(say, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def _show(summary: BatchSummary, console: Console) -> None:
    """The summary, in a few lines."""
    cost, num_ended = summary.cost, summary.num_problems - summary.num_resumed
    outcomes = ", ".join(f"{num:,} {name}" for name, num in summary.outcomes.items())
    lines = [f"{summary.num_problems:,} problems with {summary.model}: {outcomes}"]
    if summary.num_incomplete:
        lines.append(
            f"{summary.num_incomplete:,} of them read fewer messages than their level says, since calls failed; the "
            "same command tries them again"
        )
    if summary.num_resumed or summary.num_replayed_calls:
        lines.append(f"from before: {summary.num_resumed:,} problems, {summary.num_replayed_calls:,} calls of others")
    if num_ended:
        cached = f", {cost.cached_tokens / cost.prompt_tokens:.0%} of them cached" if cost.prompt_tokens else ""
        lines += [
            f"test-time compute: {cost.ttc_tokens / num_ended:,.0f} tokens a problem, {cost.ttc_tokens:,} in all",
            f"prompts: {cost.prompt_tokens:,} tokens{cached}",
            f"{cost.num_calls:,} calls, {summary.num_retries:,} retries, {cost.wasted_tokens:,} tokens lost to them",
            f"{summary.seconds:,.1f} s, {cost.ttc_tokens / max(summary.seconds, 1e-9):,.0f} generated tokens/s",
        ]
    if cost.num_estimated:
        lines.append(f"{cost.num_estimated:,} calls came without a usable count of tokens; theirs are lower bounds")
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
