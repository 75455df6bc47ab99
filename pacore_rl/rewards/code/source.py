"""From a message to its program: the last fenced code block, and the language it is in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pacore_rl.rewards.code.suite import Language

MAX_SOURCE_BYTES = 1 << 20
_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}+|~{3,}+)[^\S\n]*+([^\n`]*+)$", re.MULTILINE)
"""Possessive throughout: a message is read in the caller's thread, in time linear in its length."""
_LANGUAGES: dict[str, Language] = {
    **dict.fromkeys(("python", "python3", "py", "py3", "pypy", "pypy3"), "python"),
    **dict.fromkeys(("cpp", "c++", "cc", "cxx", "c++17", "c++20", "cpp17", "cpp20", "c"), "cpp"),
}
_LOOKS_LIKE_CPP = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Source code to be run."""

    language: Language
    source: str


def last_program(message: str) -> Program | str:
    """The program of the last closed fenced block, or why there is none.

    A block's tag names the language; a block without one is C++ where it includes a header, else Python. A last block
    that never closes was cut off: what stood before it is not what the message concludes.
    """
    opening: re.Match[str] | None = None
    last: tuple[str, str] | None = None
    for fence in _FENCE.finditer(message):
        marks, tag = fence[1], fence[2].strip()
        if opening is None:
            opening = fence
        elif marks[0] == opening[1][0] and len(marks) >= len(opening[1]) and not tag:
            last = opening[2].strip(), message[opening.end() + 1 : fence.start()]
            opening = None
    if opening is not None:
        return "the last code block never closes"
    if last is None:
        return "no fenced code block"
    tag, source = last
    if not source.strip():
        return "the last code block is empty"
    if len(source.encode(errors="surrogatepass")) > MAX_SOURCE_BYTES:
        return f"the program exceeds {MAX_SOURCE_BYTES} bytes"
    name = tag.split()[0].strip("{}.").lower() if tag else ""
    if name and name not in _LANGUAGES and name not in ("text", "plaintext", "code"):
        return f"the last code block is {name[:20]!r}; only Python and C++ are run"
    guess: Language = "cpp" if _LOOKS_LIKE_CPP.search(source) else "python"
    return Program(language=_LANGUAGES.get(name, guess), source=source)
