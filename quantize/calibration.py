"""Return calibration samples, and the held-out windows that fidelity is measured on, as token ids.

Calibration samples are chosen as follows. The file is read from its start until its texts form a pool of
``POOL_CHARACTERS``, or of ``POOL_PER_TOKEN`` characters per requested token if that is more; a smaller file becomes the
pool entirely. The pool is shuffled by the seed, and its texts are tokenized in that order, joined, and split into
windows until there are enough. The same bytes, seed and tokenizer give the same samples.
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
"""Characters of a set that samples are chosen from. Chosen: a million tokens, read in seconds."""
POOL_PER_TOKEN = 16
"""Characters per requested token: four times as many as English needs, so that there is a choice."""


def identity(config: CalibrationConfig, seed: int) -> dict[str, Any]:
    """Return the calibration's part of a checkpoint's key, including the identity of its text.

    Raises:
        CheckpointError: there is no such text, or it is unreachable.
    """
    return {**config.model_dump(exclude={"set"}), "text": locate(config.set, "calibration").identity(), "seed": seed}


def heldout_identity(config: HeldoutConfig) -> dict[str, Any]:
    """Return the held-out text's part of a checkpoint's key.

    Raises:
        CheckpointError: there is no such text, or it is unreachable.
    """
    return {**config.model_dump(exclude={"set"}), "text": locate(config.set, "heldout").identity()}


def windows(texts: Iterable[Sequence[int]], length: int) -> Iterator[list[int]]:
    """Yield the texts' tokens, joined in order and split into windows of exactly ``length`` tokens.

    A remainder that does not fill a window is left out, unless there is no full window.
    """
    rest: list[int] = []
    filled = False
    for ids in texts:
        rest += ids
        full = len(rest) - len(rest) % length
        for start in range(0, full, length):
            filled = True
            yield rest[start : start + length]
        rest = rest[full:]
    if rest and not filled:
        yield rest


def pool(rows: Iterable[Row], characters: int) -> list[Row]:
    """Return the first rows that together have at least ``characters``, or all rows."""
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
            f"set '{text.name}' contains chats, but the model's tokenizer has no chat template: use a set of plain "
            "text, such as calibration.set=c4 or calibration.set=embedded"
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

    A text is followed by end-of-text. A chat is rendered by the model's chat template, which includes all special
    tokens, so none are added.

    Raises:
        CheckpointError: a row is a chat, but the tokenizer has no chat template.
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
    """Return (samples, facts about them, notes).

    A set with fewer samples than requested is used completely, and a note says so.

    Args:
        config: which text, and how much.
        seed: seed of the shuffle.
        tokenizer: the model's own.
        planned: the result of :func:`identity` when the run was planned; the text must not have changed since.

    Raises:
        CheckpointError: the text is unavailable or unreadable, or has chats for a tokenizer without a chat template.
    """
    text = locate(config.set, "calibration", planned and planned["text"])
    size = max(POOL_CHARACTERS, POOL_PER_TOKEN * config.n_samples * config.max_seq_len)
    rows = pool(read(text.fetch(), column=text.column, lines=text.lines), size)
    if not rows:
        raise CheckpointError(f"calibration set '{text.name}' contains no text")
    random.Random(seed).shuffle(rows)
    chats = any(not isinstance(row, str) for row in rows)
    thinking = chats and config.enable_thinking
    ids = tokens(rows, tokenizer, text, enable_thinking=thinking)
    samples = list(islice(windows(ids, config.max_seq_len), config.n_samples))
    notes: tuple[str, ...] = ()
    if len(samples) < config.n_samples:
        notes = (f"calibration set '{text.name}' has only {len(samples)} of the {config.n_samples} requested samples",)
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
    """Return the held-out text from its start, in order, in windows of ``max_seq_len`` tokens.

    Args:
        config: which text, and how much.
        tokenizer: the model's own.
        planned: the result of :func:`heldout_identity` when the run was planned; the text must not have changed since.

    Raises:
        CheckpointError: as for :func:`calibration_samples`.
    """
    text = locate(config.set, "heldout", planned and planned["text"])
    rows = read(text.fetch(), column=text.column, lines=text.lines)
    every_window = windows(tokens(rows, tokenizer, text, enable_thinking=False), config.max_seq_len)
    samples = list(islice(every_window, config.n_samples))
    if not samples:
        raise CheckpointError(f"held-out set '{text.name}' contains no text")
    return samples
