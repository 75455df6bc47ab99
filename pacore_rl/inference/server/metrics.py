"""What the server tells Prometheus."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pacore_rl.inference.answering import Answered
from pacore_rl.inference.client import Client

_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1_200, 3_600, 7_200)


class ServerMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, client: Client) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "pacore_requests", "Chat completions by how they ended.", ["outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "pacore_request_seconds", "Duration of chat completions.", buckets=_SECONDS, registry=self.registry
        )
        self._tokens = Counter(
            "pacore_generated_tokens", "Generated tokens by round.", ["round"], registry=self.registry
        )
        self._prompt_tokens = Counter("pacore_prompt_tokens", "Prompt tokens of all calls.", registry=self.registry)
        self._cached_tokens = Counter(
            "pacore_cached_prompt_tokens", "Prompt tokens the endpoint had cached.", registry=self.registry
        )
        self._dropped = Counter("pacore_dropped_messages", "Messages that no prompt showed.", registry=self.registry)
        self.in_flight = Gauge("pacore_requests_in_flight", "Chat completions under way.", registry=self.registry)
        for name, text, value in (
            ("pacore_upstream_calls_open", "Calls open to the endpoints.", lambda: _sum(client, "num_open")),
            ("pacore_upstream_calls_waiting", "Calls that wait for a slot.", lambda: _sum(client, "num_waiting")),
            ("pacore_upstream_calls", "Calls made to the endpoints.", lambda: client.counters.num_calls),
            ("pacore_tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks())),
            ("pacore_upstream_retries", "Calls that were made again.", lambda: client.counters.num_retries),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def ended(self, outcome: str, seconds: float) -> None:
        """A chat completion is over: ``ok``, ``failed``, ``cancelled``, or the status of its refusal."""
        self._requests.labels(outcome=outcome).inc()
        self._seconds.observe(seconds)

    def answered(self, answered: Answered) -> None:
        """A problem went through its rounds."""
        for index, cost in answered.rounds.ledger.by_round().items():
            self._tokens.labels(round=str(index)).inc(cost.generated_tokens)
        total = answered.rounds.ledger.total
        self._prompt_tokens.inc(total.prompt_tokens)
        self._cached_tokens.inc(total.cached_tokens)
        self._dropped.inc(answered.rounds.num_dropped)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _sum(client: Client, name: str) -> int:
    return sum(getattr(replica.slots, name) for replica in client.replicas)
