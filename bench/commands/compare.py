"""``quantbench compare A B``: compare a candidate B with a baseline A: speeds with intervals, accuracy item by item.

A and B are runs, sessions, variants or record files; either may be ``published:NAME``, i.e. third-party results.
Speeds measured under different conditions are compared only with ``--anyway``; the differences are always listed.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from bench import format as fmt
from bench.analysis.comparison import CellPair, RunComparison, ScorePair, compare_runs
from bench.commands.common import add_results, complain, ends_in_one_line
from bench.console import console, table
from bench.errors import ConfigError
from bench.history.find import FORMS, records_named
from bench.published.figures import PublishedCell, published_named
from bench.published.replication import replications, score_replications
from bench.records.margin import in_points, parse_margin
from bench.records.record import RunRecord
from bench.speed.metrics import Interval

PUBLISHED = "published:"
REFUSED = 3
"""Exit code if speeds were not compared because the conditions differ."""


def _ratio(ratio: Interval | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.3f}" + ("" if ratio.n == 1 else f" ({ratio.low:.3f} – {ratio.high:.3f})")


def _names(pair: CellPair | ScorePair) -> str:
    baseline, candidate = pair.variants
    if baseline == candidate:
        return f"{baseline.model} {baseline.quant}"
    return (
        f"{baseline.quant} → {candidate.quant}"
        if baseline.model == candidate.model
        else f"{baseline.model} {baseline.quant} → {candidate.model} {candidate.quant}"
    )


def _seconds(value: float | None) -> str:
    return fmt.optional(value, fmt.seconds, "")


def _share(value: float | None) -> str:
    return fmt.optional(value, fmt.percent, "")


def _cell_row(pair: CellPair) -> tuple[str, ...]:
    shape = pair.shape
    return (
        _names(pair), f"{shape.input_len:,}", f"{shape.output_len:,}", shape.load, pair.figure,
        *map(_seconds, pair.medians_s), _ratio(pair.ratio), pair.kind, pair.reason,
    )  # fmt: skip


def _score_row(pair: ScorePair) -> tuple[str, ...]:
    values = ["" if value is None else f"{value:.4f}" for value in pair.values]
    if pair.verdict is None:
        return (_names(pair), pair.task, *values, "", "", "not compared", str(pair.reason))
    comparison = pair.verdict.comparison
    change = fmt.points_with_interval(comparison.delta.value, comparison.delta.low, comparison.delta.high)
    items, kind = f"+{comparison.gained} −{comparison.lost}", pair.verdict.kind
    return (_names(pair), pair.task, *values, change, items, kind, str(pair.reason))


def _show(comparison: RunComparison, *, speeds: bool) -> None:
    out = console()
    if comparison.unlike:
        out.print("Conditions differ:", markup=False)
        for difference in comparison.unlike:
            out.print(f"  {difference}", markup=False, soft_wrap=True)
    if comparison.cells and speeds:
        heads: tuple[str, ...] = ("variant", "input", "output", "load", "", "A", "B", "A / B", "", "why")
        numeric = ("input", "output", "A", "B")
        out.print(table("speed: B is faster above 1", heads, map(_cell_row, comparison.cells), numeric=numeric))
    if comparison.scores and comparison.margin:
        out.print(f"Accuracy margin: {comparison.margin.words}.", markup=False, soft_wrap=True)
        heads = ("variant", "task", "A", "B", "change", "items", "verdict", "why")
        rows = map(_score_row, comparison.scores)
        title = f"accuracy: B compared with A, item by item, with a margin of {in_points(comparison.margin.value)}"
        out.print(table(title, heads, rows, numeric=("A", "B")))
    if not comparison.cells and not comparison.scores:
        out.print("A and B have no speed cell and no task in common", markup=False)


def _with_published(published: Sequence[PublishedCell], records: Sequence[RunRecord]) -> int:
    """Print measured cells next to the published ones, and scores of the same models."""
    requested_cells = set(published)
    cell_rows = [
        (
            f"{record.variant.model} {record.variant.quant}", f"{cell.published.input_len:,}",
            f"{cell.published.speed_tokens_per_s:.2f}",
            "" if cell.speed_tokens_per_s is None else f"{cell.speed_tokens_per_s.median:.2f}",
            _ratio(cell.ratio), *map(_share, (cell.published_of_roof, cell.of_roof)),
            cell.kind, str(cell.reason),
        )
        for record, cell in replications(records)
        if cell.published in requested_cells
    ]  # fmt: skip
    heads = ("variant", "input", "published", "measured", "measured / published", "of roof", "of roof here", "", "why")
    out = console()
    if cell_rows:
        out.print(table("speed, tokens/s as counted by the source", heads, cell_rows, numeric=heads[1:7]))
    pages = {cell.source for cell in published}
    models = {cell.model for cell in published}
    score_rows = [
        (
            f"{record.variant.model} {record.variant.quant}", score.published.task, f"{score.published.score:.4f}",
            "" if score.score is None else f"{score.score:.4f}", score.kind, str(score.reason),
        )
        for record, score in score_replications(records)
        if score.published.source in pages or score.published.model in models
    ]  # fmt: skip
    if score_rows:
        out.print(table("accuracy", ("variant", "task", "published", "measured", "", "why"), score_rows))
    if not cell_rows and not score_rows:
        out.print("no measured cell matches a published one in shape, quantization and engine", markup=False)
    return 0


def _conditions(cell: PublishedCell) -> tuple[object, ...]:
    return (cell.source, cell.engine, cell.input_len, cell.output_len, cell.devices)


def _both_published(baselines: Sequence[PublishedCell], candidates: Sequence[PublishedCell]) -> int:
    rows = [
        (
            f"{a.model} {a.label}", f"{b.model} {b.label}", a.engine,
            f"{a.input_len:,}", f"{a.speed_tokens_per_s:.2f}", f"{b.speed_tokens_per_s:.2f}",
            f"{b.speed_tokens_per_s / a.speed_tokens_per_s:.3f}",
            "; ".join(dict.fromkeys(filter(None, (a.remarks, b.remarks)))),
        )
        for a in baselines
        for b in candidates
        if _conditions(a) == _conditions(b) and a != b
    ]  # fmt: skip
    if not rows:
        console().print("A and B share no source with the same engine, lengths and number of devices", markup=False)
        return 0
    heads = ("A", "B", "engine", "input", "A tokens/s", "B tokens/s", "B / A", "note")
    console().print(
        table(
            "published, not measured here",
            heads,
            rows,
            numeric=heads[3:7],
            caption="one value each: the sources give no spread",
        )
    )
    return 0


def _main(arguments: argparse.Namespace) -> int:
    margin = None if arguments.margin is None else _margin(arguments.margin)
    sides = (arguments.a, arguments.b)
    published = [
        published_named(name.removeprefix(PUBLISHED)) if name.startswith(PUBLISHED) else None for name in sides
    ]
    records = [[] if name.startswith(PUBLISHED) else records_named(arguments.results, name) for name in sides]
    if published[0] is not None and published[1] is not None:
        return _both_published(published[0], published[1])
    if pages := published[0] or published[1]:
        return _with_published(pages, records[0] or records[1])
    comparison = compare_runs(records[0], records[1], margin)
    speeds = arguments.anyway or not comparison.unlike
    if arguments.format == "json":
        plain = comparison.model_dump(mode="json")
        sys.stdout.write(json.dumps(plain if speeds else plain | {"cells": None}, indent=1) + "\n")
    else:
        _show(comparison, speeds=speeds)
    if comparison.cells and not speeds:
        complain(
            f"speeds are not compared: {fmt.plural(len(comparison.unlike), 'condition')} differ, the first is "
            f"{comparison.unlike[0]}; add --anyway to compare them nevertheless"
        )
        return REFUSED
    return 0


def _margin(text: str) -> float:
    try:
        return parse_margin(text, "--margin ")
    except ValueError as error:
        raise ConfigError(f"--margin {error}") from None


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="quantbench compare",
        description="Compare every speed cell and every task that A and B have in common.",
        epilog=f"A and B: {FORMS}; published:MODEL or published:SOURCE, optionally with /QUANT and @ENGINE. "
        f"Exit codes: 0 success; 2 unknown name; {REFUSED} speeds were not compared because the conditions differ.",
    )
    parser.add_argument("a", metavar="A", help="baseline")
    parser.add_argument("b", metavar="B", help="candidate")
    add_results(parser)
    parser.add_argument("--anyway", action="store_true", help="compare speeds even if the conditions differ")
    parser.add_argument(
        "--margin",
        help="acceptable loss of accuracy, such as 1pp or 0.01 (default: the margin declared by B's runs)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or json")
    arguments = parser.parse_args(argv)
    return _main(arguments)
