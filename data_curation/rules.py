r"""Quality rules (paper, Appendix C): each a named function that gives a reason to drop a problem, or None.

Rules read text. They are cheap, and sure where they speak; what takes understanding is the judge's. A rule sees the
statement and the answer as its source wrote them. ``unparsed_answer``, the one that computes, is a batch of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from data_curation import requests
from data_curation.records import Candidate, Domain, Drop, Sifted, drop
from pacore_rl.config import RewardConfig
from pacore_rl.config_curation import RulesConfig
from pacore_rl.rewards.ground_truths import check_ground_truths

Rule = Callable[[Candidate, RulesConfig], str | None]

_PICTURE = re.compile(
    r"!\[|\\includegraphics|<img\b|\[asy\]|\\begin\{(?:asy|tikzpicture|picture)\}|\.(?:png|jpe?g|gif|svg)\b",
    re.IGNORECASE,
)
_LINK = re.compile(r"https?://|www\.\w|\]\([^)\s]*/[^)]*\)|\\(?:href|url)\{", re.IGNORECASE)
_FIGURE = (
    r"(?:(?:figure|diagram|picture|image|illustration|drawing|sketch|chart|photo(?:graph)?)(?!\s+(?:skat|consist|whose))"
    r"|(?:bar|line|circle|pie|box|scatter)\s*-?(?:graph|chart|plot))"
)
_SHOWN = r"(?:shown|pictured|depicted|illustrated|drawn|displayed|outlined|shaded)"
_NEEDS_FIGURE = re.compile(
    rf"\b(?:in|from|see|of|on|to|by|with)\s+(?:the|this|that|our|each)\s+(?:\w+\s+){{0,2}}(?:figure|diagram|picture|illustration|drawing)s?\b(?!\s*(?:\$|\\\())"
    rf"|\b(?:the|following|this|these|accompanying)\s+(?:\w+\s+){{0,2}}{_FIGURE}s?\s+(?:below|above|show|at\s+(?:the\s+)?right|on\s+(?:the\s+)?(?:right|left)|to\s+the\s+(?:right|left)|{_SHOWN}|gives|represents|depicts|illustrates)"
    rf"|\b(?:see|cf\.?|as\s+in)\s+(?:the\s+)?{_FIGURE}|\b{_FIGURE}s?\s+{_SHOWN}|\bfig(?:ure|\.)\s*\$?\(?\d"
    rf"|\({_FIGURE}\)|\b(?:shaded|unshaded)\s+(?:region|area|part|portion|figure|section|sector)"
    r"|如\s*(?:下|右|左|上)?\s*图|图\s*中|(?:下|右|左|上|附)\s*图|图\s*(?:所示|[0-9１-９一二三])",
    re.IGNORECASE,
)
_SHOWN_BELOW = re.compile(
    r"\b(?:as\s+(?:is\s+)?(?:shown|pictured|illustrated|depicted)|(?:shown|pictured|illustrated|depicted|drawn)\s+"
    r"(?:below|above|here|at\s+(?:the\s+)?right|on\s+the\s+(?:right|left))|(?:is|are)\s+(?:pictured|depicted|illustrated)|"
    r"graphs?\s+(?:below|above)|(?:is|are)\s+(?:shown|graphed)\s*[.:,]|(?:following|graphed)\s+graph)",
    re.IGNORECASE,
)
_TEXT_TABLE = re.compile(r"\\begin\{(?:array|tabular|[pbvB]?matrix|aligned?|cases|verbatim)|\|.*\|.*\||\\hline|&.*&")

_STATED_ANSWER = re.compile(
    r"\b(?:final\s+)?answers?\s*[:：]\s*(?:\*\*)?\s*(?:\$+\s*(?!\\boxed)\S|[-+({]?\s*\d|\\(?:d?frac|sqrt))|(?:答案|解答)\s*[:：]\s*[-\d$]"
    r"|(?:^|\n)\s*(?:Solution|解)\s*[:：.]\s*\S|\\boxed\s*\{\s*(?:[-\d]|\\(?:d?frac|sqrt))|<summary>\s*Solution",
    re.IGNORECASE,
)
_CUT_OFF = re.compile(
    r"(?:(?<!\\),|[(\[{+]|\b(?:the|an|of|and|or|such|that|where|with|if|by|for|from)|(?<!equal )\bto)\s*\$*\s*$"
)
_UNKNOWN_NOTATION = re.compile(
    r"(?<![A-Za-z\\])(?:n?[CP]\s*\(\s*\d+\s*,|\^\{?\d+\}?\s*[CP]_|_\{?\d+\}?[CP]_|[CAP]_\{?\d+\}?\^\{?\d+\}?$)|\bbinom\s*\("
)
_WORD = re.compile(r"[A-Za-z][a-z]{2,}")
_LATEX_WORD = re.compile(r"\\(?:text|mbox|textrm|mathrm|textbf|operatorname)\s*\{([^{}]*)\}|\\[A-Za-z]+")
_FUNCTION_NAMES = frozenset(
    "sin cos tan cot sec csc log ln exp sqrt pi mod gcd lcm max min arctan arcsin arccos floor ceil".split()
)
_MATHS_SPAN = re.compile(r"\$[^$]*\$|\\\(.*?\\\)")
_MAX_ANSWER_WORDS = 2


def empty(candidate: Candidate, config: RulesConfig) -> str | None:
    """No statement, or nothing in it but signs."""
    return None if re.search(r"\w", candidate.statement) else "the statement is empty"


def length(candidate: Candidate, config: RulesConfig) -> str | None:
    """A statement shorter or longer than the recipe allows."""
    num = len(candidate.statement.strip())
    if num < config.min_characters:
        return f"{num} characters, fewer than {config.min_characters}"
    return f"{num:,} characters, more than {config.max_characters:,}" if num > config.max_characters else None


def image_or_link(candidate: Candidate, config: RulesConfig) -> str | None:
    """A picture, a link, or a reference to a figure that the text does not hold."""
    text = _text(candidate)
    for pattern, what in ((_PICTURE, "a picture"), (_LINK, "a link"), (_NEEDS_FIGURE, "a figure is referred to")):
        if found := pattern.search(text):
            return f"{what}: {_around(text, found)}"
    found = _SHOWN_BELOW.search(text)
    if found and not _TEXT_TABLE.search(text):
        return f"something is shown that the text does not hold: {_around(text, found)}"
    return None


def multi_part(candidate: Candidate, config: RulesConfig) -> str | None:
    """Several numbered parts of which at least two ask for something."""
    asking = requests.asking_parts(_text(candidate))
    return f"{len(asking)} parts ask for something: {', '.join(asking)}" if len(asking) > 1 else None


def several_answers(candidate: Candidate, config: RulesConfig) -> str | None:
    """More than one quantity is requested. A set, a tuple or all solutions of one question are one answer."""
    questions = requests.questions(_text(candidate))
    if len(questions) > 1:
        return f"{len(questions)} questions: {' / '.join(question[-60:] for question in questions[:3])}"
    parts = requests.answer_parts(candidate.problem.ground_truth)
    if len(parts) > 1 and not requests.asks_for_a_collection(_text(candidate)):
        return f"the answer lists {len(parts)} values, but no collection is asked for"
    return None


def open_ended(candidate: Candidate, config: RulesConfig) -> str | None:
    """A proof, an explanation, a construction or any example is asked for: nothing that can be compared."""
    request = requests.open_request(_text(candidate))
    return None if request is None else f"asks for prose or a construction: {request}"


def no_request(candidate: Candidate, config: RulesConfig) -> str | None:
    """Nothing is asked."""
    return None if requests.asks_anything(_text(candidate)) else "no question, no blank, no request"


def cut_off(candidate: Candidate, config: RulesConfig) -> str | None:
    """The statement breaks off within a sentence."""
    text = _text(candidate).rstrip()
    return f"ends in {text[-30:]!r}" if _CUT_OFF.search(text) else None


def states_answer(candidate: Candidate, config: RulesConfig) -> str | None:
    """The statement gives its own answer or solution."""
    found = _STATED_ANSWER.search(_text(candidate))
    return f"states its answer: {_around(_text(candidate), found)}" if found else None


def prose_answer(candidate: Candidate, config: RulesConfig) -> str | None:
    r"""The answer is words rather than mathematics, or in a notation that the maths reward does not know."""
    answer = candidate.problem.ground_truth
    if candidate.problem.reward != "math":
        return None
    if found := _UNKNOWN_NOTATION.search(answer):
        return f"the maths reward does not know the notation {found[0]!r}"
    outside = _MATHS_SPAN.sub(" ", answer) if "$" in answer or "\\(" in answer else answer
    words = _words(outside)
    if outside != answer and (words or "$" in outside):
        return f"words beside mathematics: {answer[:60]!r}"
    if len(words) > _MAX_ANSWER_WORDS:
        return f"{len(words)} words: {answer[:60]!r}"
    return None


RULES: Mapping[str, tuple[Rule, tuple[Domain, ...]]] = MappingProxyType(
    {
        "empty": (empty, ("math", "code")),
        "length": (length, ("math", "code")),
        "image_or_link": (image_or_link, ("math", "code")),
        "multi_part": (multi_part, ("math",)),
        "open_ended": (open_ended, ("math",)),
        "several_answers": (several_answers, ("math",)),
        "no_request": (no_request, ("math",)),
        "cut_off": (cut_off, ("math", "code")),
        "states_answer": (states_answer, ("math",)),
        "prose_answer": (prose_answer, ("math",)),
    }
)
"""The rules that read text, in the order in which they are asked, and the domains they are for. The first that speaks
drops the problem."""
UNPARSED_ANSWER = "unparsed_answer"
ALL_RULES = (*RULES, UNPARSED_ANSWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """Every rule of ``RULES`` that the recipe has not switched off; a ``records.Filter``."""

    config: RulesConfig
    name: str = "rules"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.config.off) - set(ALL_RULES))
        if unknown:
            raise ValueError(f"curation.rules.off={unknown} names no rule; the rules are {', '.join(ALL_RULES)}.")

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        kept: list[Candidate] = []
        drops: list[Drop] = []
        for candidate in candidates:
            found = self.first_drop(candidate)
            if found is None:
                kept.append(candidate)
            else:
                drops.append(found)
        return Sifted(kept=tuple(kept), drops=tuple(drops))

    def first_drop(self, candidate: Candidate) -> Drop | None:
        """The drop by the first rule that gives a reason."""
        for name, (rule, domains) in RULES.items():
            if name in self.config.off or candidate.domain not in domains:
                continue
            reason = rule(candidate, self.config)
            if reason is not None:
                return drop(candidate, step=name, reason=reason)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswers:
    """Drops ground truths that their own reward does not read back as themselves; a ``records.Filter``.

    Numbers and words take no time; other mathematics takes about 1/60 s of a core.
    """

    reward: RewardConfig
    name: str = UNPARSED_ANSWER

    def __call__(self, candidates: Sequence[Candidate]) -> Sifted:
        bad = {
            problem.id: reason for problem, reason in check_ground_truths([c.problem for c in candidates], self.reward)
        }
        kept = tuple(candidate for candidate in candidates if candidate.id not in bad)
        drops = tuple(
            drop(candidate, step=self.name, reason=bad[candidate.id]) for candidate in candidates if candidate.id in bad
        )
        return Sifted(kept=kept, drops=drops)


def _words(text: str) -> list[str]:
    """Words of prose in an answer: not those of commands, functions or units after a number."""
    inner = re.sub(r"(?<=\d)\s*\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?", " ", text)
    inner = _LATEX_WORD.sub(lambda match: f" {match[1] or ''} ", inner)
    words = [word for word in _WORD.findall(inner) if word.lower() not in _FUNCTION_NAMES | {"and", "or"}]
    return [word for word in words if word.lower() not in ("begin", "end", "pmatrix", "cases", "array", "quad", "if")]


def _text(candidate: Candidate) -> str:
    """What the rules read: the statement, without long runs of whitespace."""
    return requests.squeezed(candidate.statement)


def _around(text: str, found: re.Match[str]) -> str:
    return repr(" ".join(text[max(0, found.start() - 15) : found.end() + 25].split()))
