"""The training loop. One step, top to bottom:

    draw       problems, and a message set for each            synthesis.draws
    generate   G responses to every synthesis prompt           engine: vLLM
    score      each problem's responses as they end            rewards
    batch      scored responses as PPO sees them               experience_batch
    evaluate   values and log-probs under current weights      engine: DeepSpeed
    advantage  GAE, normalised over the whole batch            ppo.advantages
    update     critic, and actor beside it                     engine: DeepSpeed
    sync       the new weights into vLLM                       engine: weight transfer
    report     metrics, held-out evaluation, checkpoint

A synthesis step is one environment step of PaCoRe (arXiv 2601.05593, section 2.2): the state is a problem with a
set of messages, the action a whole trajectory, the reward terminal. With message sets of size 0 the prompt is the
problem itself and the same loop is plain RLVR. Everything heavy stands behind ``pacore_rl.interfaces``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pacore_rl.config import Config
from pacore_rl.interfaces import ChatTokenizer, Engine, MetricSink, Pending, Scorer
from pacore_rl.metrics import Stopwatch, scoring_failures, step_metrics
from pacore_rl.ppo.advantages import gae, normalize_advantages
from pacore_rl.synthesis.compaction import compact
from pacore_rl.synthesis.draws import draw_messages, draw_problems, draw_rng, draw_seed, fit_to_window
from pacore_rl.types import (
    ExperienceBatch,
    GenerationRequest,
    Int32,
    MessageSet,
    PoolMessage,
    Problem,
    Sampling,
    Trajectory,
    Verdict,
)

Pool = Mapping[str, Sequence[PoolMessage]]
HeldOutEvaluation = Callable[[int], Mapping[str, float]]
"""Step to held-out metrics, measured with the engine's current weights."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """One problem of a step with the messages its G responses share."""

    problem: Problem
    message_set: MessageSet
    prompt_ids: Int32
    """[prompt]"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One response and what became of it."""

    draw: Draw
    trajectory: Trajectory
    verdict: Verdict


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
    evaluate_held_out: HeldOutEvaluation | None = None

    def train(self, *, first_step: int = 1) -> None:
        """Run ``trainer.steps`` steps from ``first_step`` on; step s trains on what weights s - 1 generated."""
        config, actor, critic = self.config, self.engine.actor, self.engine.critic
        last_step = first_step + config.trainer.steps - 1
        if first_step == 1:
            self.evaluate_and_log(step=0)
        for step in range(first_step, last_step + 1):
            watch = Stopwatch()

            with watch.phase("draw"):
                draws = self.draw(step)
            with watch.phase("generate"):
                scored, scoring = self.generate(draws, step)
            with watch.phase("score"):
                rows = collect(scored, scoring)
            with watch.phase("batch"):
                self.check_scoring(rows)
                kept = [row for row in rows if is_trainable(row)]
                batch = experience_batch(kept)
                self.check_on_policy(batch, version=step - 1)

            with watch.phase("learn"):
                values_pending, log_probs_pending = critic.values(batch), actor.log_probs(batch)
                old_values_A, (log_probs_A, entropy_A) = values_pending.result(), log_probs_pending.result()
                advantages_A, returns_A = gae(
                    batch.rewards_B,
                    old_values_A,
                    batch.response_lengths_B,
                    gamma=config.ppo.gamma,
                    gae_lambda=config.ppo.gae_lambda,
                )
                critic_update = critic.update(batch, old_values_A, returns_A, step=step)
                actor_update = actor.update(batch, log_probs_A, normalize_advantages(advantages_A), step=step)
                critic_metrics, actor_metrics = critic_update.result(), actor_update.result()

            with watch.phase("sync"):
                self.engine.sync_weights(step)

            with watch.phase("report"):
                metrics = step_metrics(
                    rows=rows,
                    batch=batch,
                    log_probs_A=log_probs_A,
                    entropy_A=entropy_A,
                    old_values_A=old_values_A,
                    returns_A=returns_A,
                )
                metrics |= {f"policy/{key}": value for key, value in actor_metrics.items()}
                metrics |= {f"critic/{key}": value for key, value in critic_metrics.items()}
            metrics |= watch.metrics(generated_tokens=sum(row.trajectory.response_ids.size for row in rows))
            self.log(step, metrics)

            if every(step, config.evaluation.every_steps):
                self.evaluate_and_log(step)
            if every(step, config.trainer.checkpoint_every_steps) or step == last_step:
                self.checkpoint(step)

    def draw(self, step: int) -> list[Draw]:
        """The step's problems, each with |M| ~ U(min, max) messages of its pool in fresh order (section 3.1)."""
        config, draws = self.config, []
        for problem in draw_problems(self.problems, config.ppo.problems_per_step, seed=config.run.seed, step=step - 1):
            rng = draw_rng(config.run.seed, "messages", step, problem.id)
            message_set = draw_messages(
                self.pool.get(problem.id, ()), config.synthesis.min_messages, config.synthesis.max_messages, rng
            )
            message_set, prompt_ids = fit_to_window(
                problem,
                message_set,
                self.tokenizer,
                window_tokens=config.model.context_window_tokens,
                reserve_tokens=config.sampling.answer_reserve_tokens,
                rng=rng,
            )
            draws.append(Draw(problem=problem, message_set=message_set, prompt_ids=prompt_ids))
        return draws

    def generate(
        self, draws: Sequence[Draw], step: int
    ) -> tuple[list[tuple[Draw, tuple[Trajectory, ...]]], list[Pending[list[Verdict]]]]:
        """G responses per draw; a problem's responses go to the scorer while others are still being generated."""
        config = self.config
        requests = [
            GenerationRequest(
                prompt_ids=draw.prompt_ids,
                num_samples=config.ppo.responses_per_problem,
                seed=draw_seed(config.run.seed, "generate", step, draw.problem.id),
            )
            for draw in draws
        ]
        sampling = Sampling(
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            max_response_tokens=config.sampling.max_response_tokens,
        )
        responses: dict[int, tuple[Trajectory, ...]] = {}
        scoring: dict[int, Pending[list[Verdict]]] = {}
        for index, trajectories in self.engine.generator.generate(requests, sampling):
            responses[index] = trajectories
            scoring[index] = self.scorer.score(
                [(draws[index].problem, self.message(trajectory), trajectory.finish) for trajectory in trajectories]
            )
        order = range(len(draws))
        return [(draws[i], responses[i]) for i in order], [scoring[i] for i in order]

    def message(self, trajectory: Trajectory) -> str:
        """What the reward judges: the conclusion that a next round would see, never the reasoning."""
        name, marker = self.config.synthesis.compaction, self.config.model.end_of_reasoning
        return compact(name, trajectory.text, trajectory.finish, marker)

    def check_scoring(self, rows: Sequence[Scored]) -> None:
        """Stop a run whose scoring fails too often: masked rows would silently change what is learned."""
        failed, limit = scoring_failures(rows), self.config.reward.max_failed_share
        if failed > limit * len(rows):
            reasons = sorted({row.verdict.reason for row in rows if row.verdict.outcome.endswith("_error")})
            raise RuntimeError(
                f"{failed} of {len(rows)} scorings failed through no fault of the responses, above "
                f"reward.max_failed_share={limit}. Causes: {'; '.join(reasons[:3])}. "
                "Repair the scorer (see `pacore-rl doctor`) and train again from the last checkpoint."
            )

    def check_on_policy(self, batch: ExperienceBatch, *, version: int) -> None:
        """Strictly on-policy is checked, not assumed: every row must come from the weights about to be updated."""
        assert (batch.weight_versions_A == version).all(), (
            f"tokens of weight versions {np.unique(batch.weight_versions_A).tolist()} in the step that trains {version}"
        )

    def evaluate_and_log(self, step: int) -> None:
        if self.evaluate_held_out is not None and self.config.evaluation.every_steps:
            started = time.monotonic()
            metrics = dict(self.evaluate_held_out(step))
            self.log(step, metrics | {"time/evaluate": time.monotonic() - started})

    def checkpoint(self, step: int) -> None:
        folder = checkpoint_folder(self.config, step)
        self.engine.actor.save(folder / "actor")
        self.engine.critic.save(folder / "critic")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.log(step, metrics)


def collect(
    responses: Sequence[tuple[Draw, tuple[Trajectory, ...]]], scoring: Sequence[Pending[list[Verdict]]]
) -> list[Scored]:
    """Wait for the verdicts; B rows, problem-major."""
    return [
        Scored(draw=draw, trajectory=trajectory, verdict=verdict)
        for (draw, trajectories), pending in zip(responses, scoring, strict=True)
        for trajectory, verdict in zip(trajectories, pending.result(), strict=True)
    ]


def is_trainable(row: Scored) -> bool:
    """Whether PPO may learn from the row: it has tokens, and its reward is about the response, not about us."""
    return row.trajectory.response_ids.size > 0 and not row.verdict.outcome.endswith("_error")


def experience_batch(rows: Sequence[Scored]) -> ExperienceBatch:
    """Rows as PPO sees them.

    Raises:
        RuntimeError: there is no row to learn from.
    """
    if not rows:
        raise RuntimeError(
            "no response of this step can be learned from: all are empty, overflow the context window or failed to "
            "be scored. Look at response/* metrics; raise model.context_window_tokens or check the chat template."
        )
    trajectories = [row.trajectory for row in rows]
    return ExperienceBatch(
        token_ids=tuple(np.concatenate([t.prompt_ids, t.response_ids]) for t in trajectories),
        prompt_lengths_B=np.array([t.prompt_ids.size for t in trajectories], dtype=np.int32),
        response_lengths_B=np.array([t.response_ids.size for t in trajectories], dtype=np.int32),
        engine_logprobs_A=np.concatenate([t.logprobs for t in trajectories]),
        rewards_B=np.array([row.verdict.reward for row in rows], dtype=np.float32),
        weight_versions_A=np.concatenate([t.weight_versions for t in trajectories]),
    )


def checkpoint_folder(config: Config, step: int) -> Path:
    return config.run_dir / "checkpoints" / f"step_{step:06d}"


def every(step: int, period: int) -> bool:
    return period > 0 and step % period == 0
