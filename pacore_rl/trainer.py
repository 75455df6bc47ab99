"""The training loop. One step, top to bottom:

    refresh    now and then, messages of the policy itself     write_messages
    draw       problems, and a message set for each            collection, synthesis.draws
    generate   G responses to every synthesis prompt           engine: vLLM
    score      each response as it ends                        rewards
    batch      scored responses as PPO sees them               experience
    evaluate   values and log-probs under current weights      engine: DeepSpeed
    advantage  GAE, normalised over the whole batch            ppo.advantages, ppo.importance
    update     critic, and actor beside or after it            engine: DeepSpeed
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
from dataclasses import dataclass, replace
from typing import TypeVar

from pacore_rl.checkpoints.manifest import Checkpoint
from pacore_rl.checkpoints.random_states import restore_random_states
from pacore_rl.checkpoints.rollouts import InFlight, load_rollouts
from pacore_rl.checkpoints.store import CheckpointStore, Position
from pacore_rl.collection import Collector, Pool, collect
from pacore_rl.config import Config
from pacore_rl.experience import Scored, experience_batch, is_trainable
from pacore_rl.interfaces import ChatTokenizer, Engine, MetricSink, Pending, RunScorer, SampleSink
from pacore_rl.learned import Learned
from pacore_rl.metrics import Stopwatch, memory_metrics, scoring_metrics
from pacore_rl.ppo.advantages import gae, normalize_advantages
from pacore_rl.ppo.importance import truncated_importance_weights
from pacore_rl.samples import choose_samples
from pacore_rl.step_checks import agrees, check_on_policy, check_scoring, count_equal_rewards
from pacore_rl.termination import TerminatedSaved, is_termination, termination_deferred
from pacore_rl.types import ExperienceBatch, Float32, Problem

T = TypeVar("T")

HeldOutEvaluation = Callable[[int], Mapping[str, float]]
"""Step to held-out metrics, measured with the engine's current weights."""
WriteMessages = Callable[[Sequence[Problem], int], Pool]
"""(problems, weight version) to fresh round-1 messages of those problems by the engine's current weights."""


SCORE = "heldout/synthesis"
"""The metric that tells the best checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A run: its configuration and the machinery it drives. ``train`` is the loop."""

    config: Config
    engine: Engine
    scorer: RunScorer
    tokenizer: ChatTokenizer
    problems: Sequence[Problem]
    pool: Pool
    sinks: Sequence[MetricSink]
    sample_sinks: Sequence[SampleSink] = ()
    evaluate_held_out: HeldOutEvaluation | None = None
    write_messages: WriteMessages | None = None
    """Needed where ``synthesis.refresh_every_steps`` asks for online messages."""

    checkpoints: CheckpointStore | None = None
    """None writes none, not even at the end."""

    def train(self, *, first_step: int = 1, resume: Checkpoint | None = None) -> None:
        """Run ``trainer.steps`` steps from ``first_step`` on, those up to a checkpoint left out where one is given.

        A step trains on what the weights before it generated.

        Raises:
            TerminatedSaved: SIGTERM came; the steps that were finished are in a checkpoint.
            RunStopped: a policy of the recipe says so (``pacore_rl.step_checks``), or a worker is lost.
        """
        config = self.config
        last_step = first_step + config.trainer.steps - 1
        collector = Collector(
            config=config,
            engine=self.engine,
            scorer=self.scorer,
            tokenizer=self.tokenizer,
            problems=self.problems,
            pool=self.pool,
        )
        if resume is not None:
            at = self.resume(resume, collector)
        else:
            version = self.engine.generator.weight_version
            at = Position(step=first_step - 1, first_step=first_step, weight_version=version, in_flight=InFlight())
            if first_step == 1:
                self.evaluate_and_log(step=0)
        try:
            for step in range(at.step + 1, last_step + 1):
                watch = Stopwatch()
                saves = self.checkpoints is not None and (
                    is_due(step, config.trainer.checkpoint_every_steps) or step == last_step
                )
                rows = self.gather(step, last_step, at, collector, watch)
                with termination_deferred():  # half an update is nothing that could be saved
                    at = self.learn_from(rows, step, at, collector, watch, snapshot=saves)
                self.hear_of_checkpoints()
                if is_due(step, config.evaluation.every_steps):
                    at = replace(at, score=self.evaluate_and_log(step).get(SCORE))
                if saves:
                    self.save(at)
            self.finish_checkpoints()
        except KeyboardInterrupt as interruption:
            if not is_termination(interruption) or self.checkpoints is None or at.step < first_step:
                raise
            self.save_terminated(at)
            raise TerminatedSaved from interruption

    def gather(
        self, step: int, last_step: int, before: Position, collector: Collector, watch: Stopwatch
    ) -> list[Scored]:
        """The step's scored responses, generated by the weights of now."""
        config, version = self.config, before.weight_version
        with watch.phase("turn"):
            self.engine.turn_to("generation")
        if is_due(step - before.first_step, config.synthesis.refresh_every_steps):
            with watch.phase("refresh"):
                coming = range(step, min(step + config.synthesis.refresh_every_steps, last_step + 1))
                self.refresh(collector, coming, version)
        with watch.phase("draw"):
            draws = collector.draw(step)
        with watch.phase("generate"):
            responses = collector.generate(draws)
        with watch.phase("score"):
            rows = collect(responses)
            check_scoring(rows, config)
        return rows

    def learn_from(
        self,
        rows: list[Scored],
        step: int,
        before: Position,
        collector: Collector,
        watch: Stopwatch,
        *,
        snapshot: bool,
    ) -> Position:
        """Update critic and actor, send the weights, log the step; where the run stands after it."""
        config, engine, version = self.config, self.engine, before.weight_version
        with watch.phase("batch"):
            batch = experience_batch([row for row in rows if is_trainable(row)])
            check_on_policy(batch, version, config)
            num_equal_rewards = count_equal_rewards(batch.rewards_B, before.num_equal_rewards, config)
        with watch.phase("turn"):
            engine.turn_to("learning")
        with watch.phase("learn"):
            learned = self.learn(batch, step, version)
        if snapshot:
            with watch.phase("snapshot"):
                engine.snapshot()
        if learned.actor is not None:
            version = step
            with watch.phase("sync"):
                engine.sync_weights(version)
        with watch.phase("report"):
            metrics = learned.metrics(rows, batch, config, sampled_by=before.weight_version) | memory_metrics()
            metrics |= scoring_metrics(rows, waited_seconds=watch.seconds["score"], num_workers=self.scorer.num_workers)
            self.log_samples(step, rows)
        self.log(step, metrics | watch.metrics(generated_tokens=collector.num_generated_tokens))
        return Position(
            step=step,
            first_step=before.first_step,
            weight_version=version,
            in_flight=collector.in_flight(),
            online_version=collector.online_version,
            online_problems=tuple(collector.online),
            num_equal_rewards=num_equal_rewards,
        )

    def learn(self, batch: ExperienceBatch, step: int, version: int) -> Learned:
        """Values and log-probs under the current weights, advantages, and the updates of critic and actor."""
        config, actor, critic = self.config, self.engine.actor, self.engine.critic
        values_pending, log_probs_pending = self.before_actor(critic.values(batch)), actor.log_probs(batch)
        old_values_A, (log_probs_A, entropy_A) = values_pending.result(), log_probs_pending.result()
        advantages_A, returns_A = gae(
            batch.rewards_B,
            old_values_A,
            batch.response_lengths_B,
            gamma=config.ppo.gamma,
            gae_lambda=config.ppo.gae_lambda,
        )
        trusted = agrees(batch, log_probs_A, version, config)
        critic_metrics: Mapping[str, float] = {}
        actor_metrics: Mapping[str, float] | None = None
        if trusted:
            critic_update = self.before_actor(critic.update(batch, old_values_A, returns_A, step=step))
            if step > config.ppo.critic_warmup_steps:
                weighted_A = self.importance(batch, log_probs_A) * normalize_advantages(advantages_A)
                actor_metrics = actor.update(batch, log_probs_A, weighted_A, step=step).result()
            critic_metrics = critic_update.result()
        return Learned(
            log_probs_A=log_probs_A,
            entropy_A=entropy_A,
            old_values_A=old_values_A,
            returns_A=returns_A,
            actor=actor_metrics,
            critic=critic_metrics,
            skipped=not trusted,
        )

    def before_actor(self, pending: Pending[T]) -> Pending[T]:
        """The critic's work, waited for where the actor has the same GPUs.

        Side by side they slice a GPU's time, and a collective of one spins while its peer's GPU runs the other.
        """
        if self.engine.learners_share_gpus:
            pending.result()
        return pending

    def resume(self, checkpoint: Checkpoint, collector: Collector) -> Position:
        """Put learners, engines and collector where the checkpoint left them."""
        manifest = checkpoint.manifest
        self.engine.load_state(checkpoint.folder, manifest.weight_version)
        restore_random_states(dict(manifest.random))
        in_flight = load_rollouts(checkpoint.folder, self.problems)
        collector.go_on_with(in_flight)
        if manifest.online_version is not None:
            by_id = {problem.id: problem for problem in self.problems}
            self.engine.turn_to("generation")  # all of them are in the pool of the run, as a rule
            self.refresh_for(collector, [by_id[i] for i in manifest.online_problems], manifest.online_version)
        return Position(
            step=manifest.step,
            first_step=manifest.first_step,
            weight_version=manifest.weight_version,
            in_flight=in_flight,
            online_version=manifest.online_version,
            online_problems=manifest.online_problems,
            num_equal_rewards=manifest.num_equal_rewards,
        )

    def save(self, at: Position) -> None:
        """Write the latest snapshot as a checkpoint, beside the steps that follow."""
        assert self.checkpoints is not None
        self.checkpoints.begin(at, self.engine.write_snapshot)

    def save_terminated(self, at: Position) -> None:
        """A checkpoint of the last finished step, which the learners still hold, before the end."""
        assert self.checkpoints is not None
        self.checkpoints.finish()
        if not self.checkpoints.has(at.step):
            self.engine.turn_to("learning")
            self.engine.snapshot()
            self.save(at)
            self.checkpoints.finish()

    def hear_of_checkpoints(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.check()

    def finish_checkpoints(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.finish()

    def importance(self, batch: ExperienceBatch, log_probs_A: Float32) -> Float32 | float:
        """Weights [A] of truncated importance sampling; 1 where it is off."""
        cap = self.config.ppo.importance_cap
        if cap is None:
            return 1.0
        return truncated_importance_weights(log_probs_A, batch.engine_logprobs_A, cap=cap)

    def refresh(self, collector: Collector, coming: range, version: int) -> None:
        """Online messages for the problems of the coming steps, up to the next refresh (paper, section 2.2)."""
        problems = {problem.id: problem for later in coming for _, problem in collector.problems_of(later)}
        self.refresh_for(collector, tuple(problems.values()), version)

    def refresh_for(self, collector: Collector, problems: Sequence[Problem], version: int) -> None:
        assert self.write_messages is not None, "online messages need somebody who writes them"
        collector.online, collector.online_version = self.write_messages(problems, version), version

    def evaluate_and_log(self, step: int) -> Mapping[str, float]:
        """Held-out metrics of the current weights, logged; none where there is nothing to evaluate on."""
        if self.evaluate_held_out is None or not self.config.evaluation.every_steps:
            return {}
        started = time.monotonic()
        self.engine.turn_to("generation")
        metrics = dict(self.evaluate_held_out(step))
        self.log(step, metrics | {"time/evaluate": time.monotonic() - started})
        return metrics

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.log(step, metrics)

    def log_samples(self, step: int, rows: Sequence[Scored]) -> None:
        settings = self.config.logging
        if self.sample_sinks and settings.sample_problems_per_step:
            samples = choose_samples(rows, settings, seed=self.config.run.seed, step=step)
            for sink in self.sample_sinks:
                sink.log_samples(samples)


def is_due(step: int, period: int) -> bool:
    """Whether what happens every ``period`` steps (0: never) happens at this one."""
    return period > 0 and step % period == 0
