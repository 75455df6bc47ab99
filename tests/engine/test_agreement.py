"""What the start check asks engine and trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacore_rl.config import Config
from pacore_rl.engine.agreement import LONGEST_PROBE_TOKENS, RESPONSE_TOKENS, SHORT_PROMPT_TOKENS, probe_requests

TINY_BASE = Path(__file__).parents[2] / "recipes" / "tiny_base"


@pytest.mark.parametrize(
    ("original", "window", "expected"),
    [
        (None, 8192, SHORT_PROMPT_TOKENS),
        (512, 1024, 512 + SHORT_PROMPT_TOKENS),
        (65_536, 131_072, LONGEST_PROBE_TOKENS),  # a scaling that one of both leaves out hardly shows after 64 tokens
        (65_536, 1000, 1000 - RESPONSE_TOKENS),
    ],
)
def test_prompts_are_long_where_positions_are_scaled(original: int | None, window: int, expected: int) -> None:
    yarn = {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.07, "original_max_position_embeddings": original}
    config = Config.model_validate(
        {
            "model": {
                "path": str(TINY_BASE),
                "context_window_tokens": window,
                "rope_scaling": None if original is None else yarn,
            },
            "sampling": {"max_response_tokens": window // 2, "answer_reserve_tokens": window // 4},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
        }
    )
    assert {len(request.prompt_ids) for request in probe_requests(config)} == {expected}
