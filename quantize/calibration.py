"""Draw calibration samples, and the held-out windows that fidelity is measured on, as token ids.

Calibration texts are drawn like this: the file is read from its beginning until the texts make up a pool of
``POOL_CHARACTERS``, or of ``POOL_PER_TOKEN`` characters for each token asked for if that is more; a smaller file is
the pool as a whole. The pool is shuffled by the seed, and its texts are tokenized one after the other, joined, and cut
into windows until there are enough. The same bytes, seed and tokenizer give the same samples.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from quantize.checkpoint import CalibrationFact, CheckpointError
from quantize.key import canonical_json, sha256_text
from quantize.rows import Chat, Row, read
from quantize.texts import CalibrationConfig, HeldoutConfig, TextFile, locate

POOL_CHARACTERS = 4_000_000
"""Characters of a set from which samples are drawn. Chosen: a million tokens, read in seconds."""
POOL_PER_TOKEN = 16
"""Characters per token asked for, four times what English takes: enough to choose from."""


def identity(config: CalibrationConfig, seed: int) -> dict[str, Any]:
    """Return what of the calibration belongs into a checkpoint's key, the text's own identity included.

    Raises:
        CheckpointError: there is no such text, or it cannot be reached.
    """
    return {**config.model_dump(exclude={"set"}), "text": locate(config.set, "calibration").identity(), "seed": seed}


def heldout_identity(config: HeldoutConfig) -> dict[str, Any]:
    """Return what of the held-out text belongs into a checkpoint's key.

    Raises:
        CheckpointError: there is no such text, or it cannot be reached.
    """
    return {**config.model_dump(exclude={"set"}), "text": locate(config.set, "heldout").identity()}


def windows(texts: Iterable[Sequence[int]], length: int) -> Iterator[list[int]]:
    """Yield the texts' tokens, joined in order and cut into windows of exactly ``length`` tokens.

    The rest that does not fill a window is left out, unless it is all there is.
    """
    rest: list[int] = []
    filled = False
    for ids in texts:
        rest += ids
        whole = len(rest) - len(rest) % length
        for start in range(0, whole, length):
            filled = True
            yield rest[start : start + length]
        rest = rest[whole:]
    if rest and not filled:
        yield rest


def pool(rows: Iterable[Row], characters: int) -> list[Row]:
    """Return the first rows that together hold at least ``characters``, or all of them."""
    chosen: list[Row] = []
    size = 0
    for row in rows:
        chosen.append(row)
        size += len(row) if isinstance(row, str) else sum(len(message["content"]) for message in row)
        if size >= characters:
            break
    return chosen


def _check_template(tokenizer: Any, text: TextFile) -> None:
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"set '{text.name}' holds chats, and the model's tokenizer has no chat template: use a set of plain text, "
            "such as calibration.set=c4 or calibration.set=embedded"
        )


def _render(chat: Chat, tokenizer: Any, enable_thinking: bool, text: TextFile) -> str:
    from jinja2 import TemplateError

    try:
        rendered: str = tokenizer.apply_chat_template(chat, tokenize=False, enable_thinking=enable_thinking)
    except TemplateError as error:
        raise CheckpointError(f"set '{text.name}': the model's chat template refuses a chat ({error})") from error
    return rendered


def tokens(rows: Iterable[Row], tokenizer: Any, text: TextFile, *, enable_thinking: bool) -> Iterator[list[int]]:
    """Yield the token ids of each row.

    A text is followed by end-of-text. A chat is rendered by the model's chat template, which places all special tokens
    itself: none are added.

    Raises:
        CheckpointError: a chat, and the tokenizer has no chat template.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for row in rows:
        if isinstance(row, str):
            yield tokenizer(row, add_special_tokens=False)["input_ids"] + end
        else:
            _check_template(tokenizer, text)
            rendered = _render(row, tokenizer, enable_thinking, text)
            yield tokenizer(rendered, add_special_tokens=False)["input_ids"]


def calibration_samples(
    config: CalibrationConfig, seed: int, tokenizer: Any, planned: dict[str, Any] | None = None
) -> tuple[list[list[int]], CalibrationFact, tuple[str, ...]]:
    """Return (samples, what they are, notes).

    A set that holds less than was asked for is used whole, and a note says so.

    Args:
        config: which text, and how much.
        seed: of the shuffle.
        tokenizer: the model's own.
        planned: what :func:`identity` gave when the run was planned; the text must still be that one.

    Raises:
        CheckpointError: the text cannot be had or read, or is a set of chats and the tokenizer has no chat template.
    """
    text = locate(config.set, "calibration", planned and planned["text"])
    size = max(POOL_CHARACTERS, POOL_PER_TOKEN * config.n_samples * config.max_seq_len)
    rows = pool(read(text.fetch(), column=text.column, lines=text.lines), size)
    if not rows:
        raise CheckpointError(f"calibration set '{text.name}' holds no text")
    random.Random(seed).shuffle(rows)
    chats = any(not isinstance(row, str) for row in rows)
    thinking = chats and config.enable_thinking
    ids = tokens(rows, tokenizer, text, enable_thinking=thinking)
    samples = list(islice(windows(ids, config.max_seq_len), config.n_samples))
    notes: tuple[str, ...] = ()
    if len(samples) < config.n_samples:
        notes = (f"calibration set '{text.name}' holds {len(samples)} of the {config.n_samples} samples asked for",)
    fact = CalibrationFact(
        id=text.name,
        source=text.source,
        n_samples=len(samples),
        max_seq_len=config.max_seq_len,
        n_tokens=sum(map(len, samples)),
        enable_thinking=thinking if chats else None,
        chat_template_sha256=sha256_text(tokenizer.get_chat_template()) if chats else None,
        sha256=sha256_text(canonical_json(samples)),
        sample_sha256=tuple(sha256_text(canonical_json(sample)) for sample in samples),
    )
    return samples, fact, notes


def heldout_windows(config: HeldoutConfig, tokenizer: Any, planned: dict[str, Any] | None = None) -> list[list[int]]:
    """Return the held-out text from its beginning, in its order, in windows of ``max_seq_len`` tokens.

    Args:
        config: which text, and how much.
        tokenizer: the model's own.
        planned: what :func:`heldout_identity` gave when the run was planned; the text must still be that one.

    Raises:
        CheckpointError: as for :func:`calibration_samples`.
    """
    text = locate(config.set, "heldout", planned and planned["text"])
    rows = read(text.fetch(), column=text.column, lines=text.lines)
    every_window = windows(tokens(rows, tokenizer, text, enable_thinking=False), config.max_seq_len)
    samples = list(islice(every_window, config.n_samples))
    if not samples:
        raise CheckpointError(f"held-out set '{text.name}' holds no text")
    return samples
