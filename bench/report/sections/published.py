"""What others published of the same models, beside what was measured: two kinds of figures, never one column."""

from collections.abc import Sequence

from bench import format as fmt
from bench.published.figures import PublishedCell, cells, scores, share_of, sources
from bench.published.replication import (
    TOLERANCE,
    CellReplication,
    ScoreReplication,
    replications,
    score_replications,
)
from bench.records.record import RunRecord
from bench.report.document import Block, Bullets, Cell, Details, Group, Head, Section, Table, Text, interval, number
from bench.report.view import runs

ORDER = 56

LEAD = (
    "Figures from the pages named here: published, not measured here. A measured cell of the same model, quantization, "
    "engine and shape stands beside its published one; on other hardware only the shares of the physical limit can be "
    "compared."
)
HOW = (
    f"Reproduced: the 95 % interval of measured / published reaches into 1 ± {TOLERANCE:g}. Published speeds carry no "
    "spread. Share of the roof: least time of the whole request that the device allows / its time."
)


def _count(value: int) -> Cell:
    return Cell(fmt.count(value), numeric=True)


def _models(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(record.variant.model.partition("[")[0] for record in records))


def _replicated(label: str, one: CellReplication) -> list[Cell]:
    published = one.published
    ratio = interval(one.ratio, lambda value: f"{value:.2f}", "times")
    return [
        Cell(label),
        Cell(one.kind, (one.reason,)),
        _count(published.input_len),
        interval(one.speed_tokens_per_s, fmt.two_decimals, "tokens/s"),
        number(published.speed_tokens_per_s, fmt.two_decimals, "tokens/s", notes=("published",), faint=True),
        ratio,
        number(one.of_roof, fmt.percent),
        number(one.published_of_roof, fmt.percent, notes=("published",), faint=True),
    ]


def _scored(label: str, one: ScoreReplication) -> list[Cell]:
    return [
        Cell(label),
        Cell(one.kind, (one.reason,)),
        Cell(one.published.task),
        number(one.score, fmt.share),
        number(one.published.score, fmt.share, notes=("published", sources()[one.published.source].title), faint=True),
    ]


def _published_row(cell: PublishedCell) -> list[Cell]:
    share = share_of(cell)
    tpot = cell.tpot_s
    return [
        Cell(cell.label, (cell.quant,)),
        Cell(cell.engine),
        _count(cell.input_len),
        _count(cell.devices),
        number(cell.speed_tokens_per_s, fmt.two_decimals, "tokens/s"),
        Cell(f"{1e3 * tpot:.2f} ms", numeric=True) if tpot else Cell(numeric=True),
        number(share.mbu if share else None, fmt.percent),
        number(share.of_roof if share else None, fmt.percent),
        Cell(cell.remarks) if cell.remarks else Cell(),
    ]


def _published_tables(model: str) -> list[Block]:
    heads = [
        Head("Quantization", "as published; below it our name"),
        Head("Engine"),
        Head("Input", "tokens", numeric=True),
        Head("Devices", numeric=True),
        Head("Published speed", "tokens/s, as the page counts them", numeric=True),
        Head("TPOT", "time per output token, at input 1", numeric=True),
        Head("MBU", "bytes of a step / TPOT / bandwidth", numeric=True),
        Head("Of the roof", "of the whole request", numeric=True),
        Head("Note"),
    ]
    blocks: list[Block] = []
    for name, source in sources().items():
        rows = [_published_row(cell) for cell in cells() if (cell.source, cell.model) == (name, model)]
        if rows:
            caption = f"{source.title}: {model} on {source.hardware}, published"
            table = Table(caption, heads, [Group(rows)])
            about = [source.page, *([source.setting] if source.setting else []), *source.traps]
            blocks.append(Details(f"{caption} ({len(rows)} figures)", [table, Bullets(about)]))
    return blocks


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the tables; None where nothing is published of any model in the report."""
    known = {cell.model for cell in cells()} | {score.model for score in scores()}
    models = [model for model in _models(records) if model in known]
    if not models:
        return None
    labels = {run.record.run_id: run.label for run in runs(records)}
    blocks: list[Block] = [Text(LEAD)]
    measured = [_replicated(labels[record.run_id], one) for record, one in replications(records)]
    if measured:
        heads = [
            Head("Variant"),
            Head("Replication"),
            Head("Input", "tokens", numeric=True),
            Head("Measured speed", "tokens/s, as the page counts them", numeric=True),
            Head("Published speed", "tokens/s", numeric=True),
            Head("Ratio", "measured / published", numeric=True),
            Head("Of the roof", numeric=True),
            Head("Published, of the roof", numeric=True),
        ]
        blocks.append(Table("Measured cells beside published ones", heads, [Group(measured)]))
    scored = [_scored(labels[record.run_id], one) for record, one in score_replications(records)]
    if scored:
        heads = [
            Head("Variant"),
            Head("Replication"),
            Head("Task"),
            Head("Measured", numeric=True),
            Head("Published", numeric=True),
        ]
        blocks.append(Table("Measured scores beside published ones", heads, [Group(scored)]))
    for model in models:
        blocks += _published_tables(model)
    return Section("published", "Published by others", [*blocks, Text(HOW, "small")])
