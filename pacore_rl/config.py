"""The configuration tree of a run: frozen, checked when it is built, never rewritten afterwards.

Each field's description is its documentation: ``pacore-rl train --explain`` prints them. Defaults are the paper's
(arXiv 2601.05593; learning rates and critic passes from Open-Reasoner-Zero); a recipe holds its differences only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, cast

from pydantic import Field, model_validator

from pacore_rl.config_base import Count, Positive, Section, Share
from pacore_rl.config_curation import CurationConfig
from pacore_rl.config_engine import (
    ActorConfig,
    ClusterConfig,
    CriticConfig,
    LearnerConfig,
    LoraConfig,
    RolloutConfig,
)
from pacore_rl.config_evaluation import BenchmarksConfig
from pacore_rl.config_rewards import CustomRewardConfig, JudgeConfig, RewardConfig
from pacore_rl.config_surviving import SurvivingConfig
from pacore_rl.synthesis.compaction import check_compaction

__all__ = [
    "ActorConfig",
    "BenchmarksConfig",
    "ClusterConfig",
    "Config",
    "CriticConfig",
    "CurationConfig",
    "CustomRewardConfig",
    "DataConfig",
    "EvaluationConfig",
    "JudgeConfig",
    "LearnerConfig",
    "LoggingConfig",
    "LoraConfig",
    "ModelConfig",
    "PPOConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "SurvivingConfig",
    "SynthesisConfig",
    "TrainerConfig",
]


class RunConfig(Section):
    """Where and how a run lives."""

    name: str = "pacore"
    """Name of the run and of its folder."""
    output_dir: Path = Path("runs")
    """The run writes into ``output_dir / name``."""
    seed: Count = 0
    """Seeds draws, sampling and the critic's head; on CPUs the same seed repeats the run (but for ppo.oversample)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is a GPU, else cpu."""
    worker_timeout_seconds: float = Field(default=1800.0, gt=0)
    """No wait on a worker lasts longer than this."""


class ModelConfig(Section):
    """The model that is trained."""

    path: str
    """A Hugging Face folder or hub id: weights, tokenizer and chat template."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on GPUs, float32 on CPUs."""
    trust_remote_code: bool = False
    """Run Python that comes with the model, with all your rights; only for models that you trust as you do code."""
    context_window_tokens: Positive = 131_072
    """Prompt and response together (paper, section 3.1)."""
    end_of_reasoning: str = Field(default="</think>", min_length=1)
    """What follows its last occurrence is the message."""
    rope_scaling: dict[str, float | int | str] | None = None
    """Overrides the model's own, e.g. YaRN factor 2 with attention_factor 1 (section 3.1)."""


class DataConfig(Section):
    """Problems and the messages cached for them."""

    path: Path | None = None
    """A training set: a folder that holds problems and their messages, as `pacore-rl curate stage1` writes it. Where it
    is given, problems and pool are not read."""
    problems: Path | None = None
    """Training problems, JSON Lines or Parquet."""
    pool: Path | None = None
    """Their message pool; None trains plain RLVR (message sets of size 0)."""
    held_out_problems: Path | None = None
    """Problems of evaluations, never trained on."""
    held_out_pool: Path | None = None
    """Their message pool."""

    @model_validator(mode="after")
    def _given(self) -> Self:
        if self.path is None and self.problems is None:
            raise ValueError(
                "data.problems: nothing was given; it must be set, or data.path: path (Training problems). Pass "
                "data.problems=FILE, or data.path=FOLDER for a training set that holds its messages too."
            )
        return self


class SynthesisConfig(Section):
    """The message sets."""

    min_messages: Count = 16
    """Smallest message set that is drawn (section 3.1)."""
    max_messages: Count = 24
    """|M| ~ U(min, max) (section 3.1); 0 and 0 is plain RLVR."""
    pool_size: Positive = 24
    """Messages per problem that ``pacore-rl pool`` generates."""
    compaction: str = "after_reasoning"
    """Name of the compaction in ``pacore_rl.synthesis.compaction``."""
    refresh_every_steps: Count = 0
    """Online messages: the policy itself writes pool_size fresh messages for the problems of the coming steps, this
    often; 0: only the cached pool (section 2.2 allows both)."""
    online_share: Share = 1.0
    """Share of each message set that is drawn from online messages where a problem has them."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_messages > self.max_messages:
            raise ValueError(
                f"synthesis.min_messages={self.min_messages} exceeds synthesis.max_messages={self.max_messages}; "
                "lower the first or raise the second."
            )
        check_compaction(self.compaction)
        return self


class SamplingConfig(Section):
    """How training responses are sampled."""

    temperature: float = Field(default=1.0, gt=0)
    """1 samples from the policy as it is (section 3.1)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """1 leaves no token out (section 3.1); less makes training off-policy."""
    max_response_tokens: Positive = 131_072
    """Budget of one response; the context window minus the prompt where that is less."""
    answer_reserve_tokens: Positive = 1024
    """Room that a synthesis prompt must leave for the response; whole messages are dropped until it does."""


class PPOConfig(Section):
    """The algorithm: Open-Reasoner-Zero's PPO, strictly on-policy by default.

    Off-policy (Appendix A) is ``actor_minibatches`` above 1 or ``oversample`` above 0, with ``importance_cap``.
    """

    problems_per_step: Positive = 16
    """P (section 3.1)."""
    responses_per_problem: Positive = 64
    """G: responses that share one problem and its message set (section 3.1)."""
    gamma: Share = 1.0
    """Discount of rewards by token (section 3.1)."""
    gae_lambda: Share = 1.0
    """Decay of generalised advantage estimation (section 3.1)."""
    clip_range: float = Field(default=0.2, gt=0)
    """The policy ratio is clipped to 1 - range, 1 + range."""
    value_clip_range: float = Field(default=0.2, gt=0)
    """Values are clipped to the old ones, plus or minus this."""
    actor_minibatches: Positive = 1
    """Optimizer steps per iteration; 1 is strictly on-policy."""
    critic_minibatches: Positive = 12
    """Optimizer steps of the critic per iteration, each on its share of the rows."""
    critic_warmup_steps: Count = 0
    """Iterations at the start in which only the critic learns."""
    importance_cap: float | None = Field(default=None, ge=1)
    """C of truncated importance sampling: tokens weigh min(p_trainer / p_engine, C) (Appendix A: 8); null: 1."""
    oversample: Share = 0.0
    """Partial rollouts: this share of responses is generated beside a step's own; a step ends when its rows have ended,
    and the next one goes on with the others. 0 is strictly on-policy."""
    max_logprob_gap: float | None = Field(default=None, gt=0)
    """Stop the run where the mean log-prob gap between engine and trainer exceeds this (nats a token)."""

    @property
    def rows_per_step(self) -> int:
        return self.problems_per_step * self.responses_per_problem


class EvaluationConfig(Section):
    """Periodic and final evaluation on held-out problems."""

    every_steps: Count = 0
    """0: only where asked for."""
    num_problems: Annotated[int, Field(ge=2)] = 256
    """Held-out problems that an evaluation reads, from the first on."""
    responses_per_problem: Positive = 8
    """Synthesis responses per problem, and per control."""
    configurations: tuple[tuple[Positive, ...], ...] = ((4,), (16,), (32, 4))
    """K vectors of the final evaluation; the closing round of 1 is implied (section 2.1)."""
    samples_per_problem: Positive = 1
    """Full multi-round runs per problem and configuration."""
    self_consistency_pool: Positive = 64
    """Solo responses per problem from which votes of any size are redrawn."""
    benchmarks: BenchmarksConfig = BenchmarksConfig()


class TrainerConfig(Section):
    """The loop."""

    steps: Count = 250
    """Iterations of the run: 250 in stage 1, 450 in stage 2 (section 3.1)."""
    checkpoint_every_steps: Count = 50
    """0: only at the end."""
    keep_checkpoints: Count = 3
    """The latest ones, and beside them the best by held-out evaluation; 0 keeps all."""


class LoggingConfig(Section):
    """Sinks of metrics; metrics.jsonl and the curves are always written."""

    console: bool = True
    """A line for each step in the terminal."""
    wandb_project: str | None = "pacore-rl"
    """Offline unless wandb is logged in; null turns wandb off."""
    sample_problems_per_step: Count = 2
    """Problems that samples.jsonl (and a wandb table) keeps of each step, with messages and responses; 0: none."""
    sample_responses_per_problem: Positive = 4
    """Responses that it keeps of each of them."""
    sample_text_chars: Annotated[int, Field(ge=100)] = 8000
    """Of a longer message or response it keeps the beginning and the end, this many characters together."""


class Config(Section):
    """A run."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    # As if it were written down empty: the section then says what it lacks.
    data: DataConfig = Field(default=cast(DataConfig, {}), validate_default=True)
    synthesis: SynthesisConfig = SynthesisConfig()
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    actor: ActorConfig = ActorConfig()
    critic: CriticConfig = CriticConfig()
    rollout: RolloutConfig = RolloutConfig()
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trainer: TrainerConfig = TrainerConfig()
    surviving: SurvivingConfig = SurvivingConfig()
    logging: LoggingConfig = LoggingConfig()
    curation: CurationConfig = CurationConfig()

    def learner(self, role: Literal["actor", "critic"]) -> LearnerConfig:
        """The section of one of the two learners."""
        return self.actor if role == "actor" else self.critic

    def minibatches(self, role: Literal["actor", "critic"]) -> int:
        """Optimizer steps of that learner in an iteration."""
        return self.ppo.actor_minibatches if role == "actor" else self.ppo.critic_minibatches

    @property
    def run_dir(self) -> Path:
        return self.run.output_dir / self.run.name

    @model_validator(mode="after")
    def _arithmetic(self) -> Self:
        rows = self.ppo.rows_per_step
        origin = (
            f"ppo.problems_per_step={self.ppo.problems_per_step} x "
            f"ppo.responses_per_problem={self.ppo.responses_per_problem} = {rows} rows"
        )
        for name, learner, minibatches in (
            ("actor", self.actor, self.ppo.actor_minibatches),
            ("critic", self.critic, self.ppo.critic_minibatches),
        ):
            if learner.num_ranks % learner.sequence_parallel:
                raise ValueError(
                    f"{name}.num_ranks={learner.num_ranks} cannot be divided into groups of "
                    f"{name}.sequence_parallel={learner.sequence_parallel}; choose a multiple of it."
                )
            groups = learner.num_ranks // learner.sequence_parallel
            share = f"{name}.num_ranks={learner.num_ranks}"
            if learner.sequence_parallel > 1:
                share += f" / {name}.sequence_parallel={learner.sequence_parallel} = {groups} groups"
            if rows < minibatches * groups:
                raise ValueError(
                    f"{origin} give no row to some rank when split into ppo.{name}_minibatches={minibatches} over "
                    f"{share}; lower the mini-batches or raise the rows."
                )
            if learner.offload_parameters and not learner.offload_optimizer:
                raise ValueError(
                    f"{name}.offload_parameters without {name}.offload_optimizer would keep Adam's state, the larger "
                    f"part, on the GPU; set {name}.offload_optimizer=true too."
                )
            if learner.offload_parameters and learner.zero_stage != 3:
                raise ValueError(
                    f"{name}.offload_parameters needs {name}.zero_stage=3, but it is {learner.zero_stage}; under "
                    "stages 1 and 2 every rank holds all weights. Set the stage to 3, or offload the optimizer only."
                )
            if learner.offload_checkpoints and learner.gradient_checkpointing is False:
                raise ValueError(
                    f"{name}.offload_checkpoints moves what {name}.gradient_checkpointing keeps, which is off; turn it "
                    "on, or leave the offload out."
                )
        if self.ppo.oversample and self.ppo.importance_cap is None:
            raise ValueError(
                f"ppo.oversample={self.ppo.oversample} goes on with responses under newer weights, which a strictly "
                "on-policy run must not. Set ppo.importance_cap (Appendix A: 8) to correct for it, or ppo.oversample=0."
            )
        if self.ppo.oversample and not round(self.ppo.oversample * self.ppo.problems_per_step):
            raise ValueError(
                f"ppo.oversample={self.ppo.oversample} of ppo.problems_per_step={self.ppo.problems_per_step} is less "
                "than half a problem, so nothing would be in flight beside a step; give "
                f"{1 / self.ppo.problems_per_step:.3g} or more, or 0."
            )
        held_out = (self.data.held_out_problems, self.data.held_out_pool)
        if None in held_out and (held_out != (None, None) or self.evaluation.every_steps):
            raise ValueError(
                f"data.held_out_problems={held_out[0]} and data.held_out_pool={held_out[1]} belong together, and "
                f"evaluation.every_steps={self.evaluation.every_steps} needs both; give both, or neither and 0."
            )
        room = self.model.context_window_tokens - self.sampling.answer_reserve_tokens
        if room <= 0:
            raise ValueError(
                f"sampling.answer_reserve_tokens={self.sampling.answer_reserve_tokens} leaves no room for a prompt in "
                f"model.context_window_tokens={self.model.context_window_tokens}; lower the reserve."
            )
        has_messages = self.data.pool is not None or self.data.path is not None
        if self.synthesis.max_messages and not has_messages and not self.synthesis.refresh_every_steps:
            raise ValueError(
                f"synthesis.max_messages={self.synthesis.max_messages} needs data.pool; generate one with "
                "`pacore-rl pool`, let the policy write messages with synthesis.refresh_every_steps=1, or set "
                "synthesis.min_messages=0 and synthesis.max_messages=0 for plain RLVR."
            )
        return self
