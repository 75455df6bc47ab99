"""Settings of what a run does when something breaks (docs/surviving.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pacore_rl.config_base import Count, Positive, Section


class SurvivingConfig(Section):
    """What a run does when something breaks."""

    max_restarts: Count = 3
    """Restarts without a finished step in between: of one engine, or of all workers from the last checkpoint."""
    health_timeout_seconds: float = Field(default=60.0, gt=0)
    """A worker that does not say where it runs for this long is hung: it is killed, and started again."""
    stall_timeout_seconds: float = Field(default=900.0, gt=0)
    """An engine that has responses to generate and makes no step for this long is hung too; so are learners of which
    none ends a pass over a micro-batch."""
    node_wait_seconds: float = Field(default=600.0, ge=0)
    """A restart waits this long for hardware that went with a node; the rest of the cluster serves as well."""
    on_disk_full: Literal["stop", "skip"] = "stop"
    """A checkpoint finds no room: stop the run, or skip this checkpoint and say so."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient is no number: stop the run, or skip that optimizer step and count it."""
    on_logprob_gap: Literal["stop", "skip", "warn"] = "stop"
    """ppo.max_logprob_gap is exceeded: stop the run, skip the update of that step and count it, or warn."""
    on_equal_rewards: Literal["warn", "stop"] = "warn"
    """All rewards were equal for equal_rewards_steps: warn, or stop the run."""
    equal_rewards_steps: Positive = 10
    """Steps in a row after which equal rewards are said to be so."""
