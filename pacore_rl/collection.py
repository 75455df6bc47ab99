"""A step's experience: problems and messages drawn, responses generated, each scored as it ends.

    draw        |M| ~ U(min, max) messages for each of P problems (paper, section 3.1)      synthesis.draws
    stream      G responses a problem; each goes to the scorer while others are generated   engine: vLLM
    collect     the verdicts, problem-major                                                 rewards

With ``ppo.oversample`` above 0 (partial rollouts, Appendix A) more is in generation than a step needs: a step ends
once its rows have ended, and what is unfinished goes on in the next one under the new weights. In flight are always
``rows x (1 + oversample)`` responses: the first step draws that share of problems more, every other step P.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from pacore_rl.checkpoints.rollouts import InFlight, Unfinished
from pacore_rl.config import Config
from pacore_rl.experience import Draw, Scored
from pacore_rl.interfaces import ChatTokenizer, Engine, Pending, Scorer
from pacore_rl.synthesis.compaction import compact
from pacore_rl.synthesis.draws import draw_messages, draw_problems, draw_rng, draw_seed, fit_to_window
from pacore_rl.types import GenerationRequest, PoolMessage, Problem, Sampling, Trajectory, Verdict

Pool = Mapping[str, Sequence[PoolMessage]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Response:
    """A response that ended, with its verdict under way."""

    draw: Draw
    sample: int
    trajectory: Trajectory
    verdict: Pending[list[Verdict]]

    def scored(self) -> Scored:
        """Wait for the verdict."""
        (verdict,) = self.verdict.result()
        return Scored(draw=self.draw, sample=self.sample, trajectory=self.trajectory, verdict=verdict)


@dataclass(frozen=True, slots=True)
class Known:
    """A verdict that there already is; a ``Pending``."""

    verdict: Verdict

    def result(self) -> list[Verdict]:
        return [self.verdict]


@dataclass(slots=True, kw_only=True)
class Collector:
    """Draws and generates the rows of one step after another."""

    config: Config
    engine: Engine
    scorer: Scorer
    tokenizer: ChatTokenizer
    problems: Sequence[Problem]
    pool: Pool
    online: Pool = field(default_factory=dict[str, Sequence[PoolMessage]])
    """Messages that the policy itself wrote (``synthesis.refresh_every_steps``)."""
    online_version: int | None = None
    """Of the weights that wrote them."""
    unfinished: list[Unfinished] = field(default_factory=list[Unfinished])
    """Responses in flight from earlier steps."""
    surplus: list[Response] = field(default_factory=list[Response])
    """Responses that ended together with the last ones of a step, and count in the next."""
    num_generated_tokens: int = 0
    """Of the latest step: new tokens of all responses, unfinished ones too."""

    def in_flight(self) -> InFlight:
        """What the steps so far leave to the next one; waits for verdicts under way."""
        return InFlight(
            unfinished=tuple(self.unfinished), surplus=tuple(response.scored() for response in self.surplus)
        )

    def go_on_with(self, in_flight: InFlight) -> None:
        """Take over what another collector left."""
        self.unfinished = list(in_flight.unfinished)
        self.surplus = [
            Response(draw=row.draw, sample=row.sample, trajectory=row.trajectory, verdict=Known(row.verdict))
            for row in in_flight.surplus
        ]

    def problems_of(self, step: int) -> list[tuple[int, Problem]]:
        """The step's problems, each with its round: the step it would belong to without oversampling.

        With E problems oversampled, step s draws the last P - E of round s and the first E of round s + 1; a step
        that finds nothing in flight (the first of a run) draws the first E of round s too.
        """
        per_step, extra = self.config.ppo.problems_per_step, oversampled_problems(self.config)
        rounds = (step, step + 1) if extra else (step,)
        drawn = [
            (number, problem)
            for number in rounds
            for problem in draw_problems(self.problems, per_step, seed=self.config.run.seed, step=number - 1)
        ]
        in_flight = extra if self.unfinished or self.surplus else 0
        return drawn[in_flight : per_step + extra]

    def draw(self, step: int) -> list[Draw]:
        """The step's problems, each with its message set in fresh order."""
        return [self._draw(number, problem) for number, problem in self.problems_of(step)]

    def generate(self, draws: Sequence[Draw]) -> list[Response]:
        """The step's responses, those of earlier steps first, each already with the scorer.

        With oversampling exactly ``ppo.rows_per_step`` of them; what else is in flight waits for the next step.
        """
        config, rows = self.config, self.config.ppo.rows_per_step
        requests = [
            GenerationRequest(prompt_ids=item.draw.prompt_ids, num_samples=1, seed=item.seed, continues=item.trajectory)
            for item in self.unfinished
        ]
        requests += [
            GenerationRequest(prompt_ids=draw.prompt_ids, num_samples=config.ppo.responses_per_problem, seed=draw.seed)
            for draw in draws
        ]
        before = self.unfinished
        origins = [*(item.draw for item in before), *draws]
        self.num_generated_tokens = 0
        enough = max(rows - len(self.surplus), 1) if config.ppo.oversample else None
        ended: dict[tuple[int, int], Response] = {}
        unfinished: dict[tuple[int, int], Unfinished] = {}
        with closing(self.engine.generator.stream(requests, sampling_of(config), enough=enough)) as stream:
            for index, sample, trajectory in stream:
                draw = origins[index]
                assert (index, sample) not in ended and (index, sample) not in unfinished, "a response came twice"
                number = before[index].sample if index < len(before) else sample
                self.num_generated_tokens += num_new_tokens(requests[index], trajectory)
                if trajectory.finish == "unfinished":
                    seed = before[index].seed if index < len(before) else draw_seed(draw.seed, "continue", sample)
                    unfinished[index, sample] = Unfinished(draw=draw, sample=number, trajectory=trajectory, seed=seed)
                else:
                    item = (draw.problem, self.message(trajectory), trajectory.finish)
                    ended[index, sample] = Response(
                        draw=draw, sample=number, trajectory=trajectory, verdict=self.scorer.score([item])
                    )
        num_asked, num_came = sum(request.num_samples for request in requests), len(ended) + len(unfinished)
        assert num_came == num_asked, f"{num_came} of {num_asked} responses came"
        self.unfinished = [unfinished[key] for key in sorted(unfinished)]
        responses = self.surplus + [ended[key] for key in sorted(ended)]
        self.surplus = responses[rows:]
        return responses[:rows]

    def message(self, trajectory: Trajectory) -> str:
        """What the reward judges: the conclusion that a next round would see, never the reasoning."""
        name, marker = self.config.synthesis.compaction, self.config.model.end_of_reasoning
        return compact(name, trajectory.text, trajectory.finish, marker)

    def _draw(self, number: int, problem: Problem) -> Draw:
        config = self.config
        rng = draw_rng(config.run.seed, "messages", number, problem.id)
        message_set = draw_messages(
            self.pool.get(problem.id, ()),
            config.synthesis.min_messages,
            config.synthesis.max_messages,
            rng,
            online=self.online.get(problem.id, ()),
            online_share=config.synthesis.online_share,
        )
        message_set, prompt_ids = fit_to_window(
            problem,
            message_set,
            self.tokenizer,
            window_tokens=config.model.context_window_tokens,
            reserve_tokens=config.sampling.answer_reserve_tokens,
            rng=rng,
        )
        seed = draw_seed(config.run.seed, "generate", number, problem.id)
        return Draw(problem=problem, message_set=message_set, prompt_ids=prompt_ids, seed=seed)


def collect(responses: Sequence[Response]) -> list[Scored]:
    """Wait for the verdicts; B rows in the responses' order (problem-major where nothing is oversampled)."""
    return [response.scored() for response in responses]


def num_new_tokens(request: GenerationRequest, trajectory: Trajectory) -> int:
    """Tokens that this request added to a response."""
    before = 0 if request.continues is None else request.continues.response_ids.size
    return trajectory.response_ids.size - before


def oversampled_problems(config: Config) -> int:
    """Problems in flight beside a step's own."""
    return round(config.ppo.oversample * config.ppo.problems_per_step)


def sampling_of(config: Config) -> Sampling:
    """How training responses are sampled."""
    return Sampling(
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        max_response_tokens=config.sampling.max_response_tokens,
    )
