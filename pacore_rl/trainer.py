"""The training loop. One step, top to bottom:

    refresh    now and then, messages of the policy itself     write_messages
    draw       problems, and a message set for each            collection, synthesis.draws
    generate   G responses to every synthesis prompt           engine: vLLM
    score      each response as it ends                        rewards
    batch      scored responses as PPO sees them               experience
    evaluate   values and log-probs under current weights      engine: DeepSpeed
    advantage  GAE, normalised over the whole batch            ppo.advantages, ppo.importance
    update     critic, and actor beside it                     engine: DeepSpeed
    sync       the new weights into vLLM                       engine: weight transfer
    report     metrics, checkpoint, held-out evaluation

A synthesis step is one environment step of PaCoRe (arXiv 2601.05593, section 2.2): the state is a problem with a
set of messages, the action a whole trajectory, the reward terminal. With message sets of size 0 the prompt is the
problem itself and the same loop is plain RLVR. Strictly on-policy and off-policy (several actor mini-batches, partial
rollouts, truncated importance sampling) are settings of this one loop. Everything heavy stands behind
``pacore_rl.interfaces``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pacore_rl.collection import Collector, Pool, collect
from pacore_rl.config import Config
from pacore_rl.experience import Scored, experience_batch, is_trainable
from pacore_rl.failures import RunStopped
from pacore_rl.interfaces import ChatTokenizer, Engine, MetricSink, SampleSink, Scorer
from pacore_rl.metrics import Stopwatch, in_area, memory_metrics, off_policy_metrics, scoring_failures, step_metrics
from pacore_rl.ppo.advantages import gae, normalize_advantages
from pacore_rl.ppo.importance import truncated_importance_weights
from pacore_rl.samples import choose_samples
from pacore_rl.types import ExperienceBatch, Float32, Problem

HeldOutEvaluation = Callable[[int], Mapping[str, float]]
"""Step to held-out metrics, measured with the engine's current weights."""
WriteMessages = Callable[[Sequence[Problem], int], Pool]
"""(problems, weight version) to fresh round-1 messages of those problems by the engine's current weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A run: its configuration and the machinery it drives. ``train`` is the loop."""

    config: Config
    engine: Engine
    scorer: Scorer
    tokenizer: ChatTokenizer
    problems: Sequence[Problem]
    pool: Pool
    sinks: Sequence[MetricSink]
    sample_sinks: Sequence[SampleSink] = ()
    evaluate_held_out: HeldOutEvaluation | None = None
    write_messages: WriteMessages | None = None
    """Needed where ``synthesis.refresh_every_steps`` asks for online messages."""

    def train(self, *, first_step: int = 1) -> None:
        """Run ``trainer.steps`` steps from ``first_step`` on; a step trains on what the weights before it generated."""
        config, engine = self.config, self.engine
        actor, critic = engine.actor, engine.critic
        collector = Collector(
            config=config,
            engine=engine,
            scorer=self.scorer,
            tokenizer=self.tokenizer,
            problems=self.problems,
            pool=self.pool,
        )
        version = engine.generator.weight_version
        last_step = first_step + config.trainer.steps - 1
        if first_step == 1:
            self.evaluate_and_log(step=0)
        for step in range(first_step, last_step + 1):
            watch = Stopwatch()
            trains_actor, sampled_by = step > config.ppo.critic_warmup_steps, version

            with watch.phase("turn"):
                engine.turn_to("generation")
            if is_due(step - first_step, config.synthesis.refresh_every_steps):
                with watch.phase("refresh"):
                    coming = range(step, min(step + config.synthesis.refresh_every_steps, last_step + 1))
                    self.refresh(collector, coming, version)
            with watch.phase("draw"):
                draws = collector.draw(step)
            with watch.phase("generate"):
                responses = collector.generate(draws)
            with watch.phase("score"):
                rows = collect(responses)
            with watch.phase("batch"):
                self.check_scoring(rows)
                batch = experience_batch([row for row in rows if is_trainable(row)])
                self.check_on_policy(batch, version)

            with watch.phase("turn"):
                engine.turn_to("learning")
            with watch.phase("learn"):
                values_pending, log_probs_pending = critic.values(batch), actor.log_probs(batch)
                old_values_A, (log_probs_A, entropy_A) = values_pending.result(), log_probs_pending.result()
                self.check_agreement(batch, log_probs_A, version)
                advantages_A, returns_A = gae(
                    batch.rewards_B,
                    old_values_A,
                    batch.response_lengths_B,
                    gamma=config.ppo.gamma,
                    gae_lambda=config.ppo.gae_lambda,
                )
                critic_update = critic.update(batch, old_values_A, returns_A, step=step)
                if trains_actor:
                    weighted_A = self.importance(batch, log_probs_A) * normalize_advantages(advantages_A)
                    actor_metrics = actor.update(batch, log_probs_A, weighted_A, step=step).result()
                else:
                    actor_metrics = {}
                critic_metrics = critic_update.result()

            if trains_actor:
                with watch.phase("sync"):
                    version = step
                    engine.sync_weights(version)

            with watch.phase("report"):
                metrics = step_metrics(
                    rows=rows,
                    batch=batch,
                    log_probs_A=log_probs_A,
                    entropy_A=entropy_A,
                    old_values_A=old_values_A,
                    returns_A=returns_A,
                )
                metrics |= in_area("policy", actor_metrics) | in_area("critic", critic_metrics) | memory_metrics()
                if config.ppo.importance_cap is not None:
                    metrics |= off_policy_metrics(batch, log_probs_A, cap=config.ppo.importance_cap, version=sampled_by)
                self.log_samples(step, rows)
            metrics |= watch.metrics(generated_tokens=collector.num_generated_tokens)
            self.log(step, metrics)

            if is_due(step, config.trainer.checkpoint_every_steps) or step == last_step:
                self.checkpoint(step)
            if is_due(step, config.evaluation.every_steps):
                self.evaluate_and_log(step)

    def check_scoring(self, rows: Sequence[Scored]) -> None:
        """Stop a run whose scoring fails too often: masked rows would silently change what is learned."""
        failed, limit = scoring_failures(rows), self.config.reward.max_failed_share
        if failed > limit * len(rows):
            reasons = sorted({row.verdict.reason for row in rows if row.verdict.outcome.endswith("_error")})
            raise RunStopped(
                f"{failed} of {len(rows)} scorings failed through no fault of the responses, above "
                f"reward.max_failed_share={limit}. Causes: {'; '.join(reasons[:3])}. "
                "Repair the scorer (see `pacore-rl doctor`) and train on with model.path= the last checkpoint's actor."
            )

    def check_on_policy(self, batch: ExperienceBatch, version: int) -> None:
        """Strictly on-policy is checked, not assumed: every token must come from the weights about to be updated."""
        if self.config.ppo.oversample:
            assert (batch.weight_versions_A <= version).all(), "tokens from weights that do not exist yet"
            return
        assert (batch.weight_versions_A == version).all(), (
            f"tokens of weight versions {np.unique(batch.weight_versions_A).tolist()} in the step that trains {version}"
        )

    def check_agreement(self, batch: ExperienceBatch, log_probs_A: Float32, version: int) -> None:
        """Stop a run whose engine and trainer disagree about tokens that the same weights sampled."""
        limit, is_current = self.config.ppo.max_logprob_gap, batch.weight_versions_A == version
        if limit is None or not is_current.any():
            return
        gap = float(np.abs(log_probs_A - batch.engine_logprobs_A)[is_current].mean())
        if not gap <= limit:  # a gap that is not a number is no agreement
            raise RunStopped(
                f"engine and trainer disagree by {gap:.3g} nats a token about what weight version {version} sampled, "
                f"above ppo.max_logprob_gap={limit}. Compare model.dtype and model.rope_scaling on both sides; if the "
                "gap grew slowly with bfloat16, raise the limit or set ppo.importance_cap."
            )

    def importance(self, batch: ExperienceBatch, log_probs_A: Float32) -> Float32 | float:
        """Weights [A] of truncated importance sampling; 1 where it is off."""
        cap = self.config.ppo.importance_cap
        if cap is None:
            return 1.0
        return truncated_importance_weights(log_probs_A, batch.engine_logprobs_A, cap=cap)

    def refresh(self, collector: Collector, coming: range, version: int) -> None:
        """Online messages for the problems of the coming steps, up to the next refresh (paper, section 2.2)."""
        assert self.write_messages is not None, "online messages need somebody who writes them"
        problems = {problem.id: problem for later in coming for _, problem in collector.problems_of(later)}
        collector.online = self.write_messages(tuple(problems.values()), version)

    def evaluate_and_log(self, step: int) -> None:
        if self.evaluate_held_out is not None and self.config.evaluation.every_steps:
            started = time.monotonic()
            self.engine.turn_to("generation")
            metrics = dict(self.evaluate_held_out(step))
            self.log(step, metrics | {"time/evaluate": time.monotonic() - started})

    def checkpoint(self, step: int) -> None:
        folder = checkpoint_folder(self.config, step)
        self.engine.actor.save(folder / "actor")
        self.engine.critic.save(folder / "critic")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.log(step, metrics)

    def log_samples(self, step: int, rows: Sequence[Scored]) -> None:
        settings = self.config.logging
        if self.sample_sinks and settings.sample_problems_per_step:
            samples = choose_samples(rows, settings, seed=self.config.run.seed, step=step)
            for sink in self.sample_sinks:
                sink.log_samples(samples)


def checkpoint_folder(config: Config, step: int) -> Path:
    return config.run_dir / "checkpoints" / f"step_{step:06d}"


def is_due(step: int, period: int) -> bool:
    """Whether what happens every ``period`` steps (0: never) happens at this one."""
    return period > 0 and step % period == 0
