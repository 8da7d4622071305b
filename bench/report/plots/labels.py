"""The labels of a drawing in each language: drawn in English, then replaced in the SVG.

A drawing is made once and has the same layout in every language.
"""

import re

from markupsafe import Markup, escape

from bench.messages.message import ENGLISH, Catalogue, Message, Words, english
from bench.report.document import Drawing, Label

WIDEST = 26
"""Maximum length of a label next to an axis, in characters."""


def _short(text: str) -> str:
    """Return a label that fits next to an axis, without characters that XML cannot hold."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= WIDEST else f"{plain[: WIDEST - 1]}…"


class Labels:
    """The labels of one drawing: the text as drawn, and its message for other languages."""

    def __init__(self) -> None:
        self.by_text: dict[str, Label] = {}

    def __call__(self, words: Words, *, short: bool = False) -> str:
        """Return the English text of a label, truncated to fit next to an axis if ``short``."""
        text = _short(english(words)) if short else english(words)
        if isinstance(words, Message):
            self.by_text[text] = Label(words, short)
        return text


def worded(drawing: Drawing, words: Catalogue) -> Markup:
    """Return a drawing with its labels and its description in a language."""
    if words.lang == ENGLISH:
        return drawing.svg

    def label(match: re.Match[str]) -> str:
        entry = drawing.labels.get(Markup(match[2]).unescape())
        if entry is None:
            return match[0]
        text = words(entry.words)
        return f"{match[1]}{escape(_short(text) if entry.short else text)}{match[3]}"

    def description(match: re.Match[str]) -> str:
        return f"{match[1]}{escape(words(drawing.description))}{match[2]}"

    svg = re.sub(r"(<text\b[^>]*>)([^<]+)(</text>)", label, drawing.svg)
    return Markup(re.sub(r'(\baria-label=")[^"]*(")', description, svg, count=1))
