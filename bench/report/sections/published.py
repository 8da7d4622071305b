"""Published results for the same models next to measured ones, never in the same column."""

from collections.abc import Sequence

from bench import format as fmt
from bench.messages.message import Message, Words, clauses, msg
from bench.published.figures import PublishedCell, cells, scores, share_of, sources
from bench.published.replication import (
    TOLERANCE,
    CellReplication,
    Kind,
    ScoreReplication,
    replications,
    score_replications,
)
from bench.records.record import RunRecord
from bench.report.document import Block, Bullets, Cell, Details, Group, Head, Section, Table, Text, interval, number
from bench.report.units import TIMES, TOKENS
from bench.report.view import runs

ORDER = 56

KINDS: dict[Kind, Message] = {
    "reproduced": msg("replication.reproduced"),
    "faster": msg("speedup.faster"),
    "slower": msg("speedup.slower"),
    "higher": msg("replication.higher"),
    "lower": msg("replication.lower"),
    "not comparable": msg("replication.not_comparable"),
    "not enough data": msg("speedup.too_few"),
}


def _count(value: int) -> Cell:
    return Cell(fmt.count(value), numeric=True)


def _models(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(record.variant.model.partition("[")[0] for record in records))


def _cell_row(label: str, replication: CellReplication) -> list[Cell]:
    published = replication.published
    ratio = interval(replication.ratio, lambda value: f"{value:.2f}", TIMES)
    return [
        Cell(label),
        Cell(KINDS[replication.kind], (replication.reason,)),
        _count(published.input_len),
        interval(replication.speed_tokens_per_s, fmt.two_decimals, "tokens/s"),
        number(published.speed_tokens_per_s, fmt.two_decimals, "tokens/s", notes=(msg("published.note"),), faint=True),
        ratio,
        number(replication.of_roof, fmt.percent),
        number(replication.published_of_roof, fmt.percent, notes=(msg("published.note"),), faint=True),
    ]


def _score_row(label: str, replication: ScoreReplication) -> list[Cell]:
    notes = msg("published.note"), sources()[replication.published.source].title
    return [
        Cell(label),
        Cell(KINDS[replication.kind], (replication.reason,)),
        Cell(replication.published.task),
        number(replication.score, fmt.share),
        number(replication.published.score, fmt.share, notes=notes, faint=True),
    ]


def _remarks(cell: PublishedCell) -> Words:
    """Return the remarks on a figure from its file."""
    doubtful = msg("published.doubtful", doubt=cell.doubt) if cell.doubt else ""
    remarks = [text for text in (cell.setting, doubtful, cell.note) if text]
    return clauses(remarks) if remarks else fmt.MISSING


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
        Cell(_remarks(cell)),
    ]


def _published_tables(model: str) -> list[Block]:
    heads = [
        Head(msg("published.quantization"), msg("published.quantization.help")),
        Head(msg("head.engine")),
        Head(msg("head.input"), TOKENS, numeric=True),
        Head(msg("published.devices"), numeric=True),
        Head(msg("published.speed"), msg("published.counted.help"), numeric=True),
        Head(msg("head.tpot"), msg("published.tpot.help"), numeric=True),
        Head(msg("head.mbu"), msg("head.mbu.help"), numeric=True),
        Head(msg("published.of_roof"), msg("published.of_roof.help"), numeric=True),
        Head(msg("published.remark")),
    ]
    blocks: list[Block] = []
    for name, source in sources().items():
        rows = [_published_row(cell) for cell in cells() if (cell.source, cell.model) == (name, model)]
        if rows:
            caption = msg("published.caption", source=source.title, model=model, hardware=str(source.hardware))
            table = Table(caption, heads, [Group(rows)])
            about = [source.page, *([source.setting] if source.setting else []), *source.traps]
            summary = msg("published.folded", caption=caption, figures=str(len(rows)))
            blocks.append(Details(summary, [table, Bullets(about)]))
    return blocks


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the tables; None if nothing is published about any model in the report."""
    known = {cell.model for cell in cells()} | {score.model for score in scores()}
    models = [model for model in _models(records) if model in known]
    if not models:
        return None
    labels = {run.record.run_id: run.label for run in runs(records)}
    blocks: list[Block] = [Text(msg("published.lead"))]
    cell_rows = [_cell_row(labels[record.run_id], replication) for record, replication in replications(records)]
    if cell_rows:
        heads = [
            Head(msg("head.variant")),
            Head(msg("published.replication")),
            Head(msg("head.input"), TOKENS, numeric=True),
            Head(msg("published.measured_speed"), msg("published.counted.help"), numeric=True),
            Head(msg("published.speed"), "tokens/s", numeric=True),
            Head(msg("published.ratio"), msg("published.ratio.help"), numeric=True),
            Head(msg("published.of_roof"), numeric=True),
            Head(msg("published.theirs_of_roof"), numeric=True),
        ]
        blocks.append(Table(msg("published.cells"), heads, [Group(cell_rows)]))
    score_rows = [_score_row(labels[record.run_id], replication) for record, replication in score_replications(records)]
    if score_rows:
        heads = [
            Head(msg("head.variant")),
            Head(msg("published.replication")),
            Head(msg("published.task")),
            Head(msg("published.measured"), numeric=True),
            Head(msg("published.published"), numeric=True),
        ]
        blocks.append(Table(msg("published.scores"), heads, [Group(score_rows)]))
    for model in models:
        blocks += _published_tables(model)
    how = Text(msg("published.how", tolerance=f"{TOLERANCE:g}"), "small")
    return Section("published", msg("published.title"), [*blocks, how])
