"""Which layers of which variant lost most: the error of every layer as a colour, and the worst ones in figures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pandas as pd

from bench import format as fmt
from bench.records.record import RunRecord
from bench.report.document import (
    Block,
    Cell,
    Details,
    Figure,
    Figures,
    Group,
    Head,
    Heading,
    Section,
    Table,
    Text,
    number,
)
from bench.report.plots.base import HeatRow, heat_map, heat_scale
from bench.report.view import Run, runs
from quantize.checkpoint import LayerError

ORDER = 54

OPEN = 4
"""Up to so many variants, the layers of each are shown at once; of more they are folded away."""
WORST = 5
EXPERTS = "mlp"
"""Name of a decoder layer's block of experts, which is compared as a whole."""
LEAD = (
    "How far the output of each linear layer is from its source's, as a share of the source's output, on held-out text."
)
HOW = (
    "Attention and MLP of each decoder layer are fed with the source's own states, so that errors of earlier layers "
    "are not counted again."
)
INSIDE = {
    "o_proj": "o_proj is given what the quantized q_proj, k_proj and v_proj give, and carries their errors too.",
    "down_proj": "down_proj likewise carries those of gate_proj and up_proj.",
    "experts": "Experts are compared as one block per decoder layer.",
}
"""What is different about a kind of layer."""
SCALE = "The colours mean the same in every report; dots mark the five worst layers of a variant."
HEADS = (
    Head("Variant"),
    Head("Median", "over all layers", numeric=True),
    *(Head(place, numeric=True) for place in ("Worst layer", "Second", "Third", "Fourth", "Fifth")),
)


@dataclass(frozen=True)
class Errors:
    """The relative output errors of one variant's layers."""

    run: Run
    grid: pd.DataFrame
    """Kinds of layers in the model's own order, by decoder layer from 0; NaN where there is no such layer."""
    worst: Sequence[LayerError]
    """The largest, the largest first."""
    middle: float
    """Median of all, a ratio."""


def _errors(run: Run) -> Errors | None:
    found = run.record.checkpoint.layer_errors if run.record.checkpoint else ()
    if not found:
        return None
    table = pd.DataFrame([error.model_dump() for error in found])
    grid = table.pivot(index="name", columns="layer", values="relative_error")
    return Errors(
        run,
        grid.reindex(index=table["name"].unique(), columns=range(1 + max(error.layer for error in found))),
        sorted(found, key=lambda error: -error.relative_error)[:WORST],
        median(error.relative_error for error in found),
    )


def _short(kind: str) -> str:
    """Return a kind of layer without the half of the decoder layer that it belongs to."""
    return "experts" if kind == EXPERTS else kind.removeprefix("self_attn.").removeprefix("mlp.")


def _place(error: LayerError) -> str:
    return f"layer {error.layer}, {_short(error.name)}"


def _row(label: str, values: "pd.Series[float]", middle: float, dots: frozenset[int] = frozenset()) -> HeatRow:
    shown = tuple(None if pd.isna(value) else float(value) for value in values)
    return HeatRow(label, shown, fmt.small_percent(middle), dots)


def _figure(rows: Sequence[HeatRow], name: str, caption: str, **more: Any) -> Figure:
    medians = ", ".join(f"{row.label} {row.figure}" for row in rows)
    drawn = heat_map(rows, name=name, description=f"{caption} Medians: {medians}.", figure_label="median", **more)
    return Figure(drawn, caption)


def _overview(of_model: Sequence[Errors], name: str, title: str) -> list[Figure]:
    """Return variants by decoder layer and by kind of layer, each cell the median over the other."""
    kinds = list(dict.fromkeys(str(kind) for one in of_model for kind in one.grid.index))
    layers = range(max(one.grid.shape[1] for one in of_model))
    by_layer, by_kind = [], []
    for one in of_model:
        dots = frozenset(error.layer for error in one.worst)
        by_layer.append(_row(one.run.label, one.grid.median().reindex(layers), one.middle, dots))
        by_kind.append(_row(one.run.label, one.grid.median(axis=1).reindex(kinds), one.middle))
    return [
        _figure(
            by_layer,
            f"{name}-layers",
            f"{title}By decoder layer: the median over its linear layers.",
            xlabel="decoder layer",
        ),
        _figure(
            by_kind,
            f"{name}-kinds",
            f"{title}By kind of layer: the median over all decoder layers.",
            xlabel="",
            columns=[_short(kind) for kind in kinds],
        ),
    ]


def _single(one: Errors, name: str) -> Figure:
    """Return every layer of one variant."""
    rows = []
    for kind, values in one.grid.iterrows():
        dots = frozenset(error.layer for error in one.worst if error.name == kind)
        rows.append(_row(_short(str(kind)), values, float(values.median()), dots))
    caption = f"Largest error: {fmt.small_percent(one.worst[0].relative_error)}, {_place(one.worst[0])}."
    figure = _figure(rows, name, caption, xlabel="decoder layer")
    return replace(figure, title=one.run.label, mark=one.run.mark)


def _table(everything: Sequence[Errors]) -> Table:
    rows = []
    for one in everything:
        worst = [number(e.relative_error, fmt.small_percent, "of 1", notes=(_place(e),)) for e in one.worst]
        rest = [Cell(numeric=True)] * (WORST - len(worst))
        rows.append([one.run.heading, number(one.middle, fmt.small_percent, "of 1"), *worst, *rest])
    return Table("Worst layers by variant: relative output error", HEADS, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return where the damage sits; None if no layers were compared."""
    everything = [errors for run in runs(records) if (errors := _errors(run))]
    if not everything:
        return None
    models = dict.fromkeys(one.run.record.variant.model for one in everything)
    overview = []
    for index, model in enumerate(models):
        of_model = [one for one in everything if one.run.record.variant.model == model]
        if len(of_model) > 1:
            overview += _overview(of_model, f"damage{index}", f"{model}. " if len(models) > 1 else "")
    kinds = {_short(str(kind)) for one in everything for kind in one.grid.index}
    how = [HOW, *(text for kind, text in INSIDE.items() if kind in kinds), SCALE]
    blocks: list[Block] = [Text(LEAD, "lead"), Text(" ".join(how))]
    if overview:
        blocks.append(Figures(overview, scale=heat_scale(name="damage-scale")))
    blocks.append(_table(everything))
    singles = [_single(one, f"damage-run{index}") for index, one in enumerate(everything)]
    drawn = Figures(singles, scale=heat_scale(name="damage-scale2"))
    if len(singles) <= OPEN:
        blocks += [Heading("Every layer of every variant"), drawn]
    else:
        blocks.append(Details("Every layer of every variant, drawn", [drawn]))
    return Section("damage", "Where the damage sits", blocks)
