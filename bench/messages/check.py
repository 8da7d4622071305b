"""``python -m bench.messages.check``: checks that every text has a wording in every language, and every wording a use.

``make check`` runs it. It compares what code and templates name, by their syntax trees, with the catalogues: ids,
places, plural forms. In the modules that write the report it also finds English that is not a message.
"""

import ast
import os
import re
import string
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.catalog import Message as Entry
from babel.messages.pofile import PoFileError, read_po
from jinja2 import Environment, nodes

from bench.messages.message import FOLDER, po_file

PACKAGE = Path(__file__).resolve().parents[1]
WRITTEN = ("report/*.py", "report/plots/*.py", "report/sections/*.py")
"""Modules in which all English but keys and comparisons must be a message."""
DATA = ("report/rows.py",)
"""Exceptions among them: their English goes into data files, which are the same in every language."""
FIRST, BOTH, SECOND = slice(1), slice(2), slice(1, 2)
SHOWN = {"Cell": FIRST, "Details": FIRST, "Heading": FIRST, "Table": FIRST, "Term": FIRST, "Text": FIRST}
SHOWN |= {"Head": BOTH, "Note": BOTH, "Download": SECOND, "Section": SECOND}
"""{part of a document: which of its arguments are texts}."""
SHARED = ("BF16", "Python", "UTC", "tokens/s", "nats", "1 / TPOT")
"""Names and units that a heading may have in every language."""
PLACING = ("textcoords", "xycoords")
"""Arguments of matplotlib whose values are English."""
NAMING = ("msg", "Known")
"""Calls that name a message."""
ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
WORD = re.compile(r"[A-Z][a-z]|[A-Za-z]{4}|\b[a-z]{2,3}\b")
WORDS = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,}")


@dataclass(frozen=True)
class Use:
    """One place that names a message."""

    where: str
    id: str
    places: frozenset[str]
    counted: bool
    """Whether a number chooses the plural form."""


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def _use(where: str, name: str, arguments: Sequence[object], keywords: Iterable[str | None]) -> Use | Fault:
    """Return what a call of ``msg``, ``_`` or ``Known`` names; ``arguments`` are its literals, None for others."""
    id, names = arguments[0] if arguments else None, set(keywords)
    if not isinstance(id, str) or not ID.fullmatch(id):
        return Fault(where, f"the id in {name}(…) is not a literal such as 'verdict.lead'")
    if None in names:
        return Fault(where, f"{id}: write the values out, as name=value")
    if name == "Known":
        names = set(re.findall(r"\(\?P<(\w+)>", str(arguments[1])))
    return Use(where, id, frozenset(str(name_of_value) for name_of_value in names - {"n"}), "n" in names)


def _literal(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def uses_in_python(file: Path, where: str) -> Iterator[Use | Fault]:
    """Yield the messages that a module names."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMING:
            literals, keywords = (
                [_literal(argument) for argument in node.args],
                [keyword.arg for keyword in node.keywords],
            )
            yield _use(f"{where}:{node.lineno}", node.func.id, literals, keywords)


def uses_in_template(file: Path, where: str) -> Iterator[Use | Fault]:
    """Yield the messages that a template names."""
    tree = Environment(extensions=["jinja2.ext.i18n"]).parse(file.read_text(encoding="utf-8"))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "_":
            literals = [argument.value if isinstance(argument, nodes.Const) else None for argument in call.args]
            yield _use(f"{where}:{call.lineno}", "_", literals, [argument.key for argument in call.kwargs])


def literals_in(file: Path) -> Iterator[str]:
    """Yield the values that a module's ``Literal[…]`` types allow."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            yield from (str(constant.value) for constant in ast.walk(node.slice) if isinstance(constant, ast.Constant))


def english_in(file: Path, where: str, values: frozenset[str]) -> Iterator[Fault]:
    """Yield English texts that are not messages: two words in a row, or any word where a document shows it.

    Docstrings, keys, comparisons, errors and the ``values`` of ``Literal`` types are exempt.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    exempt, displayed = set[int](), set[int]()
    for node in ast.walk(tree):
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        placing = isinstance(node, ast.keyword) and node.arg in PLACING
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if name in NAMING or placing or docstring or isinstance(node, ast.Raise | ast.Compare | ast.arg):
            exempt |= {id(part) for part in ast.walk(node)}
        elif isinstance(node, ast.AnnAssign):
            exempt |= {id(part) for part in ast.walk(node.annotation)}
        elif isinstance(node, ast.Dict):
            exempt |= {id(key) for key in node.keys}
        elif isinstance(node, ast.Call):
            displayed |= {id(part) for part in node.args[SHOWN.get(name, slice(0))]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in exempt:
            words = WORD if id(node) in displayed else WORDS
            if words.search(node.value) and node.value not in {*values, *SHARED}:
                yield Fault(f"{where}:{node.lineno}", f"{node.value!r} is English and not a message")


def places_of(wording: str) -> frozenset[str] | None:
    """Return the places of a wording, ``{Name}`` as ``name``; None where it cannot be formatted."""
    places = set()
    try:
        for _, place, spec, conversion in string.Formatter().parse(wording):
            if place is not None:
                if not place.isidentifier() or spec or conversion:
                    return None
                places.add(place[0].lower() + place[1:])
    except ValueError:
        return None
    return frozenset(places)


def _faults_of(entry: Entry, use: Use, plurals: int) -> Iterator[str]:
    """Yield what is wrong with one entry of a catalogue."""
    forms = list(entry.string) if isinstance(entry.string, list | tuple) else [str(entry.string or "")]
    if entry.fuzzy:
        yield "fuzzy"
    if not all(forms) or (entry.pluralizable and len(forms) != plurals):
        yield "not all forms have a wording" if entry.pluralizable else "empty"
        return
    if entry.pluralizable != use.counted:
        yield "has plural forms, but no n is given" if entry.pluralizable else "is given an n, but has no plural forms"
    for form in forms:
        places = places_of(form)
        if places is None:
            yield f"cannot be formatted: {form!r}"
        elif places - {"n"} != use.places or ("n" in places and not use.counted):
            given = ", ".join(sorted(use.places | ({"n"} if use.counted else set()))) or "none"
            yield f"its places are {', '.join(sorted(places)) or 'none'}; {use.where} gives {given}"


def _read(file: Path, lang: str) -> Catalog | Fault:
    try:
        with file.open("rb") as content:
            return read_po(content, locale=lang, abort_invalid=True)
    except PoFileError as error:
        return Fault(os.path.relpath(file), str(error))


def faults_of_language(lang: str, uses: dict[str, Use], folder: Path) -> Iterator[Fault]:
    """Yield what is wrong with one language's catalogue."""
    file = po_file(lang, folder)
    where, catalog = os.path.relpath(file), _read(file, lang)
    if isinstance(catalog, Fault):
        yield catalog
        return
    lines = re.findall(r'^msgid "(.+)"$', file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for id in (id for id, count in Counter(lines).items() if count > 1):
        yield Fault(where, f"{id}: is defined twice")
    for id in (str(message.id) for message in catalog.obsolete.values()):
        yield Fault(where, f"{id}: obsolete, remove it")
    entries = {str(message.id[0] if message.pluralizable else message.id): message for message in catalog if message.id}
    for id, use in uses.items():
        if id not in entries:
            yield Fault(use.where, f"{id}: has no wording in {lang}")
    for id, entry in entries.items():
        if id not in uses:
            yield Fault(where, f"{id}: nothing uses it")
        elif entry.pluralizable and entry.id[1] != id:
            yield Fault(where, f"{id}: its msgid_plural is another id")
        else:
            yield from (Fault(where, f"{id}: {what}") for what in _faults_of(entry, uses[id], catalog.num_plurals))


def faults(package: Path = PACKAGE, folder: Path = FOLDER) -> list[Fault]:
    """Return everything that is wrong with the texts of a package.

    Args:
        package: folder of the modules and templates.
        folder: of the catalogues, a subfolder for each language.
    """
    texts: list[Use | Fault] = []
    modules = sorted(package.rglob("*.py"))
    for file in modules:
        texts += uses_in_python(file, str(file.relative_to(package.parent)))
    for file in sorted(package.rglob("*.j2")):
        texts += uses_in_template(file, str(file.relative_to(package.parent)))
    values = frozenset(value for file in modules for value in literals_in(file))
    written = {file for pattern in WRITTEN for file in package.glob(pattern)} - {package / name for name in DATA}
    for file in sorted(written):
        texts += english_in(file, str(file.relative_to(package.parent)), values)
    wrong = [text for text in texts if isinstance(text, Fault)]
    uses: dict[str, Use] = {}
    for use in (text for text in texts if isinstance(text, Use)):
        first = uses.setdefault(use.id, use)
        if (first.places, first.counted) != (use.places, use.counted):
            wrong.append(Fault(use.where, f"{use.id}: is given other values than in {first.where}"))
    for lang in sorted(place.name for place in folder.iterdir() if place.is_dir()):
        wrong += faults_of_language(lang, uses, folder)
    return wrong


def main() -> int:
    """Print what is wrong, one line each, and return the exit code."""
    wrong = faults()
    sys.stderr.writelines(f"{fault}\n" for fault in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
