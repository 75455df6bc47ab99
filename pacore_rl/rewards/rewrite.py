r"""Brings two answers into one notation before parsing: ``3 < x \le 4`` and ``(3,4]``, ``2 \pm 1`` and ``3, 1``,
``(a,b) = (1,2)`` and ``b = 2, a = 1``.

Text in, text out; what is not recognised stays as it is.
"""

from __future__ import annotations

import re

_LETTER_EXPONENT = re.compile(r"\^([a-zA-Z])")
_DIGIT_EXPONENT = re.compile(r"\^([0-9])(?=\s+[a-zA-Z])")
_ASCII_FUNCTION = re.compile(r"(?<![\\a-zA-Z{])(sqrt|pi|sin|cos|tan|cot|ln|log|exp|theta)(?![a-zA-Z])")
_ROOT_OPENING = re.compile(r"\\sqrt\(")
_LOG_TO_E = re.compile(r"\\log_\{?e\}?(?![a-zA-Z])")
_BARE_LOG = re.compile(r"\\log(?![a-zA-Z_])")

_RELATION = re.compile(r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda|phi)")
_MODULUS = re.compile(r"\|([a-zA-Z])\|")
_MEMBER = re.compile(r"([a-zA-Z])\s*\\in(?![a-zA-Z])\s*(?=[(\[])")
_OR = re.compile(r"\s*(?:\\text\{\s*or\s*\}|\\lor(?![a-zA-Z])|(?<![a-zA-Z])or(?![a-zA-Z]))\s*")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}

_SIGN = re.compile(r"\\(pm|mp)(?![a-zA-Z])\s*")
_ASSIGNMENT = re.compile(r"([a-zA-Z](?:_\{?[0-9a-zA-Z]\}?)?)=([^=<>]+)")
_NAMED_TUPLE = re.compile(r"\(([a-zA-Z](?:,[a-zA-Z])+)\)=\((.*)\)")


def rewritten(answer: str, ground_truth: str) -> tuple[str, str]:
    """Both texts (in normal form) in one notation where that can be had."""
    one, other = _spelled_out(answer), _spelled_out(ground_truth)
    if (r"\ln" in one) != (r"\ln" in other):  # a bare log beside a ln is natural
        one, other = _BARE_LOG.sub(r"\\ln", one), _BARE_LOG.sub(r"\\ln", other)
    one, other = _as_tuples(one, other)
    one, other = _as_intervals(one, other)
    return _both_signs(one), _both_signs(other)


def split_list(text: str) -> list[str]:
    """Parts between the commas (or semicolons) outside all brackets."""
    parts, start, depth = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in ",;" and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]]]


def is_enclosed(text: str, opening: str) -> bool:
    """Whether one pair of brackets that begins with ``opening`` is around the whole text."""
    if not text.startswith(opening):
        return False
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and position >= len(opening) - 1:
            return position == len(text) - 1
    return False


def _spelled_out(text: str) -> str:
    text = _ASCII_FUNCTION.sub(r"\\\1 ", text)
    if "\\sqrt " in text or "\\sqrt(" in text:
        text = _bracketed_roots(text.replace("\\sqrt (", "\\sqrt("))
    if "\\" not in text or "*" in text:
        text = re.sub(r"(?<!\*)\*(?!\*)", r" \\cdot ", text)
    text = _LOG_TO_E.sub(r"\\ln", text)
    return _DIGIT_EXPONENT.sub(r"^{\1}", _LETTER_EXPONENT.sub(r"^{\1}", text))


def _bracketed_roots(text: str) -> str:
    r"""``\sqrt(3)`` is ``\sqrt{3}``."""
    while match := _ROOT_OPENING.search(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        if depth:
            return text
        text = f"{text[: match.start()]}\\sqrt{{{text[match.end() : end - 1]}}}{text[end:]}"
    return text


def _both_signs(text: str) -> str:
    r"""``a \pm b`` written out as two; ``\mp`` takes the other sign."""
    if "\\pm" not in text and "\\mp" not in text:
        return text
    parts: list[str] = []
    for part in split_list(text):
        if _SIGN.search(part):
            parts.append(_SIGN.sub(lambda sign: "+" if sign[1] == "pm" else "-", part))
            parts.append(_SIGN.sub(lambda sign: "-" if sign[1] == "pm" else "+", part))
        else:
            parts.append(part)
    return ",".join(re.sub(r"(^|[=(\[{])\+", r"\1", part) for part in parts)


def _as_tuples(one: str, other: str) -> tuple[str, str]:
    """Values of several names, as a tuple in the order of the names; the names of both must agree."""
    values, expected = _assignments(one), _assignments(other)
    if values is None or expected is None or values.keys() != expected.keys():
        return one, other
    return tuple(f"({','.join(known[name] for name in sorted(known))})" for known in (values, expected))  # type: ignore[return-value]


def _assignments(text: str) -> dict[str, str] | None:
    if match := _NAMED_TUPLE.fullmatch(text):
        names, values = match[1].split(","), split_list(match[2])
    else:
        pairs = [_ASSIGNMENT.fullmatch(part) for part in split_list(text)]
        if len(pairs) < 2:
            return None
        names = [pair[1] for pair in pairs if pair]
        values = [pair[2] for pair in pairs if pair]
        if len(names) != len(pairs):
            return None
    return dict(zip(names, values, strict=True)) if len(set(names)) == len(names) == len(values) else None


def _as_intervals(one: str, other: str) -> tuple[str, str]:
    """Inequalities in one variable as intervals, where the other text is one too (in the same variable) or is one by
    then."""
    first, second = _interval(one), _interval(other)
    if first and second and (first[0] == second[0] or not (first[0] and second[0])):
        return first[1], second[1]
    return one, other


def _interval(text: str) -> tuple[str, str] | None:
    """``(variable, interval)``; the variable is empty where the text is an interval already."""
    if match := _MEMBER.match(text):
        return match[1], text[match.end() :]
    if text[:1] in "([" and not _RELATION.search(text):
        return "", text
    found = [_interval_of_one(part) for part in _OR.split(text)]
    known = [interval for interval in found if interval is not None]
    if len(known) < len(found) or len({variable for variable, _ in known}) > 1:
        return None
    return known[0][0], r"\cup".join(interval for _, interval in known)


def _interval_of_one(text: str) -> tuple[str, str] | None:
    sides = [side.strip() for side in _RELATION.split(text)]
    if len(sides) == 5:
        low, first, variable, second, high = sides
        if first in (">", r"\ge"):
            low, first, second, high = high, _TURNED[second], _TURNED[first], low
        if not _VARIABLE.fullmatch(variable) or first not in ("<", r"\le") or second not in ("<", r"\le"):
            return None
        bounds = f"{'(' if first == '<' else '['}{low},{high}{')' if second == '<' else ']'}"
        return (variable, bounds) if _is_constant(low) and _is_constant(high) else None
    if len(sides) != 3:
        return None
    left, relation, right = sides
    if _is_constant(left):
        left, relation, right = right, _TURNED[relation], left
    if not _is_constant(right):
        return None
    is_open, is_below = relation in ("<", ">"), relation in ("<", r"\le")
    if match := _MODULUS.fullmatch(left):
        if is_below:
            return match[1], f"{'(' if is_open else '['}-({right}),{right}{')' if is_open else ']'}"
        closing, opening = (")", "(") if is_open else ("]", "[")
        return match[1], rf"(-\infty,-({right}){closing}\cup{opening}{right},\infty)"
    if not _VARIABLE.fullmatch(left):
        return None
    if is_below:
        return left, rf"(-\infty,{right}{')' if is_open else ']'}"
    return left, rf"{'(' if is_open else '['}{right},\infty)"


def _is_constant(text: str) -> bool:
    """Numbers, roots, pi and e only."""
    bare = _COMMAND.sub("", text.replace(r"\pi", ""))
    letters = re.findall(r"[a-zA-Z]", bare)
    return bool(text) and "," not in text and not _VARIABLE.fullmatch(text) and all(letter == "e" for letter in letters)
