"""When a request to an HTTP server is made again: after its ``Retry-After`` header (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]+)?")


def retry_after_seconds(header: str | None) -> float:
    """Seconds from now, of a header that gives seconds or a date; 0.0 for none, for nonsense and for the past."""
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    if when.tzinfo is None:  # "-0000": the time of no zone in particular
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def backoff_seconds(num_attempts: int, after_seconds: float, *, first: float, limit: float) -> float:
    """How long to wait after so many attempts: ``first``, doubled with each up to ``limit``, or what the server asked.

    Drawn between half and one and a half of it, else all calls that one failure broke come back at the same moment; but
    never before what the server asked, of which ``limit`` counts.
    """
    wait = min(limit, first * 2 ** (num_attempts - 1))
    return max(wait * random.uniform(0.5, 1.5), min(after_seconds, limit) * random.uniform(1.0, 1.5))
