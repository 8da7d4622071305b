"""Print a forecast: as a table for ``plan=true``, as JSON for ``plan=json``; see :mod:`bench.plan.forecast`."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import format as fmt
from bench.config.spec import RunSpec
from bench.plan.cells import CellForecast
from bench.plan.forecast import Build, Forecast, forecast_of
from bench.plan.placement import Fit

PLAIN_WIDTH = 120
"""Columns of a table where no terminal says how many it has."""
FOOT = (
    "At best: the device's limit, nothing lost anywhere. Likely: a law fitted to published cells of dense models on "
    "one device, with its 95 % interval; prompts at their limit. Nothing was run."
)


def _duration(value: float | None) -> str:
    return fmt.optional(value, fmt.duration)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )


def devices(one: Forecast) -> str:
    """Return on how many devices a server is spread and how, e.g. ``4 devices (tp 4)``."""
    if one.fit is None:
        return fmt.MISSING
    return f"{one.fit.devices} device{'s' if one.fit.devices > 1 else ''}{_split(one.fit)}"


def _split(found: Fit) -> str:
    spread = found.spread
    sizes = {"tp": spread.tp, "pp": spread.pp, "ep": spread.ep, "copies": found.copies}
    split = ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    return f" ({split})" if split else ""


def trouble(one: Forecast) -> str | None:
    """Return what is wrong with how a server is spread, in a few words; None if nothing is."""
    if one.fit is None or one.fit.works:
        return None
    if one.fit.refused:
        return "cannot be split so"
    return "not all cells fit" if one.able and one.fit.loads else "does not fit"


def _held(one: Forecast) -> str:
    """Return what each device holds."""
    return fmt.space(one.fit.spread.weights_bytes + one.fit.spread.kv_bytes) if one.fit else fmt.MISSING


def _fastest(one: Forecast) -> CellForecast | None:
    return next((cell for cell in one.able if cell.decode), None)


def _speed(cell: CellForecast | None) -> str:
    if cell is None or cell.decode is None:
        return fmt.MISSING
    return f"{1 / cell.decode.time_s:,.{0 if cell.decode.time_s < 0.1 else 1}f}"


def answer(one: Forecast) -> str:
    """Return how many devices, how fast at best and how long, in one line."""
    parts = []
    if one.fit is not None and one.device is not None:
        each = " each" if one.fit.devices > 1 else ""
        wrong = f": {trouble(one)}" if trouble(one) else ""
        parts.append(f"{devices(one)}, {_held(one)} of {fmt.space(one.device.memory_bytes)}{each}{wrong}")
    cell = _fastest(one)
    if cell is not None:
        parts.append(f"at best {_speed(cell)} tokens/s at input {cell.shape.input_len:,}")
    if one.cells_best_s is not None:
        parts.append(f"its cells take at least {_duration(one.cells_best_s)}{_likely_time(one)}")
    where = f" on {one.device.name}" if one.device else ""
    return f"{one.model} {one.quant}{where}: {'; '.join(parts) or 'no limit known'}"


def _likely_time(one: Forecast) -> str:
    likely = one.cells_likely_s
    if likely is None:
        return ""
    return f", likely {_duration(likely.value)} ({_duration(likely.low)} to {_duration(likely.high)})"


def _likely_speed(cell: CellForecast) -> str:
    found = cell.likely_tpot_s
    if found is None or cell.decode is None:
        return fmt.MISSING
    fastest_s = max(found.low, cell.decode.time_s)
    return f"{1 / found.value:,.0f} ({1 / found.high:,.0f} to {1 / fastest_s:,.0f})"


def _quantize(build: Build) -> str:
    text = f", {build.calibration_tokens:,} tokens of calibration" if build.calibration_tokens else ""
    done = "proving the release" if build.release else f"{build.method}{text}"
    return f"{done}; {fmt.space(build.needs.memory_bytes)} of memory ({build.needs.why})"


def _stages(one: Forecast) -> Table:
    table = _table("stages")
    for name in ("stage", "what", "at least"):
        table.add_column(name, justify="right" if name == "at least" else "left")
    few = one.active_parameters < one.total_parameters
    experts = f", {one.active_parameters / 1e9:.2f} B of them for each token" if few else ""
    bits = f"{one.bits:.2f} bits a quantized weight" if one.bits else "16 bits a weight"
    size = f"{one.total_parameters / 1e9:.3f} B weights{experts}; {fmt.space(one.checkpoint_bytes)}, {bits}"
    table.add_row("checkpoint", size, fmt.MISSING)
    if one.build is not None:
        hub = one.build.download_bytes
        download = f"{fmt.space(hub)} from the hub" if hub is not None else "nothing from the hub"
        table.add_row("source", f"{download}; {fmt.space(one.build.disk_bytes)} of disk with the result", fmt.MISSING)
        if one.bits:
            table.add_row("quantize", _quantize(one.build), _duration(one.build.best_s))
    if one.fit is not None:
        spread = one.fit.spread
        held = f"{fmt.space(spread.weights_bytes)} of weights, {fmt.space(spread.kv_bytes)} of keys and values"
        room = f"{fmt.space(spread.budget_bytes)} that a server may take"
        each = "on each, " if one.fit.devices > 1 else ""
        table.add_row("serve", f"{one.engine} on {devices(one)}: {held} {each}of {room}", fmt.MISSING)
    else:
        table.add_row("serve", f"{one.engine}, on a device that is not known", fmt.MISSING)
    if one.cells:
        skipped = f", {len(one.cells) - len(one.able)} not supported" if len(one.able) < len(one.cells) else ""
        cells = f"{len(one.cells)} cells of {one.trials} trials and a warm-up{skipped}{_likely_time(one)}"
        table.add_row("cells", cells, _duration(one.cells_best_s))
    for task in one.tasks:
        items = f"{task.items:,} items" if task.items else "items not known beforehand"
        tokens = f", about {round(task.prompt_tokens, -3):,} prompt tokens" if task.prompt_tokens else ""
        table.add_row(task.task, f"{items}{tokens}", _duration(task.best_s))
    if one.baseline is not None:
        table.add_row("baseline", f"{one.baseline.quant}, served beside it", _duration(one.baseline.best_s))
    table.add_row("all", "as far as it is known", _duration(one.best_s))
    return table


COLUMNS: dict[str, Callable[[CellForecast], str]] = {
    "input": lambda cell: f"{cell.shape.input_len:,}",
    "output": lambda cell: f"{cell.shape.output_len:,}",
    "load": lambda cell: cell.shape.load,
    "KV cache": lambda cell: fmt.space(cell.kv_bytes),
    "TTFT": lambda cell: _duration(cell.prefill.time_s) if cell.prefill else fmt.MISSING,
    "tokens/s each": _speed,
    "bound by": lambda cell: cell.decode.by if cell.decode else fmt.MISSING,
    "likely": _likely_speed,
    "takes": lambda cell: _duration(cell.best_s),
}
"""The table of cells: {heading: text of a cell}."""
IN_TITLE = {"output": "{} tokens out", "load": "{}"}
"""Columns that stand in the title where all cells have the same."""


def _cells(one: Forecast) -> Table:
    """Return the table of the cells that can run."""
    columns = {name: [text(cell) for cell in one.able] for name, text in COLUMNS.items()}
    same = [name for name in IN_TITLE if len(set(columns[name])) == 1]
    words = ", ".join([f"cells of {one.quant} at best", *(IN_TITLE[name].format(columns[name][0]) for name in same)])
    table = _table(words)
    shown = [name for name, texts in columns.items() if name not in same and set(texts) != {fmt.MISSING}]
    for name in shown:
        table.add_column(name, justify="left" if name in ("load", "bound by") else "right")
    for row in zip(*(columns[name] for name in shown), strict=True):
        table.add_row(*row)
    return table


def _rows(found: Sequence[Forecast]) -> Table:
    """Return the table of a sweep: a row for each run."""
    where = dict.fromkeys(
        f"{one.device.name} ({fmt.space(one.device.memory_bytes)})" if one.device else "a device not known"
        for one in found
    )
    lengths = {f"{cell.shape.input_len:,}" for one in found if (cell := _fastest(one))}
    table = _table(f"at best on {', '.join(where)}" + (f", tokens/s at input {', '.join(lengths)}" if lengths else ""))
    for name in ("model", "quant", "size", "devices", "on each", "tokens/s", "cells", "likely"):
        left, names = name in ("model", "quant", "devices", "on each"), name in ("model", "quant")
        table.add_column(name, justify="left" if left else "right", no_wrap=names, overflow="fold")
    for one in found:
        likely, wrong = one.cells_likely_s, trouble(one)
        table.add_row(
            one.model,
            one.quant,
            fmt.space(one.checkpoint_bytes),
            f"{one.fit.devices}{_split(one.fit)}" if one.fit else fmt.MISSING,
            _held(one) + (f": {wrong}" if wrong else ""),
            _speed(_fastest(one)),
            _duration(one.cells_best_s),
            _duration(likely.value if likely else None),
        )
    return table


def _cannot(one: Forecast) -> Iterator[str]:
    """Yield the cells that cannot run, with the reason."""
    reasons = dict.fromkeys(cell.reason for cell in one.cells if cell.reason)
    for reason in reasons:
        cells = [f"{cell.shape.input_len:,} ({cell.shape.load})" for cell in one.cells if cell.reason == reason]
        yield f"not supported, input {', '.join(cells)}: {reason}"


def _notes(found: Sequence[Forecast]) -> list[str]:
    """Return every remark once, with the runs that it is of where it is not of all."""
    of: dict[str, list[str]] = {}
    for one in found:
        for remark in (*one.remarks, *_cannot(one)):
            runs = of.setdefault(remark, [])
            runs += [] if f"{one.model} {one.quant}" in runs else [f"{one.model} {one.quant}"]
    return [
        f"note: {remark}" if len(runs) == len(found) else f"note ({', '.join(runs)}): {remark}"
        for remark, runs in of.items()
    ]


def plain(found: Sequence[Forecast]) -> list[dict[str, Any]]:
    """Return forecasts as plain data; seconds, bytes and tokens."""
    return [
        {**one.model_dump(mode="json"), "devices": one.fit.devices if one.fit else None, "trouble": trouble(one),
         "best_s": one.best_s, "cells_likely_s": likely.model_dump() if (likely := one.cells_likely_s) else None}
        for one in found
    ]  # fmt: skip


def show(specs: Sequence[RunSpec]) -> None:
    """Print the plan of a command: of one run its answer, stages and cells, of a sweep a row for each run."""
    found = [forecast_of(spec) for spec in specs]
    if specs[0].plan == "json":
        sys.stdout.write(json.dumps(plain(found), indent=1) + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    if len(found) == 1:
        found = [one for one in (found[0], found[0].baseline) if one is not None]
        console.print(answer(found[0]) + "\n", markup=False, soft_wrap=True)
        tables = [_stages(found[0]), *(_cells(one) for one in found if one.able)]
    else:
        tables = [_rows(found)]
    for table in tables:
        console.print(table)
        console.print()
    for line in (*_notes(found), FOOT):
        console.print(line, markup=False, soft_wrap=True)
