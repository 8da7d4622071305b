"""Error by layer: every layer of every variant in a heat map, and the worst ones in a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pandas as pd

from bench import format as fmt
from bench.messages.message import Words, listed, msg, sentences
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
from bench.report.units import NATS_PER_TOKEN, OF_ONE
from bench.report.view import Run, runs
from quantize.checkpoint import LayerDamage, LayerError

ORDER = 54

OPEN = 4
"""Number of variants up to which the layers of each are shown; for more, they are folded."""
WORST = 5
EXPERTS = "mlp"
"""Name of a decoder layer's block of experts, which is compared as a whole."""
INSIDE = {
    "o_proj": msg("damage.o_proj"),
    "down_proj": msg("damage.down_proj"),
    "experts": msg("damage.experts.how"),
}
"""What is different about a kind of layer."""
HEADS = (
    Head(msg("head.variant")),
    Head(msg("damage.median"), msg("damage.median.help"), numeric=True),
    Head(msg("damage.worst"), numeric=True),
    Head(msg("damage.second"), numeric=True),
    Head(msg("damage.third"), numeric=True),
    Head(msg("damage.fourth"), numeric=True),
    Head(msg("damage.fifth"), numeric=True),
)


@dataclass(frozen=True)
class Errors:
    """The relative output errors of one variant's layers."""

    run: Run
    grid: pd.DataFrame
    """Kinds of layers in the model's own order, by decoder layer from 0; NaN where there is no such layer."""
    worst: Sequence[LayerError]
    """The largest errors, largest first."""
    middle: float
    """Median of all, a ratio."""


def _errors(run: Run) -> Errors | None:
    layer_errors = run.record.checkpoint.layer_errors if run.record.checkpoint else ()
    if not layer_errors:
        return None
    table = pd.DataFrame([error.model_dump() for error in layer_errors])
    grid = table.pivot(index="name", columns="layer", values="relative_error")
    return Errors(
        run,
        grid.reindex(index=table["name"].unique(), columns=range(1 + max(error.layer for error in layer_errors))),
        sorted(layer_errors, key=lambda error: -error.relative_error)[:WORST],
        median(error.relative_error for error in layer_errors),
    )


def _short(kind: str) -> str:
    """Return a kind of layer without the prefix of attention or MLP."""
    return "experts" if kind == EXPERTS else kind.removeprefix("self_attn.").removeprefix("mlp.")


def _name(kind: str) -> Words:
    """Return the name of a kind of layer to display."""
    return msg("damage.experts") if kind == EXPERTS else _short(kind)


def _place(error: LayerError) -> Words:
    return msg("damage.place", layer=str(error.layer), kind=_name(error.name))


def _row(label: Words, values: "pd.Series[float]", middle: float, dots: frozenset[int] = frozenset()) -> HeatRow:
    shown = tuple(None if pd.isna(value) else float(value) for value in values)
    return HeatRow(label, shown, fmt.small_percent(middle), dots)


def _figure(rows: Sequence[HeatRow], name: str, caption: Words, **more: Any) -> Figure:
    medians = listed(msg("damage.row", label=row.label, figure=row.figure) for row in rows)
    description = msg("damage.description", caption=caption, medians=medians)
    drawn = heat_map(rows, name=name, description=description, figure_label=msg("damage.median.label"), **more)
    return Figure(drawn, caption)


def _overview(of_model: Sequence[Errors], name: str, model: str) -> list[Figure]:
    """Return variants by decoder layer and by kind of layer, each cell the median over the other."""
    kinds = list(dict.fromkeys(str(kind) for errors in of_model for kind in errors.grid.index))
    layers = range(max(errors.grid.shape[1] for errors in of_model))
    by_layer, by_kind = [], []
    captions: list[Words] = [msg("damage.by_layer"), msg("damage.by_kind")]
    if model:
        captions = [msg("damage.of_model", model=model, caption=caption) for caption in captions]
    for errors in of_model:
        dots = frozenset(error.layer for error in errors.worst)
        by_layer.append(_row(errors.run.label, errors.grid.median().reindex(layers), errors.middle, dots))
        by_kind.append(_row(errors.run.label, errors.grid.median(axis=1).reindex(kinds), errors.middle))
    return [
        _figure(
            by_layer,
            f"{name}-layers",
            captions[0],
            xlabel=msg("damage.decoder_layer"),
        ),
        _figure(
            by_kind,
            f"{name}-kinds",
            captions[1],
            xlabel="",
            columns=[_name(kind) for kind in kinds],
        ),
    ]


def _single(errors: Errors, name: str) -> Figure:
    """Return every layer of one variant."""
    rows = []
    for kind, values in errors.grid.iterrows():
        dots = frozenset(error.layer for error in errors.worst if error.name == kind)
        rows.append(_row(_name(str(kind)), values, float(values.median()), dots))
    worst = errors.worst[0]
    caption = msg("damage.largest", error=fmt.small_percent(worst.relative_error), where=_place(worst))
    figure = _figure(rows, name, caption, xlabel=msg("damage.decoder_layer"))
    return replace(figure, title=errors.run.label, mark=errors.run.mark)


def _table(everything: Sequence[Errors]) -> Table:
    rows = []
    for errors in everything:
        worst = [number(e.relative_error, fmt.small_percent, OF_ONE, notes=(_place(e),)) for e in errors.worst]
        rest = [Cell(numeric=True)] * (WORST - len(worst))
        rows.append([errors.run.heading, number(errors.middle, fmt.small_percent, OF_ONE), *worst, *rest])
    return Table(msg("damage.caption"), HEADS, [Group(rows)])


def _cost_table(everything: Sequence[Run]) -> Table | None:
    """Return the decoder layers that add most to each variant's divergence; None where that was not measured."""
    rows = []
    for run in everything:
        damage = run.record.checkpoint.layer_damage if run.record.checkpoint else ()
        worst = sorted(damage, key=lambda layer: -layer.kl_nats)[:WORST]
        cells = [number(layer.kl_nats, fmt.significant, NATS_PER_TOKEN, notes=_of_layer(layer)) for layer in worst]
        if cells:
            rows.append([run.heading, *cells, *[Cell(numeric=True)] * (WORST - len(cells))])
    heads = (HEADS[0], *HEADS[2:])
    return Table(msg("damage.cost.caption"), heads, [Group(rows)]) if rows else None


def _of_layer(layer: LayerDamage) -> tuple[Words, ...]:
    name = msg("damage.cost.layer", layer=str(layer.layer))
    if layer.standard_error_nats is None:
        return (name,)
    return (name, msg("damage.cost.error", error=fmt.significant(layer.standard_error_nats)))


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the errors by layer; None if no layers were compared."""
    everything = [errors for run in runs(records) if (errors := _errors(run))]
    if not everything:
        return None
    models = dict.fromkeys(errors.run.record.variant.model for errors in everything)
    overview = []
    for index, model in enumerate(models):
        of_model = [errors for errors in everything if errors.run.record.variant.model == model]
        if len(of_model) > 1:
            overview += _overview(of_model, f"damage{index}", model if len(models) > 1 else "")
    kinds = {_short(str(kind)) for errors in everything for kind in errors.grid.index}
    inside = (text for kind, text in INSIDE.items() if kind in kinds)
    how = sentences([msg("damage.how"), *inside, msg("damage.scale")])
    cost = _cost_table([errors.run for errors in everything])
    blocks: list[Block] = [Text(msg("damage.lead"), "lead")]
    if cost:
        blocks += [Text(msg("damage.cost")), cost]
    blocks.append(Text(how))
    if overview:
        blocks.append(Figures(overview, scale=heat_scale(name="damage-scale")))
    blocks.append(_table(everything))
    singles = [_single(errors, f"damage-run{index}") for index, errors in enumerate(everything)]
    drawn = Figures(singles, scale=heat_scale(name="damage-scale2"))
    if len(singles) <= OPEN:
        blocks += [Heading(msg("damage.every_layer")), drawn]
    else:
        blocks.append(Details(msg("damage.every_layer.folded"), [drawn]))
    return Section("damage", msg("damage.title"), blocks)
