"""Prompts of random ids: exactly as long as asked for, and no two with a common beginning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import SourceError
from bench.speed.load import generator
from bench.speed.shapes import Shape


def ordinary_vocabulary(tokenizer_json: Path) -> tuple[int, ...]:
    """Return the ids of a Hugging Face ``tokenizer.json`` that stand for ordinary text, in order.

    Added tokens (end of text, chat markers, …) are left out: they change what a server or a model does.

    Raises:
        SourceError: the file is missing, is not JSON, or holds no vocabulary.
    """
    try:
        tokenizer: dict[str, Any] = json.loads(tokenizer_json.read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        added = {token["id"] for token in tokenizer["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{tokenizer_json} has no vocabulary that can be read ({error!r})") from error
    # BPE and WordPiece map text to id; Unigram lists (text, score), and the position is the id.
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return tuple(sorted(set(ids) - added))


def wave_prompts(
    vocabulary: Sequence[int] | NDArray[np.int64], shape: Shape, *, seed: int, wave: int, n: int, nonce: str = ""
) -> list[list[int]]:
    """Return the prompts of one wave, one for each request; another wave, shape or seed gives others.

    They follow from the arguments alone, so a cell is the same wherever it stands in the order. No two begin with
    the same id: a server that keeps prefixes would take that one from its cache.

    Args:
        vocabulary: ids to draw from, evenly; at least ``n``, all different.
        shape: of the cell.
        seed: of the sweep.
        wave: 0 is the warm-up.
        n: requests of the wave.
        nonce: another one gives other prompts.
    """
    rng = generator(seed, shape, wave, f"prompts{nonce}")
    ids = np.asarray(vocabulary, dtype=np.int64)
    prompts = ids[rng.integers(ids.size, size=(n, shape.input_len))]
    prompts[:, 0] = rng.choice(ids, n, replace=False)
    return [prompt.tolist() for prompt in prompts]
