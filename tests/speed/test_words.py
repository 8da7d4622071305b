"""Words of one token each, from vocabularies written by hand."""

from bench.speed.words import Words, candidates


def test_a_text_has_the_first_word_for_an_id_without_one() -> None:
    words = candidates({"Ġhouse": 7, "Ġtree": 3, "Ġsky": 9, "Ġ42": 1, "root": 2})
    assert words.ids == (3, 7, 9)
    assert words.text([9, 1000, 7]) == " sky tree house"
    assert Words(by_id=words.by_id, leading_space=False).text([9]) == "sky"
