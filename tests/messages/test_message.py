"""Messages: their wording in each language, and the values that fill their places."""

from pathlib import Path
from typing import get_args

import pytest

from bench.config.spec import ReportSpec
from bench.messages.message import (
    LANGUAGES,
    Message,
    Words,
    catalogue,
    clauses,
    english,
    linked,
    listed,
    load,
    msg,
    sentences,
)

BYLINE: dict[str, Words] = {"begun": "2026-11-24", "sessions": "s1", "version": "0.1.0"}


def test_a_message_is_english_as_a_string_and_worded_in_each_language() -> None:
    assert str(msg("page.skip")) == f"{msg('page.skip')}" == english(msg("page.skip")) == "Skip to content"
    assert {lang: catalogue(lang)(msg("page.skip")) for lang in LANGUAGES} == {
        "en": "Skip to content",
        "zh": "跳到正文",
    }


def test_a_name_is_the_same_in_every_language() -> None:
    assert [catalogue(lang)("Legend") for lang in LANGUAGES] == ["Legend"] * len(LANGUAGES)


@pytest.mark.parametrize(("n", "expected"), [(1, "1 run, "), (2, "2 runs, "), (0, "0 runs, "), (1200, "1,200 runs, ")])
def test_a_number_chooses_the_plural_form(n: int, expected: str) -> None:
    message = msg("page.byline", n=n, **BYLINE)
    assert str(message).startswith(expected)
    assert catalogue("zh")(message).startswith(f"{n:,} 次运行，")


def test_values_are_rendered_in_the_same_language_and_never_formatted() -> None:
    inner = msg("join.and", first="{braces}", second=msg("page.legend"))
    assert str(msg("join.list", first=inner, second="%s")) == "{braces} and Legend, %s"
    assert catalogue("zh")(msg("join.list", first=inner, second="%s")) == "{braces} 和 图例，%s"


def test_texts_are_joined_as_the_language_does() -> None:
    both = (msg("page.legend"), msg("page.filter"))
    assert [str(join(both)) for join in (listed, linked, clauses, sentences)] == [
        "Legend, Filter",
        "Legend and Filter",
        "Legend; Filter",
        "Legend Filter",
    ]
    assert catalogue("zh")(clauses([*both, "x"])) == "图例；筛选；x"
    assert catalogue("zh")(listed(["bf16", "fp8"])) == "bf16, fp8", "names alone are a name"
    assert listed(both[:1]) == both[0]


def test_messages_are_compared_by_value() -> None:
    assert msg("join.and", first="a", second="b") == msg("join.and", first="a", second="b")
    assert len({msg("page.skip"), msg("page.skip"), Message("page.legend")}) == 2


def test_a_capitalized_place_starts_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "own.po"
    file.write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8"\n\nmsgid "a"\nmsgstr "{Goal}: {goal}"\n'
    )
    words = load(file, "en")
    assert words(Message("a", (("goal", "lowest µ"),))) == "Lowest µ: lowest µ"
    assert words(Message("a", (("goal", ""),))) == ": "
    with pytest.raises(KeyError, match="goal"):
        words(Message("a"))


def test_every_language_is_a_report_language() -> None:
    assert get_args(ReportSpec.model_fields["lang"].annotation) == LANGUAGES


def test_a_text_without_an_entry_is_shown_as_its_id() -> None:
    assert catalogue("zh")(Message("page.none")) == "page.none"
