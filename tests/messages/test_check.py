"""``make check`` finds every way in which code and catalogues can disagree, in a package of its own."""

from pathlib import Path

import pytest

from bench.messages.check import faults, main

HEADER = """msgid ""
msgstr ""
"Language: {lang}\\n"
"Plural-Forms: {plural}\\n"
"Content-Type: text/plain; charset=utf-8\\n"

"""
PLURAL = {"en": "nplurals=2; plural=(n != 1);", "zh": "nplurals=1; plural=0;"}
MODULE = '''"""A module."""
from bench.messages.message import msg
KIND: Literal["not known"]
LEAD = msg("a.lead", label="x")
ITEMS = msg("a.items", n=3, task="t")
WORDS = {"no such key": 1}
FINE = [Head("BF16"), Section("one", LEAD), annotate(LEAD, textcoords="offset points"), Cell("–")]
'''
TEMPLATE = '<p>{{ _("a.skip") }}</p>{{ "x" | join(", ") }}'
ENTRIES = {
    "en": {
        "a.lead": 'msgid "a.lead"\nmsgstr "{Label} leads"\n',
        "a.items": 'msgid "a.items"\nmsgid_plural "a.items"\nmsgstr[0] "item of {task}"\nmsgstr[1] "{n} of {task}"\n',
        "a.skip": 'msgid "a.skip"\nmsgstr "Skip"\n',
    },
    "zh": {
        "a.lead": 'msgid "a.lead"\nmsgstr "{label} 领先"\n',
        "a.items": 'msgid "a.items"\nmsgid_plural "a.items"\nmsgstr[0] "{task} 的 {n} 题"\n',
        "a.skip": 'msgid "a.skip"\nmsgstr "跳过"\n',
    },
}


class Package:
    """A package with a section, a template and two catalogues, and its faults."""

    def __init__(self, folder: Path) -> None:
        self.root, self.locale = folder / "pack", folder / "locale"
        self.write("report/sections/one.py", MODULE)
        self.write("templates/page.html.j2", TEMPLATE)
        for lang, entries in ENTRIES.items():
            self.catalogue(lang, entries)

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def catalogue(self, lang: str, entries: dict[str, str], header: str = HEADER) -> None:
        file = self.locale / lang / "LC_MESSAGES" / "quantbench.po"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(header.format(lang=lang, plural=PLURAL[lang]) + "\n".join(entries.values()))

    def faults(self) -> list[str]:
        return [str(fault) for fault in faults(self.root, self.locale)]


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_the_texts_of_quantbench_have_no_faults() -> None:
    assert [str(fault) for fault in faults()] == []
    assert main() == 0


def test_a_package_that_agrees_has_no_faults(package: Package) -> None:
    assert package.faults() == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('msg("a.new")', ["a.new: has no wording in en", "a.new: has no wording in zh"]),
        ('msg(f"a.{KIND}")', ["the id in msg(…) is not a literal"]),
        ('msg("lead")', ["the id in msg(…) is not a literal"]),
        ('msg("a.lead", **values)', ["a.lead: write the values out"]),
        ('msg("a.lead", name="x")', ["a.lead: is given other values than in pack/report/sections/one.py:4"]),
        ('msg("a.lead", label="x", n=2)', ["a.lead: is given other values than"]),
        ('Text("Two words")', ["'Two words' is English and not a message"]),
        ('Head("Word")', ["'Word' is English and not a message"]),
        ('Section("word", "Word")', ["'Word' is English and not a message"]),
        ('Download("word.csv", "a word")', ["'a word' is English and not a message"]),
        ('0\nblocks.append(Text(LEAD + " of them"))', ["' of them' is English and not a message"]),
        ('f"{LEAD} of them"', ["' of them' is English and not a message"]),
    ],
)
def test_code_that_disagrees_is_reported(package: Package, code: str, expected: list[str]) -> None:
    package.write("report/sections/one.py", f"{MODULE}MORE = {code}\n")
    reported = package.faults()
    assert len(reported) == len(expected)
    for fault, words in zip(reported, expected, strict=True):
        assert fault.startswith(f"pack/report/sections/one.py:{8 + code.count(chr(10))}: ")
        assert words in fault


def test_templates_are_checked_too(package: Package) -> None:
    package.write("templates/page.html.j2", f'{TEMPLATE}{{{{ _("a.none") }}}}{{{{ _(x) }}}}')
    reported = package.faults()
    assert len(reported) == 3
    assert "the id in _(…) is not a literal" in reported[0]
    assert all("a.none: has no wording in" in fault for fault in reported[1:])


def test_the_named_groups_of_a_pattern_are_the_places(package: Package) -> None:
    package.write("report/recorded.py", 'ONE = Known("a.lead", r"(?P<name>\\w+) leads")\n')
    assert "a.lead: is given other values than in pack/report/recorded.py:1" in package.faults()[0]


@pytest.mark.parametrize(
    ("lang", "id", "entry", "expected"),
    [
        ("zh", "a.skip", "", "a.skip: has no wording in zh"),
        ("zh", "a.skip", 'msgid "a.skip"\nmsgstr ""\n', "a.skip: empty"),
        ("zh", "a.skip", '#, fuzzy\nmsgid "a.skip"\nmsgstr "跳"\n', "a.skip: fuzzy"),
        ("zh", "a.skip", '#~ msgid "a.old"\n#~ msgstr "旧"\n\nmsgid "a.skip"\nmsgstr "跳"\n', "a.old: obsolete"),
        ("zh", "a.skip", 'msgid "a.skip"\nmsgstr "跳"\n\nmsgid "a.gone"\nmsgstr "没"\n', "a.gone: nothing uses it"),
        ("zh", "a.skip", 'msgid "a.skip"\nmsgstr "跳"\n\nmsgid "a.skip"\nmsgstr "过"\n', "a.skip: is defined twice"),
        (
            "zh",
            "a.lead",
            'msgid "a.lead"\nmsgstr "领先"\n',
            "places are none; pack/report/sections/one.py:4 gives label",
        ),
        ("zh", "a.lead", 'msgid "a.lead"\nmsgstr "{lable}"\n', "places are lable"),
        ("zh", "a.lead", 'msgid "a.lead"\nmsgstr "{label"\n', "cannot be formatted"),
        ("zh", "a.lead", 'msgid "a.lead"\nmsgstr "{label!r}"\n', "cannot be formatted"),
        ("zh", "a.lead", 'msgid "a.lead"\nmsgstr "{}"\n', "cannot be formatted"),
        ("en", "a.items", 'msgid "a.items"\nmsgstr "{n} of {task}"\n', "is given an n, but has no plural forms"),
        (
            "en",
            "a.items",
            'msgid "a.items"\nmsgid_plural "a.items"\nmsgstr[0] "{n} of {task}"\n',
            "not all forms have a wording",
        ),
        (
            "en",
            "a.items",
            'msgid "a.items"\nmsgid_plural "a.item"\nmsgstr[0] "{n} of {task}"\nmsgstr[1] "{n} of {task}"\n',
            "its msgid_plural is another id",
        ),
        (
            "en",
            "a.skip",
            'msgid "a.skip"\nmsgid_plural "a.skip"\nmsgstr[0] "Skip"\nmsgstr[1] "Skips"\n',
            "has plural forms, but no n is given",
        ),
    ],
)
def test_a_catalogue_that_disagrees_is_reported(
    package: Package, lang: str, id: str, entry: str, expected: str
) -> None:
    package.catalogue(lang, ENTRIES[lang] | {id: entry})
    (fault,) = package.faults()
    assert expected in fault


def test_an_invalid_catalogue_is_reported_by_name(package: Package) -> None:
    package.catalogue("zh", {"a.lead": "this is no entry\n"})
    (fault,) = package.faults()
    assert "locale/zh/LC_MESSAGES/quantbench.po: " in fault
