"""The page in another language: every text is looked up as it is drawn. English texts are their own keys.

``bench/report/lang/LANG.toml`` holds whole texts and sentences under ``[text]``, and under ``[pattern]`` those with
``{}`` in place of a figure or name, ``{n}`` in place of a figure; what stands there is looked up in its turn. A text
that is not found whole is looked up in runs of sentences, the longest first. What is not found at all stays English:
names, and messages of engines and libraries.
"""

import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

FOLDER = Path(__file__).resolve().parent / "lang"
LANGUAGES = ("en", *sorted(file.stem for file in FOLDER.glob("*.toml")))

LONGEST = 500
"""Characters of a text that is held against patterns: nothing of ours is longer, and a long one could take forever."""
MOST = 8
"""Sentences that are looked up together; a text of more than ``MOST * LONGEST`` characters stays English."""
GAPS = {"{}": "((?:[^.:;]|[.:](?! ))+?)", "{n}": r"(\S*\d\S*(?: \S{1,5})?)"}
Translate = Callable[[str], str]


def english(text: str) -> str:
    """Return a text as it is."""
    return text


class _Catalogue:
    """What one language's file says."""

    def __init__(self, lang: str) -> None:
        data = tomllib.loads((FOLDER / f"{lang}.toml").read_text(encoding="utf-8"))
        self._texts: dict[str, str] = data["text"]
        self._patterns = [
            (re.compile("".join(GAPS.get(part) or re.escape(part) for part in re.split(r"(\{n?\})", pattern))), told)
            for pattern, told in data["pattern"].items()
        ]
        self._join: str = data.get("join", " ")

    def whole(self, text: str) -> str | None:
        """Return a text, if all of it is known."""
        if not text or text in self._texts:
            return self._texts.get(text, text)
        if len(text) > LONGEST:
            return None
        for pattern, told in self._patterns:
            if found := pattern.fullmatch(text):
                return str(told.format(*map(self, found.groups())))
        return None

    def __call__(self, text: str) -> str:
        found = self.whole(text)
        if found is not None:
            return found
        sentences = re.split(r"(?<=[.:;]) ", text)
        if len(sentences) == 1 or len(text) > MOST * LONGEST:
            return text
        told: list[str] = []
        begin = 0
        while begin < len(sentences):
            last = min(len(sentences), begin + MOST)
            runs = ((end, self.whole(" ".join(sentences[begin:end]))) for end in range(last, begin, -1))
            begin, known = next((run for run in runs if run[1] is not None), (begin + 1, sentences[begin]))
            told.append(str(known))
        return text if told == sentences else self._join.join(told)


@cache
def translator(lang: str) -> Translate:
    """Return what turns English texts into a language; ``LANGUAGES`` are known."""
    return english if lang == "en" else _Catalogue(lang)


def in_drawing(svg: Markup, translate: Translate) -> Markup:
    """Return a drawing with its labels and its description translated."""

    def label(found: re.Match[str]) -> str:
        return f"{found[1]}{escape(translate(Markup(found[2]).unescape()))}{found[3]}"

    if translate is english:
        return svg
    told = re.sub(r"(<text\b[^>]*>)([^<]+)(</text>)", label, svg)
    return Markup(re.sub(r'(\baria-label=")([^"]+)(")', label, told))
