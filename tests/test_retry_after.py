"""What a server's Retry-After header comes to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pacore_rl.retry_after import retry_after_seconds

FAR = "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"
FAR_ZONE = "Wed, 21 Oct 2026 07:28:00 +999999999999999999999999"


@pytest.mark.parametrize(("header", "seconds"), [("0", 0.0), ("20", 20.0), (" 1.5 ", 1.5), ("3600", 3600.0)])
def test_seconds(header: str, seconds: float) -> None:
    assert retry_after_seconds(header) == seconds


def test_a_date_is_counted_from_now() -> None:
    now = datetime.now(UTC)
    assert 85 < retry_after_seconds(format_datetime(now + timedelta(seconds=90), usegmt=True)) <= 90
    assert retry_after_seconds(format_datetime(now - timedelta(days=1), usegmt=True)) == 0.0
    assert 85 < retry_after_seconds((now + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S -0000")) <= 90


@pytest.mark.parametrize(
    "header", [None, "", "soon", "-5", "²", "1e9", "nan", "inf", "1.", "9" * 400, "Mon, 99 Foo", FAR, FAR_ZONE]
)
def test_nonsense_is_no_wait(header: str | None) -> None:
    assert retry_after_seconds(header) == 0.0
