"""The card of an exported model, in the form that the Hugging Face hub reads, written from the run's own files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from pacore_rl import __version__
from pacore_rl.config import Config
from pacore_rl.export.portable import short_path
from pacore_rl.problems import load_problems
from pacore_rl.tokenizer import looks_local
from pacore_rl.training_sets import training_files

RECENT_STEPS = 5
"""Training metrics are means of this many steps up to the checkpoint, beside those of the first ones."""
_HELD_OUT = (
    ("heldout/synthesis", "Synthesis"),
    ("heldout/emergent_correct", "Synthesis where every message is wrong"),
    ("heldout/majority_vote", "Majority vote of the same messages"),
    ("heldout/swapped", "Swapped references"),
    ("heldout/solo", "Solo, without references"),
    ("heldout/message_accuracy", "Messages"),
)
_TRAINING = (
    ("reward/mean", "Reward"),
    ("synthesis/accuracy", "Synthesis accuracy"),
    ("messages/accuracy", "Accuracy of the messages it read"),
    ("synthesis/emergent_correct", "Right where every message is wrong"),
    ("synthesis/cross_check_words", "Cross-checking words a response"),
    ("response/length_tokens", "Response length, tokens"),
    ("response/truncated_share", "Truncated responses"),
    ("policy/entropy", "Entropy, nats a token"),
    ("policy/logprob_gap_mean", "Log-prob gap of engine and trainer, nats a token"),
)


def model_card(config: Config, rows: Sequence[Mapping[str, float]], *, step: int, name: str, recipe: str) -> str:
    """Markdown with the hub's header.

    Args:
        rows: the run's metrics, as ``read_metrics`` gives them.
        step: of the checkpoint: later rows are left out.
        recipe: YAML to be shown.
    """
    upto = [row for row in rows if row["step"] <= step]
    start = short_path(config.model.path)
    return (
        "\n\n".join(
            part
            for part in (
                f"---\n{yaml.safe_dump(header(config), sort_keys=False)}---",
                f"# {name}",
                f"Trained from `{start}` by reinforcement learning of parallel coordinated reasoning "
                "([PaCoRe, arXiv 2601.05593](https://arxiv.org/abs/2601.05593)) with "
                f"PaCoRe-RL {__version__}: it reads a problem with the conclusions of earlier attempts, and writes one "
                f"answer. These are the weights after step {step}.",
                "## Use",
                usage(config, name),
                "## Results",
                results(upto) or "This run has no metrics.",
                "![Training curves of the whole run](curves.png)" if rows else "",
                "## Training",
                table(("Setting", "Value"), [(label, value(config)) for label, value in _RECIPE]),
                "## Data",
                data(config),
                "## Limits",
                "Accuracies are of the problems named above, and say little of others. Its answers can be wrong with "
                "confidence, and its reasoning need not be what led to them.",
                f"<details><summary>The whole recipe</summary>\n\n```yaml\n{recipe}```\n\n</details>",
            )
            if part
        )
        + "\n"
    )


def rope(config: Config) -> str:
    overrides = config.model.rope_scaling
    return "the model's own" if not overrides else ", ".join(f"{key} {value}" for key, value in overrides.items())


_RECIPE: tuple[tuple[str, Callable[[Config], str]], ...] = (
    ("Messages a problem", lambda c: f"{c.synthesis.min_messages} to {c.synthesis.max_messages}"),
    ("Problems a step", lambda c: str(c.ppo.problems_per_step)),
    ("Responses a problem", lambda c: str(c.ppo.responses_per_problem)),
    ("Context window", lambda c: f"{c.model.context_window_tokens:,} tokens"),
    ("Response budget", lambda c: f"{c.sampling.max_response_tokens:,} tokens"),
    ("Sampling", lambda c: f"temperature {c.sampling.temperature:g}, top-p {c.sampling.top_p:g}"),
    ("Learning rates", lambda c: f"actor {c.actor.learning_rate:g}, critic {c.critic.learning_rate:g}"),
    ("Discount, GAE lambda", lambda c: f"{c.ppo.gamma:g}, {c.ppo.gae_lambda:g}"),
    ("Clip range", lambda c: f"{c.ppo.clip_range:g}"),
    ("Optimizer steps an iteration", lambda c: f"actor {c.ppo.actor_minibatches}, critic {c.ppo.critic_minibatches}"),
    (
        "Rope settings",
        lambda c: ", ".join(f"{k} {v}" for k, v in (c.model.rope_scaling or {}).items()) or "the model's",
    ),
    ("Seed", lambda c: str(c.run.seed)),
)


def header(config: Config) -> dict[str, object]:
    """What the hub reads of a card; the base model only where it is one of the hub's."""
    base = {} if looks_local(config.model.path) else {"base_model": config.model.path}
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **base,
        "tags": ["pacore", "reinforcement-learning", "ppo", "parallel-reasoning"],
    }


def usage(config: Config, name: str) -> str:
    return (
        f"```bash\nvllm serve ./{name} --max-model-len {config.model.context_window_tokens}\n```\n\n"
        "With no references the prompt is the problem itself. A message is what follows the last "
        f"`{config.model.end_of_reasoning}` of a response. `generation_config.json` holds the sampling that it was "
        "trained with."
    )


def results(rows: Sequence[Mapping[str, float]]) -> str:
    """Held-out accuracies of the first and the last evaluation, then training metrics early and late."""
    parts: list[str] = []
    evaluated = [row for row in rows if _HELD_OUT[0][0] in row]
    if evaluated:
        first, last = evaluated[0], evaluated[-1]
        head = ("Held-out problems", f"step {first['step']:g}", f"step {last['step']:g}")
        both = [(label, key) for key, label in _HELD_OUT if key in first and key in last]
        parts.append(table(head, [(label, share(first[key]), share(last[key])) for label, key in both]))
    steps = [row for row in rows if "time/step" in row or "reward/mean" in row]
    if steps:
        head = ("Training problems", f"first {RECENT_STEPS} steps", f"last {RECENT_STEPS} steps")
        lines = [
            (label, number(mean(steps[:RECENT_STEPS], key)), number(mean(steps[-RECENT_STEPS:], key)))
            for key, label in _TRAINING
            if any(key in row for row in steps)
        ]
        parts.append(table(head, lines))
    return "\n\n".join(parts)


def data(config: Config) -> str:
    """The files of problems and messages: how many, and the hash that says whether they are the same ones."""
    training: list[tuple[str, Path | None]] = [
        ("Training problems", config.data.problems),
        ("Their messages", config.data.pool),
    ]
    if config.data.path is not None:
        training = [("Training problems with messages", file) for file in training_files(config.data.path)]
    files = (
        *training,
        ("Held-out problems", config.data.held_out_problems),
        ("Their messages", config.data.held_out_pool),
    )
    lines = [(label, f"`{path.name}`", *_described(path, "problems" in label)) for label, path in files if path]
    return table(("Part", "File", "Records", "SHA-256"), lines)


def _described(path: Path, is_problems: bool) -> tuple[str, str]:
    if not path.is_file():
        return "no longer there", "–"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{len(load_problems(path)):,}" if is_problems else "–", f"`{digest[:16]}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
    return sum(values) / len(values) if values else math.nan


def share(value: float) -> str:
    return f"{100 * value:.1f}%"


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
