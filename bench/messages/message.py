"""A text as a value: ``msg("speed.where", label=…)``. It is rendered where it is shown, in the language shown there.

The wording is in gettext catalogues, ``locale/LANG/LC_MESSAGES/quantbench.po``, keyed by id: polishing the English
changes no code and no other language. The files are read as they are, so a checkout and a wheel need no build step.
docs/messages.md shows how to add or polish a message.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, reduce
from gettext import GNUTranslations
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer

FOLDER = Path(__file__).resolve().parent / "locale"
DOMAIN = "quantbench"
ENGLISH = "en"
LANGUAGES = (ENGLISH, *sorted({folder.name for folder in FOLDER.iterdir()} - {ENGLISH}))


@dataclass(frozen=True, slots=True)
class Message:
    """A text by its id; as a string, its English wording."""

    id: str
    values: tuple[tuple[str, "Words"], ...] = ()
    """(place, what fills it). A wording that writes the place with a capital, ``{Goal}``, begins a sentence with it."""
    n: int | None = None
    """A number of things, which chooses the plural form and fills ``{n}``; None where nothing is counted."""

    def __str__(self) -> str:
        return english(self)


Words = str | Message
"""What is shown: a name or a figure, which is the same in every language, or what a catalogue renders."""


def msg(id: str, /, *, n: int | None = None, **values: Words) -> Message:
    """Return the message with an id.

    ``make check`` compares ``id`` and the names of ``values`` with the catalogues, so both are written out here.

    Args:
        id: of an entry in every catalogue.
        n: number that chooses the plural form.
        values: what fills the places of the wording; figures are formatted already.
    """
    return Message(id, tuple(values.items()), n)


def listed(parts: Iterable[Words]) -> Words:
    """Return one or more texts as ``a, b, c``."""
    return _chain(parts, ", ", lambda first, second: msg("join.list", first=first, second=second))


def linked(parts: Iterable[Words]) -> Words:
    """Return one or more texts as ``a and b``."""
    return _chain(parts, None, lambda first, second: msg("join.and", first=first, second=second))


def clauses(parts: Iterable[Words]) -> Words:
    """Return one or more clauses of a sentence as ``a; b``."""
    return _chain(parts, "; ", lambda first, second: msg("join.clauses", first=first, second=second))


def sentences(parts: Iterable[Words]) -> Words:
    """Return one or more sentences one after the other."""
    return _chain(parts, None, lambda first, second: msg("join.sentences", first=first, second=second))


def _chain(parts: Iterable[Words], plain: str | None, pair: Callable[[Words, Words], Message]) -> Words:
    """Return parts joined two by two; by ``plain`` where all are names or figures and it is given."""
    words = tuple(parts)
    names = [part for part in words if isinstance(part, str)]
    return plain.join(names) if plain is not None and len(names) == len(words) else reduce(pair, words)


class _Values(dict[str, str]):
    """What fills the places of a wording; ``{Name}`` is the value of ``name`` with a capital first letter."""

    def __missing__(self, place: str) -> str:
        value = self[place[0].lower() + place[1:]] if place[0].isupper() else None
        if value is None:
            raise KeyError(place)
        return value[:1].upper() + value[1:]


class Catalogue:
    """The wordings of one language."""

    def __init__(self, lang: str, translations: GNUTranslations) -> None:
        """Take the wordings as gettext has them; a missing one is shown as its id."""
        self.lang = lang
        self._translations = translations

    def gettext(self, id: str, /, *, n: int | None = None, **values: Words) -> str:
        """Return the text of a message; templates call it ``_``."""
        return self(Message(id, tuple(values.items()), n))

    def __call__(self, words: Words) -> str:
        """Return a text in this language."""
        if isinstance(words, str):
            return words
        values = _Values((place, self(value)) for place, value in words.values)
        if words.n is None:
            return self._translations.gettext(words.id).format_map(values)
        values["n"] = f"{words.n:,}"
        return self._translations.ngettext(words.id, words.id, words.n).format_map(values)


def po_file(lang: str, folder: Path = FOLDER) -> Path:
    """Return where a language's catalogue is."""
    return folder / lang / "LC_MESSAGES" / f"{DOMAIN}.po"


def load(file: Path, lang: str) -> Catalogue:
    """Return the catalogue in a .po file.

    Raises:
        PoFileError: the file is no catalogue.
    """
    # Babel takes longer to import than most commands take, and most render no text.
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    with file.open("rb") as content:
        entries = read_po(content, locale=lang, abort_invalid=True)
    compiled = io.BytesIO()
    write_mo(compiled, entries)
    compiled.seek(0)
    return Catalogue(lang, GNUTranslations(compiled))


@cache
def catalogue(lang: str) -> Catalogue:
    """Return the catalogue of one of ``LANGUAGES``, read once a process."""
    return load(po_file(lang), lang)


def english(words: Words) -> str:
    """Return a text in English."""
    return words if isinstance(words, str) else catalogue(ENGLISH)(words)


Worded = Annotated[Words, PlainSerializer(english, return_type=str)]
"""A text as a field of a value: where the value is written, as JSON say, the text is its English wording."""
