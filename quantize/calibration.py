"""Text in, token ids out: calibration samples and the held-out text that fidelity is measured on."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantize.checkpoint import CalibrationFact, CheckpointError
from quantize.key import canonical_json, sha256_text
from quantize.methods import CalibrationConfig

DATA = Path(__file__).resolve().parent / "data"
HELDOUT_ID = "embedded-heldout-1"


def texts_of(file: Path) -> Iterator[str]:
    """Yield the texts of a .jsonl file, one JSON object with a ``text`` field per line.

    Raises:
        CheckpointError: a line is something else; names it.
    """
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f'{file}:{number}: expected a JSON object with a "text" field') from error


def set_file(name: str) -> Path:
    """Return the file behind a calibration set's name.

    Raises:
        CheckpointError: neither ``embedded`` nor an existing file.
    """
    file = DATA / "calibration.jsonl" if name == "embedded" else Path(name).expanduser()
    if not file.is_file():
        raise CheckpointError(f"calibration set '{name}': no such file; use quant.calibration.set=embedded or a .jsonl")
    return file


def identity(config: CalibrationConfig, seed: int) -> dict[str, Any]:
    """Return what of the calibration belongs into a checkpoint's key, the text's own hash included."""
    return {
        "text": sha256_text(set_file(config.set).read_text(encoding="utf-8")),
        "n_samples": config.n_samples,
        "max_seq_len": config.max_seq_len,
        "seed": seed,
    }


def windows(texts: list[str], tokenizer: Any, length: int) -> list[list[int]]:
    """Return the texts' tokens, joined by end-of-text, cut into windows of exactly ``length`` tokens.

    The rest that does not fill a window is left out, unless it is all there is.
    """
    stream: list[int] = []
    for text in texts:
        stream += tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.eos_token_id is not None:
            stream.append(tokenizer.eos_token_id)
    whole = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    return whole or [stream]


def calibration_samples(
    config: CalibrationConfig, seed: int, tokenizer: Any
) -> tuple[list[list[int]], CalibrationFact, tuple[str, ...]]:
    """Return (samples, what they are, notes). The texts are shuffled by ``seed`` before they are joined and cut.

    A set that holds less than was asked for is used whole, and a note says so.
    """
    texts = list(texts_of(set_file(config.set)))
    random.Random(seed).shuffle(texts)
    found = windows(texts, tokenizer, config.max_seq_len)
    samples = found[: config.n_samples]
    notes: tuple[str, ...] = ()
    if len(samples) < config.n_samples:
        notes = (f"calibration set '{config.set}' holds {len(samples)} of the {config.n_samples} samples asked for",)
    fact = CalibrationFact(
        id=config.set if config.set == "embedded" else Path(config.set).name,
        n_samples=len(samples),
        max_seq_len=config.max_seq_len,
        n_tokens=sum(map(len, samples)),
        sha256=sha256_text(canonical_json(samples)),
    )
    return samples, fact, notes


def heldout_identity() -> str:
    """Return the SHA-256 of the embedded held-out text."""
    return sha256_text((DATA / "heldout.jsonl").read_text(encoding="utf-8"))


def heldout_windows(tokenizer: Any, length: int) -> list[list[int]]:
    """Return the embedded held-out text, disjoint from the calibration text, in windows of ``length`` tokens."""
    return windows(list(texts_of(DATA / "heldout.jsonl")), tokenizer, length)
