"""Frozen values and the canonical text of a key."""

import math
import runpy

import pytest
from pydantic import ValidationError

from quantize import architecture
from quantize.key import Frozen, canonical_json


class Pair(Frozen):
    first: int
    second: tuple[int, ...] = ()


def test_a_value_is_compared_by_content_and_cannot_be_changed() -> None:
    assert {Pair(first=1), Pair(first=1), Pair(first=2)} == {Pair(first=2), Pair(first=1)}
    with pytest.raises(ValidationError, match="frozen"):
        Pair(first=1).first = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="third"):
        Pair.model_validate({"first": 1, "third": 3})


def test_the_shapes_of_a_model_cannot_be_changed() -> None:
    """Defines the class again, as every process does."""
    shapes = runpy.run_path(architecture.__file__)["Architecture"](
        layers=1,
        hidden_size=8,
        intermediate_size=8,
        heads=1,
        kv_heads=1,
        head_dim=8,
        vocab_size=9,
        tied_embeddings=True,
    )
    with pytest.raises(ValidationError, match="frozen"):
        shapes.layers = 2
    assert hash(shapes) == hash(shapes.model_copy())


def test_the_canonical_text_is_sorted_and_has_no_spaces() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_without_a_canonical_text_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": value})
    with pytest.raises(TypeError, match="JSON"):
        canonical_json({"a": {1}})
