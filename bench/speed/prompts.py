"""Prompts of random token ids, of an exact length and without common prefixes."""

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
    """Return the ids of a Hugging Face ``tokenizer.json`` that encode ordinary text, in ascending order.

    Added tokens (end of text, chat markers, …) are left out, because they change the behaviour of a server or a model.

    Raises:
        SourceError: the file is missing, is not JSON, or has no vocabulary.
    """
    try:
        tokenizer: dict[str, Any] = json.loads(tokenizer_json.read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        added = {token["id"] for token in tokenizer["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{tokenizer_json} has no readable vocabulary ({error!r})") from error
    # BPE and WordPiece map text to id; Unigram is a list of (text, score) whose position is the id.
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return tuple(sorted(set(ids) - added))


def wave_prompts(
    vocabulary: Sequence[int] | NDArray[np.int64], shape: Shape, *, seed: int, wave: int, n: int, nonce: str = ""
) -> list[list[int]]:
    """Return the prompts of one wave, one per request, which differ between waves, shapes and seeds.

    They depend on the arguments only, so a cell has the same prompts in any order of the sweep. No two prompts of a
    wave start with the same id, which a server with a prefix cache could take from its cache.

    Args:
        vocabulary: ids to sample from uniformly; at least ``n``, all different.
        shape: shape of the cell.
        seed: seed of the sweep.
        wave: 0 is the warm-up.
        n: number of requests of the wave.
        nonce: changes the prompts.
    """
    rng = generator(seed, shape, wave, f"prompts{nonce}")
    ids = np.asarray(vocabulary, dtype=np.int64)
    prompts = ids[rng.integers(ids.size, size=(n, shape.input_len))]
    prompts[:, 0] = rng.choice(ids, n, replace=False)
    return [prompt.tolist() for prompt in prompts]
