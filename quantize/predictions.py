"""The predictions of a checkpoint and its source for each position of a text, and the figures computed from them.

Everything that is said about fidelity is computed here, from a record that is kept in the checkpoint's folder.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.checkpoint import CheckpointError, Fidelity

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP = 8
"""Most likely tokens that are kept of each distribution. Chosen: 130 bytes a position."""
MAX_LOSS = 700.0
"""Nats per token above which a perplexity is not finite (exp overflows at 709.8); the KL limit refuses it anyway."""


@dataclass(frozen=True)
class Predictions:
    """Next-token predictions of two checkpoints at the same positions, one row of each array for each position.

    Logarithms are natural; distributions are over the complete vocabulary.
    """

    engine: str
    """What computed them."""
    text_id: str
    text_sha256: str
    """Hash over the token ids of all windows."""
    document: "NDArray[np.int32]"
    """Number of the position's window, from 0."""
    position: "NDArray[np.int32]"
    """Number of the position in its window, from 0."""
    following: "NDArray[np.int32]"
    """The next token of the text; -1 at the end of a window."""
    source_logprob: "NDArray[np.float32]"
    """The source's log-probability of the next token; 0 at the end of a window."""
    logprob: "NDArray[np.float32]"
    """The checkpoint's."""
    kl_nats: "NDArray[np.float32]"
    """KL(source || checkpoint)."""
    source_top: "NDArray[np.int32]"
    """The source's most likely tokens (positions, `TOP`), most likely first."""
    source_top_logprobs: "NDArray[np.float32]"
    top: "NDArray[np.int32]"
    """The checkpoint's."""
    top_logprobs: "NDArray[np.float32]"

    def save(self, file: Path) -> None:
        """Write the record as a compressed NumPy archive."""
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(self).items()}
        with file.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, file: Path) -> "Predictions":
        """Read a record.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            fields: dict[str, Any] = {name: value if value.ndim else str(value) for name, value in arrays.items()}
            return cls(**fields)
        except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{file} is not a record of predictions ({error})") from error


def fidelity_of(predictions: Predictions, *, rounding_kl_nats: float | None = None) -> Fidelity:
    """Return the figures of a record.

    Args:
        predictions: the record.
        rounding_kl_nats: divergence of rounding to nearest in the same format on the same text, if known.
    """
    predicted = predictions.following >= 0
    losses = [
        -float(logprob[predicted].mean(dtype=np.float64)) if predicted.any() else 0.0
        for logprob in (predictions.logprob, predictions.source_logprob)
    ]
    return Fidelity(
        text_id=predictions.text_id,
        text_sha256=predictions.text_sha256,
        n_tokens=len(predictions.kl_nats),
        documents=len(np.unique(predictions.document)),
        kl_nats=max(0.0, float(predictions.kl_nats.mean(dtype=np.float64))),
        rounding_kl_nats=rounding_kl_nats,
        top1_agreement=float((predictions.source_top[:, 0] == predictions.top[:, 0]).mean()),
        perplexity=math.exp(min(MAX_LOSS, losses[0])),
        source_perplexity=math.exp(min(MAX_LOSS, losses[1])),
    )
