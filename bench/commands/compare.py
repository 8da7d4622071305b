"""``quantbench compare A B``: what changed from A to B: speeds with intervals, accuracy item by item.

A and B are runs, sessions, variants, or files of records; one or both may be ``published:NAME``, figures that others
published. Speeds of unlike conditions are not compared until ``--anyway`` is added; what differs is always said.
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
"""Exit code where speeds were not compared because the conditions are unlike."""


def _ratio(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.median:.3f}" + ("" if found.n == 1 else f" ({found.low:.3f} – {found.high:.3f})")


def _names(pair: CellPair | ScorePair) -> str:
    one, other = pair.variants
    if one == other:
        return f"{one.model} {one.quant}"
    return (
        f"{one.quant} → {other.quant}"
        if one.model == other.model
        else f"{one.model} {one.quant} → {other.model} {other.quant}"
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
    found = pair.verdict.comparison
    change = fmt.points_with_interval(found.delta.value, found.delta.low, found.delta.high)
    items, kind = f"+{found.gained} −{found.lost}", pair.verdict.kind
    return (_names(pair), pair.task, *values, change, items, kind, str(pair.reason))


def _show(found: RunComparison, *, speeds: bool) -> None:
    out = console()
    if found.unlike:
        out.print("Conditions differ:", markup=False)
        for what in found.unlike:
            out.print(f"  {what}", markup=False, soft_wrap=True)
    if found.cells and speeds:
        heads: tuple[str, ...] = ("variant", "input", "output", "load", "", "A", "B", "A / B", "", "why")
        made = table(
            "speed: above 1 B is faster", heads, map(_cell_row, found.cells), numeric=("input", "output", "A", "B")
        )
        out.print(made)
    if found.scores and found.margin:
        out.print(f"Accuracy margin: {found.margin.words}.", markup=False, soft_wrap=True)
        heads = ("variant", "task", "A", "B", "change", "items", "verdict", "why")
        rows = map(_score_row, found.scores)
        title = f"accuracy: B beside A, item by item, at a margin of {in_points(found.margin.value)}"
        out.print(table(title, heads, rows, numeric=("A", "B")))
    if not found.cells and not found.scores:
        out.print("A and B have no speed cell and no task in common", markup=False)


def _with_published(published: Sequence[PublishedCell], records: Sequence[RunRecord]) -> int:
    """Print measured cells beside published ones, and scores of the same models."""
    wanted = set(published)
    measured = [
        (
            f"{record.variant.model} {record.variant.quant}", f"{one.published.input_len:,}",
            f"{one.published.speed_tokens_per_s:.2f}",
            "" if one.speed_tokens_per_s is None else f"{one.speed_tokens_per_s.median:.2f}",
            _ratio(one.ratio), *map(_share, (one.published_of_roof, one.of_roof)),
            one.kind, str(one.reason),
        )
        for record, one in replications(records)
        if one.published in wanted
    ]  # fmt: skip
    heads = ("variant", "input", "published", "measured", "measured / published", "of roof", "of roof here", "", "why")
    out = console()
    if measured:
        out.print(table("speed, tokens/s as the page counts them", heads, measured, numeric=heads[1:7]))
    pages = {cell.source for cell in published}
    models = {cell.model for cell in published}
    scored = [
        (
            f"{record.variant.model} {record.variant.quant}", one.published.task, f"{one.published.score:.4f}",
            "" if one.score is None else f"{one.score:.4f}", one.kind, str(one.reason),
        )
        for record, one in score_replications(records)
        if one.published.source in pages or one.published.model in models
    ]  # fmt: skip
    if scored:
        out.print(table("accuracy", ("variant", "task", "published", "measured", "", "why"), scored))
    if not measured and not scored:
        out.print("no measured cell has the shape, quantization and engine of a published one", markup=False)
    return 0


def _both_published(one: Sequence[PublishedCell], other: Sequence[PublishedCell]) -> int:
    rows: list[tuple[str, ...]] = []
    for cell in one:
        for beside in other:
            alike = [
                (each.source, each.engine, each.input_len, each.output_len, each.devices) for each in (cell, beside)
            ]
            if alike[0] == alike[1] and cell != beside:
                rows.append(
                    (
                        f"{cell.model} {cell.label}", f"{beside.model} {beside.label}", cell.engine,
                        f"{cell.input_len:,}", f"{cell.speed_tokens_per_s:.2f}", f"{beside.speed_tokens_per_s:.2f}",
                        f"{beside.speed_tokens_per_s / cell.speed_tokens_per_s:.3f}",
                        "; ".join(dict.fromkeys(filter(None, (cell.remarks, beside.remarks)))),
                    )
                )  # fmt: skip
    if not rows:
        console().print("A and B have no engine, length and number of devices of one source in common", markup=False)
        return 0
    heads = ("A", "B", "engine", "input", "A tokens/s", "B tokens/s", "B / A", "note")
    console().print(
        table(
            "published, not measured here",
            heads,
            rows,
            numeric=heads[3:7],
            caption="one figure each, no spread: nothing tells how far they would be off a second time",
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
    found = compare_runs(records[0], records[1], margin)
    speeds = arguments.anyway or not found.unlike
    if arguments.format == "json":
        plain = found.model_dump(mode="json")
        sys.stdout.write(json.dumps(plain if speeds else plain | {"cells": None}, indent=1) + "\n")
    else:
        _show(found, speeds=speeds)
    if found.cells and not speeds:
        complain(
            f"speeds are not compared: {len(found.unlike)} conditions differ, first {found.unlike[0]}; "
            "add --anyway to compare them all the same"
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
    """Print what changed and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="quantbench compare",
        description="Say what changed from A to B: every speed cell and every task that both have.",
        epilog=f"A and B: {FORMS}; published:MODEL or published:SOURCE, with /QUANT and @ENGINE where wanted. "
        f"Exit codes: 0; 2 a wrong name; {REFUSED} speeds were not compared because the conditions are unlike.",
    )
    parser.add_argument("a", metavar="A", help="what is compared with")
    parser.add_argument("b", metavar="B", help="what is compared")
    add_results(parser)
    parser.add_argument("--anyway", action="store_true", help="compare speeds of unlike conditions too")
    parser.add_argument(
        "--margin",
        help="loss of accuracy that does not matter, such as 1pp or 0.01 (default: the margin that B's runs declare)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or json")
    arguments = parser.parse_args(argv)
    return _main(arguments)
