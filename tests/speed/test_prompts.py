"""Random prompts: determined by the seed, with ordinary tokens only."""

import json
from pathlib import Path

import pytest

from bench.errors import SourceError
from bench.speed.prompts import ordinary_vocabulary, wave_prompts
from bench.speed.shapes import Shape, closed_loop
from tests.support.lanes import SHAPE, VOCABULARY


def test_prompts_follow_from_seed_shape_and_wave_alone() -> None:
    def prompts(shape: Shape = SHAPE, seed: int = 1, wave: int = 1) -> list[list[int]]:
        return wave_prompts(VOCABULARY, shape, seed=seed, wave=wave, n=2)

    assert prompts() == prompts()
    longer = closed_loop(6, 5, 1)
    different = [prompts(), prompts(seed=-2), prompts(wave=2), prompts(wave=0), prompts(shape=longer)]
    assert len({str(ids) for ids in different}) == len(different)


def test_no_two_prompts_of_a_wave_begin_alike() -> None:
    shape = closed_loop(1, 1, 64)
    for wave in range(50):
        prompts = wave_prompts(range(100), shape, seed=0, wave=wave, n=64)
        assert len({prompt[0] for prompt in prompts}) == 64


def test_random_prompts_use_the_whole_vocabulary_and_nothing_else() -> None:
    ids = (3, 7, 8, 20, 21)
    prompts = wave_prompts(ids, closed_loop(300, 1, 5), seed=0, wave=1, n=5)
    assert all(set(prompt) == set(ids) and len(prompt) == 300 for prompt in prompts)
    assert all(type(token) is int for token in prompts[0])


def test_added_tokens_are_not_ordinary(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    added = [{"id": 0, "content": "<|end|>", "special": True}, {"id": 9, "content": "<think>", "special": False}]
    for vocabulary in ({"b": 2, "a": 1, "<|end|>": 0, "c": 4}, [["<|end|>", 0], ["a", -1.5], ["b", -2]]):
        file.write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocabulary}}))
        assert ordinary_vocabulary(file) == ((1, 2, 4) if isinstance(vocabulary, dict) else (1, 2))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model": {}}', '{"model": {"vocab": {}}}'])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SourceError, match=r"tokenizer\.json"):
        ordinary_vocabulary(file)
