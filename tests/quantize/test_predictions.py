"""Figures of fidelity, computed from a record in one place, against brute force and through a file."""

import math
from pathlib import Path

import numpy as np
import pytest

from quantize.ceiling import MOST_ROUNDING, SLACK_NATS, ceiling, too_far
from quantize.checkpoint import CheckpointError, Fidelity
from quantize.predictions import Predictions, fidelity_of

torch = pytest.importorskip("torch")
VOCABULARY = 11
WINDOWS = ((1, 2, 3, 4, 5), (6, 7, 8), (9, 10, 1, 2))


class Table:
    """A model whose logits for a token are a row of a table, with what `_compare` needs of a checkpoint."""

    device = torch.device("cpu")
    n_layers = 0

    def __init__(self, seed: int) -> None:
        self.logits = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))

    def ends(self) -> tuple[object, ...]:
        return (lambda ids: self.logits[ids], lambda states: states, lambda states: states)


def compared(first: int = 1, second: int = 2) -> Predictions:
    from quantize.fidelity import _compare

    predictions, errors, damage = _compare(Table(first), Table(second), WINDOWS, "text", probe=())  # type: ignore[arg-type]
    assert errors == damage == ()
    return predictions


def brute_force(first: int, second: int) -> dict[str, float]:
    kl, same, losses = [], [], [[], []]
    tables = [Table(seed).logits.double().softmax(1).tolist() for seed in (first, second)]
    for window in WINDOWS:
        for place, token in enumerate(window):
            p, q = tables[0][token], tables[1][token]
            kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            same.append(p.index(max(p)) == q.index(max(q)))
            if place + 1 < len(window):
                for table, of_table in zip(tables, losses, strict=True):
                    of_table.append(-math.log(table[token][window[place + 1]]))
    mean = {"kl": sum(kl) / len(kl), "same": sum(same) / len(same)}
    return mean | {
        "source": math.exp(sum(losses[0]) / len(losses[0])),
        "own": math.exp(sum(losses[1]) / len(losses[1])),
    }


def test_figures_equal_brute_force_over_windows_of_different_lengths() -> None:
    found, wanted = fidelity_of(compared(), rounding_kl_nats=0.25), brute_force(1, 2)
    assert found.n_tokens == 12
    assert found.documents == 3
    assert found.kl_nats == pytest.approx(wanted["kl"], rel=1e-5)
    assert found.top1_agreement == pytest.approx(wanted["same"])
    assert found.perplexity == pytest.approx(wanted["own"], rel=1e-5)
    assert found.source_perplexity == pytest.approx(wanted["source"], rel=1e-5)
    assert found.rounding_kl_nats == 0.25


def test_a_record_holds_each_position_with_its_window_and_next_token() -> None:
    record = compared()
    assert record.document.tolist() == [0] * 5 + [1] * 3 + [2] * 4
    assert record.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]
    assert record.following.tolist() == [2, 3, 4, 5, -1, 7, 8, -1, 10, 1, 2, -1]
    logits = Table(1).logits
    assert record.source_top[0].tolist() == logits[1].topk(8).indices.tolist()
    assert record.logprob[4] == record.source_logprob[4] == 0


def test_a_record_is_the_same_after_a_file(tmp_path: Path) -> None:
    record = compared()
    record.save(tmp_path / "record.npz")
    loaded = Predictions.load(tmp_path / "record.npz")
    assert loaded.engine == record.engine
    assert all(np.array_equal(value, vars(record)[name]) for name, value in vars(loaded).items())
    assert fidelity_of(loaded) == fidelity_of(record)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_no_record_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a record of predictions"):
        Predictions.load(tmp_path / "record.npz")


def test_a_record_with_pickled_objects_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "record.npz", kl_nats=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="is not a record"):
        Predictions.load(tmp_path / "record.npz")


def fidelity(kl: float, rounding: float | None) -> Fidelity:
    return fidelity_of(compared(1, 1)).model_copy(update={"kl_nats": kl, "rounding_kl_nats": rounding})


@pytest.mark.parametrize(
    ("kl", "rounding", "own_limit", "refused"),
    [
        (0.15, 0.036, None, True),  # SmolLM2-135M in FP8 with a zeroed down_proj
        (0.036, 0.036, None, False),
        (0.59, 0.46, None, False),  # GPTQ that was calibrated on too little
        (0.75, 0.46, None, True),
        (0.75, 0.46, 1.0, False),
        (0.2, 0.46, 0.1, True),
        (0.2, None, None, False),
        (float("nan"), 0.46, None, True),
        (0.001, 0.0, None, False),
    ],
)
def test_the_limit_is_relative_to_rounding_to_nearest(
    kl: float, rounding: float | None, own_limit: float | None, refused: bool
) -> None:
    reason = too_far(fidelity(kl, rounding), own_limit)
    assert (reason is not None) is refused
    if reason:
        assert "quant.max_kl=" in reason
    if own_limit is None and rounding is not None:
        assert ceiling(fidelity(kl, rounding), None) == MOST_ROUNDING * rounding + SLACK_NATS
