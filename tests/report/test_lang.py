"""The report in Chinese: what is ours is translated, what is not stays as it is, and nothing else changes."""

import re
import tomllib
from pathlib import Path

import pytest

from bench.report import lang
from bench.report.lang import LANGUAGES, translator
from bench.report.page import write
from bench.report.sections.glossary import MEASURES
from testkit.records import demo_records, native_records, troubled_records
from tests.support.pages import Page, rendered

CHINESE = re.compile(r"[\u4e00-\u9fff]")
CATALOGUE = tomllib.loads((Path(lang.__file__).parent / "lang" / "zh.toml").read_text())


def test_titles_headings_and_notes_are_translated() -> None:
    html = rendered(native_records(), lang="zh")
    assert '<html lang="zh-Hans">' in html
    page = Page(html)
    translate = translator("zh")
    report = Path(lang.__file__).parent
    sources = [file.read_text() for file in (*report.glob("sections/*.py"), report / "nights.py")]
    titles = [title for source in sources for title in re.findall(r'Section\("\w+", "([^"]+)"', source)]
    assert len(titles) > 15
    assert [title for title in titles if not CHINESE.search(translate(title))] == []
    heads = [attrs["title"] for tag, attrs in page.tags if tag == "th" and attrs.get("title")]
    known = [head for head in heads if CHINESE.search(str(head))]
    assert len(known) >= 0.9 * len(heads)
    for words in ("用哪个版本", "只有 bf16 确定在界限之内", "解码速度", "有效", "无法判断"):
        assert words in page.text


def test_figures_names_and_structure_are_the_same_in_both_languages() -> None:
    english, chinese = (Page(rendered(demo_records(), lang=one)) for one in LANGUAGES)
    assert [tag for tag, _ in english.tags] == [tag for tag, _ in chinese.tags]
    assert english.ids() == chinese.ids()
    figures = re.compile(r"\d+\.\d{2,}")
    assert sorted(figures.findall(english.text)) == sorted(figures.findall(chinese.text))


def test_what_is_not_known_stays_as_it_is() -> None:
    translate = translator("zh")
    reason = "CUDA error: an illegal memory access was encountered"
    assert translate(reason) == reason
    between = "From here to there."
    assert translate(between) == between
    assert translate("") == ""
    for hostile in ("x" * 100_000, "a. " * 30_000, "a: b; " * 600, "1 in, " * 80):
        assert translate(hostile) == hostile
    assert translator("en")(reason) == reason


def test_patterns_translate_what_they_hold() -> None:
    translate = translator("zh")
    assert translate("Goal: smallest checkpoint, at a margin of 1 pp") == "目标：最小的检查点，界限 1 个百分点"
    assert translate("7 × not supported") == "7 × 不支持"
    assert translate("−12.6 to +1.9") == "−12.6 到 +1.9"


def test_the_longest_known_run_of_sentences_is_taken() -> None:
    translate = translator("zh")
    known = MEASURES["Choice-KL"]
    assert translate(f"Who knows. {known}") == f"Who knows.{translate(known)}"


def test_the_whole_glossary_is_translated() -> None:
    translate = translator("zh")
    assert [
        text for pair in MEASURES.items() for text in pair if re.search("[a-z]+ [a-z]+ [a-z]+", translate(text))
    ] == []


@pytest.mark.parametrize("pattern", CATALOGUE["pattern"])
def test_a_pattern_loses_none_of_its_parts(pattern: str) -> None:
    told = CATALOGUE["pattern"][pattern]
    parts = [str(index) for index in range(pattern.count("{}") + pattern.count("{n}"))]
    filled = told.format(*(f"<{part}>" for part in parts))
    assert sorted(re.findall(r"<(\d+)>", filled)) == sorted(parts)


def test_every_text_of_the_catalogue_is_translated() -> None:
    assert [key for key, told in CATALOGUE["text"].items() if not told or (told == key and " " in key)] == []


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(troubled_records(), tmp_path / "a.html", title="t", lang="zh").read_bytes()
    assert first == write(troubled_records(), tmp_path / "b.html", title="t", lang="zh").read_bytes()
