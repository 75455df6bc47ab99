"""The charts of a run: which metrics go together, and what they mean. Picture and HTML report draw the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Group = Literal["Learning", "Responses", "Soundness", "Speed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart over the steps of a run."""

    title: str
    group: Group
    lines: Mapping[str, str]
    """Metric key -> legend."""
    note: str
    """One sentence: what a reader should look for."""
    unit: str = ""
    share: bool = False
    """Drawn as percentages between 0 and 100."""
    logarithmic: bool = False
    stacked: bool = False


PANELS = (
    Panel(
        title="Reward and synthesis accuracy",
        group="Learning",
        unit="share",
        share=True,
        note="Synthesis should rise above the messages it reads, and above their majority vote.",
        lines={
            "reward/mean": "reward",
            "synthesis/accuracy": "synthesis",
            "messages/majority_vote": "majority vote of its messages",
            "messages/accuracy": "messages",
        },
    ),
    Panel(
        title="Held-out accuracy and controls",
        group="Learning",
        unit="share",
        share=True,
        note="Never trained on. Swapped references are another problem's, and should not help.",
        lines={
            "heldout/synthesis": "synthesis",
            "heldout/majority_vote": "majority vote",
            "heldout/swapped": "swapped references",
            "heldout/solo": "solo",
            "heldout/message_accuracy": "messages",
        },
    ),
    Panel(
        title="Right where every message is wrong",
        group="Learning",
        unit="share",
        share=True,
        note="Emergent correctness: right answers that none of the drawn messages held.",
        lines={"synthesis/emergent_correct": "emergent correctness", "heldout/emergent_correct": "held-out"},
    ),
    Panel(
        title="Response length",
        group="Responses",
        unit="tokens",
        note="Generated tokens of a response.",
        lines={"response/length_tokens": "mean length"},
    ),
    Panel(
        title="Responses cut short",
        group="Responses",
        unit="share",
        share=True,
        note="Truncated responses score 0; a rising share means that the token budget is too small.",
        lines={"response/truncated_share": "truncated", "response/empty_share": "empty"},
    ),
    Panel(
        title="Cross-checking words",
        group="Responses",
        unit="words per response",
        note="Words that refer to a reference, such as 'Ref 3'.",
        lines={
            "synthesis/cross_check_words": "as the paper spells them",
            "synthesis/cross_check_words_any_case": "in any case",
        },
    ),
    Panel(
        title="Entropy of the policy",
        group="Soundness",
        unit="nats per token",
        note="A collapse towards 0 ends exploration.",
        lines={"policy/entropy": "entropy"},
    ),
    Panel(
        title="Value function: explained variance",
        group="Soundness",
        note="1: the critic foresees every reward; 0: it knows no more than their mean.",
        lines={"critic/explained_variance": "explained variance"},
    ),
    Panel(
        title="Log-prob gap, engine and trainer",
        group="Soundness",
        unit="nats",
        logarithmic=True,
        note="Engine and trainer on the same tokens; growth means that their models differ.",
        lines={"policy/logprob_gap_mean": "mean", "policy/logprob_gap_max": "largest", "policy/logprob_gap_kl": "KL"},
    ),
    Panel(
        title="Clipped tokens",
        group="Soundness",
        unit="share",
        share=True,
        note="Share of action tokens whose ratio or value is clipped; 0 for the policy in a strictly on-policy step.",
        lines={"policy/clip_share": "policy", "critic/clip_share": "value function"},
    ),
    Panel(
        title="Gradient norms",
        group="Soundness",
        unit="L2 norm before clipping",
        logarithmic=True,
        note="Spikes come before collapses.",
        lines={"policy/grad_norm": "policy", "critic/grad_norm": "value function"},
    ),
    Panel(
        title="Restarts and failures",
        group="Soundness",
        unit="count",
        note="Restarts, skipped updates, and scorings that failed through no fault of a response.",
        lines={
            "events/restart": "restarts from a checkpoint",
            "events/engine_replaced": "engines replaced",
            "policy/skipped_step": "steps not learned from",
            "policy/skipped_minibatches": "policy mini-batches skipped",
            "critic/skipped_minibatches": "value mini-batches skipped",
            "reward/failed_count": "scorings failed",
        },
    ),
    Panel(
        title="Time of a step",
        group="Speed",
        unit="seconds",
        stacked=True,
        note="Where a step's time goes.",
        lines={
            "time/generate": "generate",
            "time/score": "score",
            "time/learn": "learn",
            "time/sync": "sync",
            "time/evaluate": "evaluate",
            "time/refresh": "refresh messages",
            "time/snapshot": "checkpoint",
            "time/turn": "turn",
            "time/report": "report",
            "time/batch": "batch",
            "time/draw": "draw",
        },
    ),
    Panel(
        title="Generation speed",
        group="Speed",
        unit="tokens per second",
        note="Generated tokens over the time of generation, and over the whole step.",
        lines={
            "throughput/generated_tokens_per_second": "while generating",
            "throughput/step_tokens_per_second": "over the step",
        },
    ),
    Panel(
        title="Memory",
        group="Speed",
        unit="GiB",
        note="Largest of a learner's rank (of its GPU, if it has one); main memory in use on the controller's host.",
        lines={
            "memory/actor_gib": "policy",
            "memory/critic_gib": "value function",
            "memory/host_used_gib": "host, in use",
            "memory/controller_gib": "controller",
        },
    ),
)
