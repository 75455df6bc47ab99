"""Number and size of a coding problem's tests."""

from __future__ import annotations

from dataclasses import replace

from pacore_rl.config_endpoints import CodeCurationConfig
from pacore_rl.rewards.code.suite import TestCase, TestSuite


def tidy(suite: TestSuite, config: CodeCurationConfig) -> TestSuite:
    """The suite without repeated and oversized tests, and with at most ``max_tests``: the smallest, in their order."""
    unique = list(dict.fromkeys(suite.tests))
    small = [test for test in unique if size_bytes(test) <= config.max_test_bytes]
    if len(small) > config.max_tests:
        fitting = set(sorted(range(len(small)), key=lambda i: (size_bytes(small[i]), i))[: config.max_tests])
        small = [test for i, test in enumerate(small) if i in fitting]
    return replace(suite, tests=tuple(small))


def size_bytes(test: TestCase) -> int:
    """The longer of its input and its output."""
    return max(len(text.encode(errors="surrogatepass")) for text in (test.input, test.output))


def contradiction(suite: TestSuite) -> str | None:
    """Why the tests cannot all be right: one input with two outputs, and no checker program that might accept both."""
    if suite.kind == "check" or suite.checker_program is not None:
        return None
    expected: dict[str, tuple[int, str]] = {}
    for number, test in enumerate(suite.tests, start=1):
        first, output = expected.setdefault(test.input, (number, test.output))
        if output.split() != test.output.split():
            return f"tests {first} and {number} have the same input and different outputs"
    return None


def too_weak(suite: TestSuite, min_tests: int) -> str | None:
    """Why passing the tests says too little: too few of them, or all with one answer."""
    if len(suite.tests) < min_tests:
        return f"it has {len(suite.tests)} usable tests, at least {min_tests} are needed"
    if suite.kind != "check" and len({tuple(test.output.split()) for test in suite.tests}) == 1:
        return f"all of its {len(suite.tests)} tests expect the same output ({suite.tests[0].output.strip()[:40]!r})"
    return None
