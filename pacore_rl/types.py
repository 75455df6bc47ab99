"""The records that travel between the rooms of PaCoRe-RL.

Axes, as they appear in names:

    P   problems of one step
    K   messages in one problem's message set
    G   responses per problem
    B   rows of a batch, B = P * G, those of one problem side by side (with partial rollouts, of one draw)
    T   tokens of one row (prompt, then response)
    A   action tokens of a whole batch: the response tokens of row 0, then of row 1, ...

``values_A`` is therefore a flat array over the batch's action tokens; ``response_lengths_B`` cuts it into rows.
Arrays are numpy: records cross process boundaries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

Finish = Literal["stopped", "truncated", "empty", "overflow", "failed", "unfinished"]
"""How a generation ended.

stopped    the model ended it by itself, with a stop token
truncated  it ran into the token budget
empty      it stopped at once, without a token of text
overflow   the prompt leaves no room in the context window: nothing was generated
failed     the engine could not generate it
unfinished it was interrupted because enough others had ended, and can be continued (partial rollouts)
"""

Outcome = Literal["scored", "unparsed", "truncated", "timeout", "sandbox_error", "judge_error"]
"""How a scoring ended. The last two are failures of ours: the row is masked out, never scored 0."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A conversation whose latest user turn (or tool observation) awaits an answer that can be checked."""

    id: str
    conversation: tuple[Turn, ...]
    ground_truth: str
    reward: str = "math"
    """Name of the reward that scores answers to this problem (see ``pacore_rl.rewards``)."""
    source: str = ""
    tags: Mapping[str, str | int | float] = field(default_factory=dict[str, str | int | float])

    @property
    def fingerprint(self) -> str:
        """Of what is asked and what counts as right, whatever the id: 16 hexadecimal digits."""
        asked = "\n".join([*(turn.content for turn in self.conversation), self.ground_truth, self.reward])
        return hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reward says of one response."""

    reward: float
    """In [0, 1]; what PPO optimises."""
    correct: bool
    """All-or-nothing; what accuracies count."""
    outcome: Outcome
    reason: str
    """One short human sentence."""
    answer: str | None = None
    """The extracted final answer in its normal form; None where none could be parsed. Votes are counted on it."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """One generation, tokens in and tokens out. The text is decoded once and never tokenised again for training."""

    prompt_ids: Int32
    """[prompt]"""
    response_ids: Int32
    """[response], the stop token included when ``finish`` is ``stopped``."""
    logprobs: Float32
    """[response], log-probability of each response token in the engine that sampled it."""
    text: str
    """The decoded response, without the stop token."""
    finish: Finish
    weight_versions: Int32
    """[response], the version of the policy weights that sampled each token; one version unless it was continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMessage:
    """One cached round-1 message of a problem: what its compacted trajectory concluded, and whether that was right."""

    problem_id: str
    text: str
    """The compacted message; empty where the reasoning never closed."""
    finish: Finish
    verdict: Verdict
    num_tokens: int
    """Generated tokens of the whole trajectory (its share of test-time compute)."""
    model: str
    """Fingerprint of the weights that wrote it."""
    question: str = ""
    """``Problem.fingerprint`` of what it answers and was scored against; empty where it was not noted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSet:
    """The messages drawn for one problem and step, in the order in which the prompt lists them."""

    messages: tuple[str, ...]
    """[K]"""
    verdicts: tuple[Verdict, ...]
    """[K], the pool's verdict of each message."""
    num_dropped: int = 0
    """Messages left out because they were empty or did not fit the context window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample a response."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_response_tokens: int
    """Budget of one response. The engine shortens it where prompt and response would leave the context window."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationRequest:
    """``num_samples`` independent responses to one prompt."""

    prompt_ids: Int32
    num_samples: int
    seed: int
    """Sample i draws from a stream fixed by (seed, i): the same request repeats on the same weights."""
    first_sample: int = 0
    """Index i of the first of them, where samples before it are there already."""
    continues: Trajectory | None = None
    """An ``unfinished`` response to go on with, under the weights of now; then ``num_samples`` is 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRows:
    """The tokens of B rows: what learners need of a batch."""

    prompts: tuple[Int32, ...]
    """B arrays [P_b]. Rows of one prompt share its array, which is then held, and sent, once."""
    responses: tuple[Int32, ...]
    """B arrays, each of at least one token: A of them in all."""

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Self:
        """A row of each."""
        return cls(
            prompts=tuple(t.prompt_ids for t in trajectories), responses=tuple(t.response_ids for t in trajectories)
        )

    @property
    def num_rows(self) -> int:
        return len(self.responses)

    @property
    def response_lengths_B(self) -> Int32:
        """[B]"""
        return np.array([len(response) for response in self.responses], np.int32)

    @property
    def num_actions(self) -> int:
        """A, the global count of action tokens: the one denominator of every loss."""
        return sum(len(response) for response in self.responses)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExperienceBatch:
    """One step's scored responses, as PPO sees them. Rows masked out by a failed scoring are not in it."""

    rows: TokenRows
    engine_logprobs_A: Float32
    """[A], from the engine that sampled."""
    rewards_B: Float32
    """[B], terminal, in [0, 1]."""
    weight_versions_A: Int32
    """[A], the weights that sampled each action token."""

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    @property
    def num_actions(self) -> int:
        """A"""
        return self.rows.num_actions

    @property
    def response_lengths_B(self) -> Int32:
        """[B]"""
        return self.rows.response_lengths_B
