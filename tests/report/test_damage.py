"""The error by layer, in heat maps and in a table."""

import itertools
import re

import pytest

from bench import format as fmt
from bench.report.page import render
from bench.report.plots.base import EDGES, HEAT, HeatRow, heat_map
from quantize.checkpoint import LayerError
from testkit.manifests import DENSE, MOE_MODEL, layer_errors, manifest
from testkit.records import QUANTS, many_records, moe_records, record
from tests.support.pages import demo_html, demo_page, page, rows_in, section_rows
from tests.support.paths import ROOT


def test_the_worst_layers_are_named_with_their_errors() -> None:
    _, row = rows_in(demo_html(), "damage", "gptq-int4")
    assert "61.3 %layer 28, down_proj" in row
    errors = sorted((error.relative_error for error in manifest("fp8").layer_errors), reverse=True)
    _, row = rows_in(demo_html(), "damage", "fp8")
    assert re.findall(r"([\d.]+) %", row)[1:] == [fmt.significant(100 * error) for error in errors[:5]]
    _, row = section_rows(moe_records(), "damage", "gptq-int4")
    assert ", experts" in row
    assert "Experts are compared as one block" in page(moe_records()).text
    assert "Experts are compared as one block" not in demo_page().text


def test_the_decoder_layers_that_cost_most_are_named_with_their_divergence() -> None:
    row, _ = rows_in(demo_html(), "damage", "gptq-int4")
    damage = sorted(manifest("gptq-int4").layer_damage, key=lambda layer: -layer.kl_nats)[:5]
    cells = row.strip().split("\n")[1:]
    assert cells == [
        f"{fmt.significant(layer.kl_nats)}layer {layer.layer}"
        f"standard error {fmt.significant(layer.standard_error_nats)}"
        for layer in damage
    ]
    older = [record("fp8", checkpoint=manifest("fp8", layer_damage=()))]
    assert len(section_rows(older, "damage", "fp8")) == 1
    assert "Decoder layers that cost most" not in page(older).text


def test_the_errors_are_drawn_for_every_quantized_variant() -> None:
    labels = [attrs["aria-label"] or "" for tag, attrs in demo_page().tags if tag == "svg" and "role" in attrs]
    (single,) = [label for label in labels if "Largest error: 61.3 %, layer 28, down_proj." in label]
    assert all(f"{name.partition('.')[2]} " in single for name in DENSE)
    assert len([label for label in labels if label.startswith("Largest error")]) == len(QUANTS) - 1
    (by_layer,) = [label for label in labels if label.startswith("By decoder layer")]
    assert all(quant in by_layer for quant in QUANTS[1:])
    assert "By decoder layer" not in page([record("fp8")]).text, "there is nothing to compare"


def test_there_is_no_section_if_no_layers_were_compared() -> None:
    assert 'id="damage"' not in render([record()], title="t")
    assert 'id="damage"' not in render([record("fp8", checkpoint=None)], title="t")


def test_many_variants_of_a_deep_model_stay_small_and_folded() -> None:
    html = render(many_records(), title="t")
    assert len(html) < 780_000
    folded = html.partition("Every layer of every variant, drawn</summary>")[2].partition("</details>")[0]
    assert folded.count("Largest error: ") == 2 * len(many_records()), "caption and description"
    assert "Every layer of every variant, drawn" not in demo_html()


def heat_paths(values: list[tuple[float | None, ...]]) -> dict[str, list[tuple[float, ...]]]:
    """Return {colour: (x, y) of each corner} as a heat map of the rows draws it."""
    rows = [HeatRow(f"row{index}", row, "") for index, row in enumerate(values)]
    svg = heat_map(rows, name="n", description="d", xlabel="x", figure_label="f").svg
    paths = re.findall(r'<path d="([^"]+)" clip-path="[^"]+" fill="var\((--\w+)\)', svg)
    numbers = {colour: [float(number) for number in re.findall(r"[\d.]+", path)] for path, colour in paths}
    return {colour: list(zip(flat[::2], flat[1::2], strict=True)) for colour, flat in numbers.items()}


def test_a_heat_map_has_each_value_at_its_place() -> None:
    corners = heat_paths([(0.001, 0.001, 0.0), (0.001, None, 0.6)])
    assert set(corners) == {"--h0", "--rule", "--h13"}
    (low, grey, high) = (corners[colour] for colour in ("--h0", "--rule", "--h13"))
    assert [x for x, _ in grey] == [x for x, _ in high], "third column"
    assert max(y for _, y in grey) < min(y for _, y in high), "second row below the first"
    width = max(x for x, _ in high) - min(x for x, _ in high)
    wide, narrow = low[:5], low[5:]
    assert max(x for x, _ in wide) - min(x for x, _ in wide) == pytest.approx(2 * width, rel=1e-3)
    assert max(x for x, _ in narrow) - min(x for x, _ in narrow) == pytest.approx(width, rel=1e-3)
    assert min(y for _, y in narrow) == min(y for _, y in high)


@pytest.mark.parametrize("index", range(len(EDGES)))
def test_a_colour_starts_at_its_edge(index: int) -> None:
    assert set(heat_paths([(EDGES[index],)])) == {f"--h{index + 1}"}
    assert set(heat_paths([(EDGES[index] * 0.999,)])) == {f"--h{index}"}


def test_heat_colours_differ_in_lightness() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[begin : begin + 2], 16) / 255 for begin in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    css = (ROOT / "bench" / "report" / "templates" / "style.css").read_text()
    colours = re.findall(r"--h(\d+): (#\w{6});", css)
    assert [int(index) for index, _ in colours] == [*range(len(HEAT))] * 2
    levels = [light(colour) for _, colour in colours]
    for ramp in (levels[: len(HEAT)][::-1], levels[len(HEAT) :]):
        ratios = [(after + 0.05) / (before + 0.05) for before, after in itertools.pairwise(ramp)]
        assert min(ratios) > 1.1


def test_layers_that_are_missing_or_untouched_are_drawn() -> None:
    """A release may leave layers in 16 bits, and a model may have experts in some layers only."""
    dense = [error for error in layer_errors("fp8", 4, DENSE) if error.layer < 2]
    untouched = LayerError(layer=3, name="self_attn.q_proj", relative_error=0.0)
    checkpoint = manifest(
        "fp8", MOE_MODEL, layer_errors=(*dense, untouched, LayerError(layer=3, name="mlp", relative_error=2.0))
    )
    row = section_rows([record("fp8", MOE_MODEL, checkpoint=checkpoint)], "damage", "fp8")[-1]
    assert "200 %layer 3, experts" in row
