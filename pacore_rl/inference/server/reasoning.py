"""Parts a stream into reasoning and conclusion, where the endpoint leaves both in the content."""

from __future__ import annotations

from dataclasses import replace

from pacore_rl.inference.completion import Delta


class ReasoningSplitter:
    """What comes before the first end-of-reasoning marker is reasoning; what follows it is the answer.

    An endpoint that sets reasoning apart itself is passed through. ``is_split`` False passes everything through: for
    models without reasoning.
    """

    def __init__(self, marker: str, *, is_split: bool) -> None:
        self._marker = marker
        self._is_inside = is_split
        self._held = ""
        self._has_content = False

    def feed(self, delta: Delta) -> Delta:
        """The piece, parted. Text that may be the beginning of the marker is held back."""
        if delta.reasoning:
            self._is_inside = False  # the endpoint parts them
        if not self._is_inside:
            return replace(delta, content=self._trimmed(delta.content))
        text = self._held + delta.content
        before, marker, after = text.partition(self._marker)
        if marker:
            self._is_inside, self._held = False, ""
            return replace(delta, reasoning=before, content=self._trimmed(after))
        held = next(
            (n for n in range(min(len(text), len(self._marker) - 1), 0, -1) if self._marker.startswith(text[-n:])), 0
        )
        self._held = text[len(text) - held :]
        return replace(delta, reasoning=text[: len(text) - held], content="")

    def end(self) -> Delta:
        """What was held back."""
        held, self._held = self._held, ""
        return Delta(reasoning=held)

    def _trimmed(self, content: str) -> str:
        """Without the white space between the marker and the answer."""
        if not self._has_content:
            content = content.lstrip()
            self._has_content = bool(content)
        return content
