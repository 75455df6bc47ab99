"""Settings of models behind OpenAI-compatible endpoints that curation asks."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pacore_rl.config_base import Count, Positive, Section, Share


class EndpointConfig(Section):
    """A model behind one or more OpenAI-compatible endpoints."""

    base_urls: tuple[str, ...] = ()
    """Addresses such as http://host:8000/v1, all serving the same model; empty: there is none."""
    model: str = ""
    """Their name of the model."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, where one is needed."""
    max_concurrent: Positive = 64
    """Calls in flight at each endpoint."""
    connect_seconds: float = Field(default=10.0, gt=0)
    """Longest time until a connection stands."""
    first_token_seconds: float = Field(default=1800.0, gt=0)
    """Longest time until an answer begins: the server's queue and the prefill."""
    idle_seconds: float = Field(default=300.0, gt=0)
    """Longest time between two pieces of an answer. No limit is on the whole answer."""
    max_retries: Count = 5
    """Of a call that meets 429, 5xx, a broken connection, a time limit or an answer that is no chat completion."""
    backoff_seconds: float = Field(default=1.0, gt=0)
    """Mean wait before the first retry; it doubles with each, to a minute at most."""
    max_failures_in_a_row: Positive = 16
    """Calls that fail one after another, each after its retries, before the work stops: the endpoint is down."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.base_urls and not self.model:
            raise ValueError("base_urls are set, but model is not; name the model that they serve.")
        return self


class JudgeFilterConfig(EndpointConfig):
    """A model that votes on whether a problem is well posed and has one checkable answer (Appendix C)."""

    votes: Positive = 4
    """Independent votes, all of which must be yes."""
    attempts: Positive = 3
    """Replies that are read for one vote while none ends with yes or no; then the problem is dropped."""
    temperature: float = Field(default=0.6, ge=0)
    """Above 0, so that votes with different seeds differ."""
    max_reply_tokens: Positive = 4096
    """Budget of one reply, its reasoning included."""
    max_failed_share: Share = 0.01
    """Share of a part's problems that may be dropped for want of a reply before the work stops."""


class WriterConfig(EndpointConfig):
    """A model that writes input generators for coding problems (Appendix C)."""

    rounds: Count = 3
    """Generators it is asked for per problem, each time told what the last one came to; 0: none."""
    seeds_per_generator: Positive = 8
    """Inputs that are taken from one generator."""
    min_right_solutions: Positive = 2
    """Known right solutions that must agree on the output of a new input; with fewer of them, none is made."""
    max_new_tests: Positive = 16
    """New tests a problem gets at most."""
    temperature: float = Field(default=0.8, ge=0)
    """Of its replies."""
    max_reply_tokens: Positive = 8192
    """Budget of one reply, its reasoning included."""


class CodeCurationConfig(Section):
    """Checks of coding problems (Appendix C)."""

    min_tests: Positive = 3
    """Problems with fewer tests, the new ones included, are dropped."""
    max_tests: Positive = 200
    """Further tests are left out, the largest first."""
    max_test_bytes: Positive = 1 << 20
    """A larger input or output is left out with its test."""
    max_right_solutions: Positive = 3
    """Known right solutions that are run."""
    max_wrong_solutions: Positive = 8
    """Known wrong solutions that are run."""
    need_right_solution: bool = True
    """Drop problems without a right solution that can be run here; nothing vouches for their tests."""
    writer: WriterConfig = WriterConfig()


class PoolsConfig(Section):
    """Round-1 messages of every problem (section 3.1)."""

    size: Positive | None = None
    """Messages per problem; null: synthesis.pool_size."""
    problems_per_wave: Positive = 1024
    """Problems that are asked for together; engines idle a little at the end of each wave."""
    endpoint: EndpointConfig = EndpointConfig()
    """Where the messages come from; without base_urls: vLLM engines that Ray starts for the recipe's model."""
