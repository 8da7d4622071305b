"""Errors of single layers, checked against outputs whose errors are known."""

import pytest

torch = pytest.importorskip("torch")

from quantize.checkpoint import LayerError  # noqa: E402
from quantize.layer_errors import relative_errors, wrong_layer  # noqa: E402


def outputs(positions: int = 64, features: int = 16) -> "torch.Tensor":
    return torch.randn(positions, features, generator=torch.Generator().manual_seed(1))


def test_the_error_of_a_layer_is_relative_and_may_be_up_to_factors() -> None:
    reference = outputs()
    assert relative_errors(reference, reference) == (0, None)
    assert relative_errors(reference, torch.zeros_like(reference))[0] == pytest.approx(1)
    factors = torch.rand(16, generator=torch.Generator().manual_seed(2)) + 0.5
    assert relative_errors(reference, reference * factors)[0] > 0.1
    assert relative_errors(reference, reference * factors, rescale=True)[0] < 1e-6


def test_an_attention_sink_hides_no_error_of_other_positions() -> None:
    """One position of 64 with 500 times the usual norm decides a Frobenius norm alone."""
    reference, noise = outputs(), 0.3 * outputs().flip(0)
    reference[0] *= 500
    error, at_sink = relative_errors(reference, reference + noise)
    assert error == pytest.approx(0.3, rel=0.1)
    assert at_sink is not None
    assert at_sink < 0.001
    frobenius = float(noise.norm() / reference.norm())
    assert frobenius < 0.01
    broken = reference.clone()
    broken[0] = 0
    assert relative_errors(reference, broken) == (0, 1)


def test_factors_are_those_of_all_positions_and_not_of_a_sink() -> None:
    reference = outputs()
    reference[0] *= 500
    output = reference * 1.5
    output[0] = reference[0]  # the sink alone would choose a factor of 1
    assert relative_errors(reference, output, rescale=True)[0] < 0.05


def test_positions_without_an_output_have_no_error() -> None:
    assert relative_errors(torch.zeros(3, 4), torch.zeros(3, 4)) == (0, None)


def errors(*values: float) -> tuple[LayerError, ...]:
    return tuple(LayerError(layer=layer, name="mlp.down_proj", relative_error=v) for layer, v in enumerate(values))


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ((0.1, 0.12, 0.45), None),
        ((0.1, 0.12, 0.49), None),
        ((0.1, 0.12, 0.62), 2),
        ((0.4, 0.45, 0.62), None),
        ((0.1, 1.0, 0.1), 1),
        ((0.95, 0.95, 0.95), 0),
        ((float("nan"), 0.1, 0.1), 0),
    ],
)
def test_a_layer_whose_output_is_unrelated_to_its_sources_is_wrong(
    values: tuple[float, ...], wrong: int | None
) -> None:
    reason = wrong_layer(errors(*values))
    assert reason is None if wrong is None else f"mlp.down_proj in layer {wrong} " in str(reason)
