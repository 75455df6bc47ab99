"""Settings of scoring: mathematics, programs, the judge, functions of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pacore_rl.config_base import Count, Positive, Section, Share


class JudgeConfig(Section):
    """A language model that judges what rules cannot settle (problems whose reward is judge)."""

    base_url: str | None = None
    """An OpenAI-compatible endpoint, such as http://host:8000/v1; null: there is no judge."""
    model: str = ""
    """Its name of the model."""
    api_key_variable: str = "JUDGE_API_KEY"
    """The environment variable that holds the key, where one is needed."""
    passes: Positive = 1
    """Independent verdicts that must all be yes: 1 for rewards, 3 or more to select data."""
    temperature: float = Field(default=0.6, ge=0)
    """Above 0, so that passes with different seeds differ."""
    max_reply_tokens: Positive = 4096
    """Budget of one reply, its reasoning included."""
    max_concurrent: Positive = 64
    """Questions in flight."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest time for one request."""
    question_timeout_seconds: float = Field(default=600.0, gt=0)
    """Longest time for one question, with its passes and retries."""
    max_retries: Count = 4
    """Of a request that meets 429, 5xx, a broken connection or a time limit."""
    backoff_seconds: float = Field(default=1.0, gt=0)
    """Mean wait before the first retry; it doubles with each, to a minute at most."""
    breaker_failures: Positive = 16
    """Failures in a row after which the endpoint counts as down."""
    breaker_seconds: float = Field(default=30.0, gt=0)
    """So long nothing is sent to an endpoint that is down; then one request tries it."""
    on_error: Literal["mask", "zero", "abort"] = "mask"
    """Where no verdict can be had: leave the response out of the batch, score it 0, or stop the run."""
    cache_dir: Path | None = None
    """Folder of remembered verdicts, which several processes may share; null: remembered in memory only."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.base_url is not None and not self.model:
            raise ValueError("reward.judge.base_url is set, but reward.judge.model is not; name the model it serves.")
        return self


class CustomRewardConfig(Section):
    """Reward functions of your own, package.module:function (see docs/rewards.md)."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Scores every problem, whatever reward its record names; null: as the record says."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Longest time for one response; then the function's process is killed and the response left out of the batch."""
    memory_gib: float = Field(default=4.0, gt=0)
    """Address space of each of its processes."""
    environment: tuple[str, ...] = ()
    """Environment variables that it may see."""


CODE_LIMITS = frozenset({"code_test_seconds", "code_submission_seconds", "code_memory_mib"})
"""Settings of ``RewardConfig`` that decide which programs pass."""


class RewardConfig(Section):
    """Scoring."""

    num_workers: Positive | None = None
    """Responses scored at once, each in a process that can be killed; a CPU for each. null: as many as this machine has
    cores, 64 at most, and on a cluster half of the CPUs that the run leaves free on each node."""
    placement: Literal["auto", "local", "ray"] = "auto"
    """Where they run: in this process's children (local), on any node of the cluster (ray); auto: ray where the cluster
    has several nodes and num_workers CPUs to spare, or, where that is null, more for it than this machine has cores."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest time for one answer; then its checker is killed."""
    sandbox: Literal["auto", "bubblewrap", "landlock", "chroot"] = "auto"
    """Where programs run; auto: the first that every attack fails against on this machine (see `pacore-rl doctor`)."""
    unsafe_local: bool = False
    """Run programs without a sandbox, under resource limits only: a model's code then has what you have."""
    code_test_seconds: float = Field(default=5.0, gt=0)
    """CPU time of one test of a program, where its problem sets no limit."""
    code_submission_seconds: float = Field(default=60.0, gt=0)
    """CPU time of all tests of a program; those left over count as failed."""
    code_memory_mib: Positive = 1024
    """Memory of one test of a program, where its problem sets no limit."""
    max_failed_share: Share = 0.02
    """Share of scorings in a step that may fail through our fault before the run stops."""
    judge: JudgeConfig = JudgeConfig()
    custom: CustomRewardConfig = CustomRewardConfig()
