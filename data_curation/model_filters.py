"""The filters of a recipe that ask a model or run programs, to follow the cheap ones: code first, then the judge.

Both remember on disk what they found, spread their own work, and run in the one process that owns their cache.
"""

from __future__ import annotations

from pathlib import Path

from data_curation.code.pipeline import VERSION as CODE_VERSION
from data_curation.code.pipeline import CodeFilter
from data_curation.judge_filter import VERSION as JUDGE_VERSION
from data_curation.judge_filter import JudgeFilter
from data_curation.records import Filter
from pacore_rl.append_log import KeyedLog
from pacore_rl.config import Config
from pacore_rl.config_rewards import CODE_LIMITS
from pacore_rl.spread import Spread

_HOW = {"base_urls", "api_key_variable", "max_concurrent", "connect_seconds", "first_token_seconds", "idle_seconds"} | {
    "max_retries",
    "backoff_seconds",
    "max_failures_in_a_row",
}
"""Settings of an endpoint that say how it is asked, not what it answers."""


def model_filters(config: Config, *, spread: Spread | None = None) -> tuple[tuple[Filter, object], ...]:
    """Each filter with the settings that its results depend on; the judge only where the recipe names an endpoint.

    Args:
        spread: where coding problems are checked; by default here, one after another.

    Raises ValueError for a damaged cache.
    """
    curation = config.curation
    folder = curation.output_dir / "cache"
    settings = (
        config.reward.model_dump(mode="json", include=set(CODE_LIMITS)),
        curation.code.model_dump(mode="json", exclude={"writer"}),
        curation.code.writer.model_dump(mode="json", exclude=_HOW),
    )
    code: tuple[Filter, object] = (
        CodeFilter(curation.code, config.reward, _open(folder / "code.jsonl"), spread=spread),
        [CODE_VERSION, *settings, bool(curation.code.writer.base_urls)],
    )
    if not curation.judge.base_urls:
        return (code,)
    judge: tuple[Filter, object] = (
        JudgeFilter(curation.judge, _open(folder / "votes.jsonl")),
        [JUDGE_VERSION, curation.judge.model_dump(mode="json", exclude=_HOW)],
    )
    return code, judge


def _open(path: Path) -> KeyedLog:
    return KeyedLog.open(path)
