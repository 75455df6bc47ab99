from __future__ import annotations

import pytest

from pacore_rl.synthesis.levels import MAX_ROUNDS, as_text, parse_configuration, sequential


@pytest.mark.parametrize(
    ("text", "configuration"),
    [
        ("low", (4,)),
        ("Medium", (16,)),
        ("high", (32, 4)),
        ("32,4", (32, 4)),
        (" [32, 4] ", (32, 4)),
        ("1", (1,)),
        ("[]", ()),
        ("1024", (1024,)),
    ],
)
def test_a_level_is_a_name_or_numbers(text: str, configuration: tuple[int, ...]) -> None:
    assert parse_configuration(text) == configuration
    assert parse_configuration(as_text(configuration)) == configuration


@pytest.mark.parametrize(
    "text", ["[0]", "[-1]", "10000", "10,000", "ultra", "", "4,,4", "4.5", "[4", ",".join("1" * 65)]
)
def test_what_is_no_level_is_told_with_what_may_be_given(text: str) -> None:
    with pytest.raises(ValueError, match=r"low, medium, high|1 to 1,024|at most 64"):
        parse_configuration(text)


def test_sequential_refinement_is_one_sample_a_round() -> None:
    assert sequential(1) == ()
    assert sequential(4) == (1, 1, 1)
    assert len(sequential(MAX_ROUNDS + 1)) == MAX_ROUNDS
    with pytest.raises(ValueError, match="at least 1"):
        sequential(0)
