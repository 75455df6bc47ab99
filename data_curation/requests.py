"""What a statement asks for: its questions, its numbered parts, proofs, collections. Reads English and Chinese text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ASKING_VERBS = "|".join(
    (
        *"find determine compute calculate evaluate solve prove verify express compare simplify what how which".split(),
        *"sketch estimate deduce derive explain describe factor expand construct justify why".split(),
        *("show that", "for (?:what|which)", "in how many", "at what"),
    )
)
_SENTENCE_START = r"(?:^|[.!?:;。！？；：]\s*|\n\s*|,\s+(?:then\s+|please\s+)?|\band\s+(?:then\s+|hence\s+)?)"
_ASKS = re.compile(
    rf"{_SENTENCE_START}(?:\W{{0,3}})(?:hence,?\s+|then,?\s+|now,?\s+|please\s+|also,?\s+)?(?:{_ASKING_VERBS})\b",
    re.IGNORECASE,
)
_ASKS_ZH = re.compile(r"求|计算|证明|多少|判断|写出|说明|比较|试问|是否")

_LETTERS, _DIGITS, _ROMAN = "abcdef", "123456789", ("i", "ii", "iii", "iv", "v")
_LABELS: tuple[tuple[re.Pattern[str], Sequence[str]], ...] = (
    (re.compile(r"(?:^|(?<=[\s.;:,*]))\*{0,2}[(（]?([a-f])[)）]\*{0,2}(?=[\s$\\*A-Z])"), _LETTERS),
    (re.compile(r"(?:^|(?<=[\s.;:,。；*]))\*{0,2}[(（]([1-9])[)）]\*{0,2}\.?"), _DIGITS),
    (re.compile(r"(?:^|(?<=[\s.;:,。；*]))\*{0,2}[(（]?(iii|ii|iv|i|v)[)）]\*{0,2}", re.IGNORECASE), _ROMAN),
    (re.compile(r"(?:^|\n)\s*\*{0,2}([1-9])[.)]\*{0,2}(?=\s)"), _DIGITS),
    (re.compile(r"(?:^|\n)\s*\*{0,2}([a-f])\.(?=\s)"), _LETTERS),
    (re.compile(r"(?:^|(?<=[\s.*]))(?:Part|Question|Problem)\s+([A-Fa-f])\b\s*[:.)]"), _LETTERS),
    (re.compile(r"(?:^|(?<=[\s.*]))(?:Part|Question|Problem)\s+([1-9])\b\s*[:.)]"), _DIGITS),
    (re.compile(r"([①②③④⑤⑥])"), "①②③④⑤⑥"),
)
"""How parts are labelled, and the order of the labels."""

_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|``[^']*''|(?<!\w)'[^'\n]*'(?!\w)|«[^»]*»")
_BRACKETED = re.compile(r"[(（\[][^()（）\[\]]*[)）\]]")
_SENTENCE_END = re.compile(r"([.?!。？！\n])")
_WHITESPACE = re.compile(r"\s+")

_INTERROGATIVE = re.compile(
    r"\b(?:what|which|who|whom|whose|how|when|where|why|many)\b|[\u4e00-\u9fff]"
    r"|(?:^|[,;:]\s*|\band\s+|\bthen\s+)(?:is|are|was|were|do|does|did|can|could|will|would|has|have|should|must)\b",
    re.IGNORECASE,
)
"""A statement that ends in a question mark by mistake has none of these."""
_SAME_QUESTION = re.compile(
    r"\W*(?:(?:if|when|since|given that)\s+(?:the|your|this|its?)\b[^,]*\b(?:answer|expressed|written|form)\b"
    r"|in other words|that is\b|specifically|formally|equivalently|i\.e\.|namely"
    r"|more (?:precisely|formally|specifically))",
    re.IGNORECASE,
)
"""A question that tells in which form the one answer is wanted, or says the same in other words."""
_MATHS = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{(?:tabular|array)\}.*?\\end\{(?:tabular|array)\}",
    re.DOTALL,
)

_OPEN_START = (
    r"(?:^|[.!?:;。]\s*|\n\s*|,\s*(?:then\s+|please\s+)?|[)）\]*]\s*|\$\s+|\band\s+(?:also\s+|then\s+|hence\s+)?)"
)
_AFTER_START = r"(?:hence,?\s+|then,?\s+|now,?\s+|also,?\s+|next,?\s+|finally,?\s+|please\s+|let us\s+)?"
_THING = (
    r"(?:section|locus|polynomial|functions?|circumcent\w+|sequences?|sets?|graph|matrix|metric|space|topology|bijection|"
    r"isomorphism|homomorphism|map|field|group|proof|number|distribution|estimator)"
)
_OPEN = re.compile(
    rf"{_OPEN_START}{_AFTER_START}"
    r"(?:(?:prove|demonstrate|verify|show)(?:\s+or\s+disprove)?"
    r"(?:,?\s+(?:that|the|there|it|if|for|this)\b|\s*[:,]|\s+\$|\s+\\)"
    r"|(?:give|provide|find|construct|present|produce)\s+(?:an?\s+)?(?:explicit\s+|concrete\s+|specific\s+)?(?:counter-?)?examples?\b"
    r"|(?:give|provide|write)\s+an?\s+(?:\w+\s+)?(?:proof|explanation|description|argument|interpretation)\s+(?:of|that|for)\b"
    rf"|construct\s+(?:a|an|such|the|their|its|two)\s+(?:[\w-]+\s+){{0,3}}{_THING}"
    r"|(?:sketch|plot)\s+the\b)",
    re.IGNORECASE,
)
_OPEN_PROSE = re.compile(
    r"(?:^|[.!?;。]\s*|\n\s*|[)）\]*]\s*)"
    + _AFTER_START
    + r"(?:explain|describe|discuss|justify|interpret|comment|outline|elaborate)"
    r"(?!\s+(?:that\s+)?(?:your|you|all|work|each step|in terms|by))\b",
    re.IGNORECASE,
)
"""At the start of a sentence only: elsewhere it asks for support of the one answer."""
_OPEN_QUESTION = re.compile(
    r"(?:^|[.!?;\n]\s*)(?:and\s+)?(?:why\b|how\s+(?:did|would you|might|should)\b)[^.?!]*\?", re.IGNORECASE
)
_OPEN_ZH = re.compile(r"(?:求证|证明)\s*[:：，,]?|(?:请|试)?说明理由")

_COLLECTION_WORDS = "|".join(
    (
        *"all every each pairs? triples? tuples? quadruples? solutions? solve roots? values zeros zeroes list".split(),
        *"separated sets? which integers numbers primes points coordinates intervals? intercepts vectors?".split(),
        *"eigenvalues order ordered factors divisors angles lengths digits possible any functions polynomials".split(),
        *"sequences? range domain two three four distinct terms vertices elements members".split(),
        "what are",
    )
)
_COLLECTION = re.compile(rf"\b(?:{_COLLECTION_WORDS})\b|所有|全部|解集|哪些|分别|坐标|区间|范围|解", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?:\\!)?(?=\d{3}(?!\d))")
_SPACING = re.compile(r"\\[,;:! ]")
_SEPARATOR = re.compile(r"[,;]|\\text\s*\{\s*,?\s*and\s*\}|\s+and\s+|\\quad|，|；")

_REQUEST_WORDS = "|".join(
    (
        *r"find determin\w+ compute calculate evaluate solve what how which simplify express write give enter".split(),
        *"prove show factor factori[sz]e expand rationali[sz]e convert who where when why".split(),
        *"maximi[sz]e minimi[sz]e".split(),
        *"estimate state name list count choose select identify verify construct answer decide differentiate".split(),
        *"integrate complete fill graph round classify derive obtain submit report tell explain describe".split(),
        *"add subtract multiply divide".split(),
        *"deduce predict check provide specify suggest reduce draw arrange put insert place".split(),
        *("work out", "let us know", "figure out"),
    )
)
_BLANK = r"\\q?quad|\\underline|\\_|_{2,}|\\ldots\s*\$?\s*[.]?$|[（(]\s*[)）]"
_CHOICES = r"\\text\{\s*\(?A\)?|\(A\)|\bA[.)]|\\(?:mathrm|textbf|mathbf)\{\(?A"
_UNFINISHED = (
    r"\b(?:is|are|equals?|be|to|was|has|than|of|in|at|by|satisf(?:y|ies)|as|be expressed)"
    r"\s*(?:equal\s+to)?\s*[:.=$_\s]*$"
    r"|=\s*[$\\\s.]*$|[为是]\s*[$_\s.。]*$"
)
"""A sentence that the answer completes."""
_ANYTHING = re.compile(
    rf"[?？]|{_BLANK}|{_CHOICES}|\b(?:{_REQUEST_WORDS})\b|{_UNFINISHED}|求|请|计算|多少|的值|几|证明|哪|判断|何",
    re.IGNORECASE,
)


def squeezed(text: str) -> str:
    """The text with one space, or one line break, for each run of whitespace.

    The patterns here take time quadratic in such a run: pass them what this returns.
    """
    return _WHITESPACE.sub(lambda run: "\n" if "\n" in run[0] else " ", text)


def asking_parts(text: str) -> tuple[str, ...]:
    """Labels of the numbered parts that ask for something, in order; () where there are no two parts.

    Parts that state conditions, steps or things to be counted ask for nothing.
    """
    found: tuple[str, ...] = ()
    for pattern, series in _LABELS:
        labels = iter(series)
        following = next(labels)
        matches: list[re.Match[str]] = []
        for match in pattern.finditer(text):  # a label out of turn is a reference to its part
            if match[1].lower() == following:
                matches.append(match)
                following = next(labels, "")
        ends = [match.start() for match in matches[1:]] + [len(text)]
        parts = {match[1].lower(): text[match.end() : end] for match, end in zip(matches, ends, strict=False)}
        found = max(found, tuple(label for label, part in parts.items() if _part_asks(part)), key=len)
    return found


def _part_asks(part: str) -> bool:
    part = part.strip()
    return bool(_ASKS.search(part) or _ASKS_ZH.search(part) or "?" in part or "？" in part)


def questions(text: str) -> tuple[str, ...]:
    """The different sentences that end in a question mark, quoted and bracketed ones left out."""
    bare = _BRACKETED.sub(_unless_asking, _QUOTED.sub(" ", _MATHS.sub(" x ", text)))
    pieces = _SENTENCE_END.split(bare)
    sentences = (body + end for body, end in zip(pieces[::2], pieces[1::2], strict=False) if end in "?？")
    asked = dict.fromkeys(" ".join(sentence.split()) for sentence in sentences)
    return tuple(one for one in asked if _INTERROGATIVE.search(one) and not _SAME_QUESTION.match(one))


def _unless_asking(bracketed: re.Match[str]) -> str:
    return " " if "?" in bracketed[0] or "？" in bracketed[0] else bracketed[0]


def open_request(text: str) -> str | None:
    """The first request for a proof, an explanation, a construction or an example; None where there is none."""
    for pattern in (_OPEN, _OPEN_PROSE, _OPEN_QUESTION, _OPEN_ZH):
        if found := pattern.search(text):
            return repr(" ".join(text[found.start() : found.end() + 40].split()).lstrip(".,:;)$ "))
    return None


def asks_anything(text: str) -> bool:
    """Whether there is a question, a blank, choices, or a word of request anywhere."""
    return _ANYTHING.search(text.strip()) is not None


def asks_for_a_collection(text: str) -> bool:
    """Whether several values may be one answer: all solutions, a pair, which of these."""
    return _COLLECTION.search(text) is not None


def answer_parts(answer: str) -> tuple[str, ...]:
    """The values that an answer lists outside of brackets; one where it is one value, a tuple or a set.

    ``1,234`` is one number.
    """
    text = _SPACING.sub(" ", _THOUSANDS.sub("", squeezed(answer).strip().strip("$")))
    depth, flat = 0, []
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        flat.append(" " if depth > 0 or character in ")]}" else character)
    # Signs of a set, a matrix, an interval, a condition: its commas separate no answers.
    if any(mark in text for mark in ("\\{", "\\begin", "\\cup", "\\in", "\\text", "\\le", "\\ge", "<", ">")):
        return (text,)
    return tuple(part for part in _SEPARATOR.split(squeezed("".join(flat))) if part.strip()) or (text,)
