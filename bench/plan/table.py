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
"""Columns of a table without a terminal."""
FOOT = (
    '"At best" is the roofline limit. "Likely" is a fit to published results for dense models on one device, with its '
    "95 % interval and prefill at its limit. This is an estimate; nothing was run."
)


def _duration(value: float | None) -> str:
    return fmt.optional(value, fmt.duration)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )


def devices(forecast: Forecast) -> str:
    """Return the number of devices and the sharding, e.g. ``4 devices (tp 4)``."""
    if forecast.fit is None:
        return fmt.MISSING
    return f"{forecast.fit.devices} device{'s' if forecast.fit.devices > 1 else ''}{_split(forecast.fit)}"


def _split(fit: Fit) -> str:
    spread = fit.spread
    sizes = {"tp": spread.tp, "pp": spread.pp, "ep": spread.ep, "copies": fit.copies}
    split = ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    return f" ({split})" if split else ""


def trouble(forecast: Forecast) -> str | None:
    """Return the problem of a sharding in a few words, or None."""
    if forecast.fit is None or forecast.fit.works:
        return None
    if forecast.fit.refused:
        return "cannot be sharded this way"
    return "not all cells fit" if forecast.able and forecast.fit.loads else "does not fit"


def _held(forecast: Forecast) -> str:
    """Return the memory in use on each device."""
    return fmt.space(forecast.fit.spread.weights_bytes + forecast.fit.spread.kv_bytes) if forecast.fit else fmt.MISSING


def _fastest(forecast: Forecast) -> CellForecast | None:
    return next((cell for cell in forecast.able if cell.decode), None)


def _speed(cell: CellForecast | None) -> str:
    if cell is None or cell.decode is None:
        return fmt.MISSING
    return f"{1 / cell.decode.time_s:,.{0 if cell.decode.time_s < 0.1 else 1}f}"


def answer(forecast: Forecast) -> str:
    """Return the number of devices, the best speed and the duration, in one line."""
    parts = []
    if forecast.fit is not None and forecast.device is not None:
        each = " each" if forecast.fit.devices > 1 else ""
        problem = f": {trouble(forecast)}" if trouble(forecast) else ""
        parts.append(
            f"{devices(forecast)}, {_held(forecast)} of {fmt.space(forecast.device.memory_bytes)}{each}{problem}"
        )
    cell = _fastest(forecast)
    if cell is not None:
        parts.append(f"at best {_speed(cell)} tokens/s at input {cell.shape.input_len:,}")
    if forecast.cells_best_s is not None:
        parts.append(f"its cells take at least {_duration(forecast.cells_best_s)}{_likely_time(forecast)}")
    where = f" on {forecast.device.name}" if forecast.device else ""
    return f"{forecast.model} {forecast.quant}{where}: {'; '.join(parts) or 'no limit known'}"


def _likely_time(forecast: Forecast) -> str:
    likely = forecast.cells_likely_s
    if likely is None:
        return ""
    return f", likely {_duration(likely.value)} ({_duration(likely.low)} to {_duration(likely.high)})"


def _likely_speed(cell: CellForecast) -> str:
    likely = cell.likely_tpot_s
    if likely is None or cell.decode is None:
        return fmt.MISSING
    fastest_s = max(likely.low, cell.decode.time_s)
    return f"{1 / likely.value:,.0f} ({1 / likely.high:,.0f} to {1 / fastest_s:,.0f})"


def _quantize(build: Build) -> str:
    text = f", {build.calibration_tokens:,} tokens of calibration" if build.calibration_tokens else ""
    work = "proving the release" if build.release else f"{build.method}{text}"
    return f"{work}; {fmt.space(build.needs.memory_bytes)} of memory ({build.needs.why})"


def _stages(forecast: Forecast) -> Table:
    table = _table("stages")
    for name in ("stage", "what", "at least"):
        table.add_column(name, justify="right" if name == "at least" else "left")
    sparse = forecast.active_parameters < forecast.total_parameters
    experts = f", {forecast.active_parameters / 1e9:.2f} B of them for each token" if sparse else ""
    bits = f"{forecast.bits:.2f} bits a quantized weight" if forecast.bits else "16 bits a weight"
    size = f"{forecast.total_parameters / 1e9:.3f} B weights{experts}; {fmt.space(forecast.checkpoint_bytes)}, {bits}"
    table.add_row("checkpoint", size, fmt.MISSING)
    if forecast.build is not None:
        hub = forecast.build.download_bytes
        download = f"{fmt.space(hub)} from the hub" if hub is not None else "nothing from the hub"
        table.add_row(
            "source", f"{download}; {fmt.space(forecast.build.disk_bytes)} of disk with the result", fmt.MISSING
        )
        if forecast.bits:
            table.add_row("quantize", _quantize(forecast.build), _duration(forecast.build.best_s))
    if forecast.fit is not None:
        spread = forecast.fit.spread
        held = f"{fmt.space(spread.weights_bytes)} of weights, {fmt.space(spread.kv_bytes)} of keys and values"
        room = f"{fmt.space(spread.budget_bytes)} that a server may take"
        each = "on each, " if forecast.fit.devices > 1 else ""
        table.add_row("serve", f"{forecast.engine} on {devices(forecast)}: {held} {each}of {room}", fmt.MISSING)
    else:
        table.add_row("serve", f"{forecast.engine}, on an unknown device", fmt.MISSING)
    if forecast.cells:
        skipped = (
            f", {len(forecast.cells) - len(forecast.able)} not supported"
            if len(forecast.able) < len(forecast.cells)
            else ""
        )
        cells = (
            f"{len(forecast.cells)} cells of {forecast.trials} trials and a warm-up{skipped}{_likely_time(forecast)}"
        )
        table.add_row("cells", cells, _duration(forecast.cells_best_s))
    for task in forecast.tasks:
        items = f"{task.items:,} items" if task.items else "number of items unknown"
        tokens = f", about {round(task.prompt_tokens, -3):,} prompt tokens" if task.prompt_tokens else ""
        table.add_row(task.task, f"{items}{tokens}", _duration(task.best_s))
    if forecast.baseline is not None:
        table.add_row(
            "baseline", f"{forecast.baseline.quant}, served next to the variant", _duration(forecast.baseline.best_s)
        )
    table.add_row("all", "sum of the known times", _duration(forecast.best_s))
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
"""Columns that move into the title if all cells have the same value."""


def _cells(forecast: Forecast) -> Table:
    """Return the table of the cells that can run."""
    columns = {name: [text(cell) for cell in forecast.able] for name, text in COLUMNS.items()}
    same = [name for name in IN_TITLE if len(set(columns[name])) == 1]
    words = ", ".join(
        [f"cells of {forecast.quant} at best", *(IN_TITLE[name].format(columns[name][0]) for name in same)]
    )
    table = _table(words)
    shown = [name for name, texts in columns.items() if name not in same and set(texts) != {fmt.MISSING}]
    for name in shown:
        table.add_column(name, justify="left" if name in ("load", "bound by") else "right")
    for row in zip(*(columns[name] for name in shown), strict=True):
        table.add_row(*row)
    return table


def _rows(forecasts: Sequence[Forecast]) -> Table:
    """Return the table of a sweep: a row for each run."""
    where = dict.fromkeys(
        f"{forecast.device.name} ({fmt.space(forecast.device.memory_bytes)})"
        if forecast.device
        else "an unknown device"
        for forecast in forecasts
    )
    lengths = {f"{cell.shape.input_len:,}" for forecast in forecasts if (cell := _fastest(forecast))}
    table = _table(f"at best on {', '.join(where)}" + (f", tokens/s at input {', '.join(lengths)}" if lengths else ""))
    for name in ("model", "quant", "size", "devices", "on each", "tokens/s", "cells", "likely"):
        left, names = name in ("model", "quant", "devices", "on each"), name in ("model", "quant")
        table.add_column(name, justify="left" if left else "right", no_wrap=names, overflow="fold")
    for forecast in forecasts:
        likely, problem = forecast.cells_likely_s, trouble(forecast)
        table.add_row(
            forecast.model,
            forecast.quant,
            fmt.space(forecast.checkpoint_bytes),
            f"{forecast.fit.devices}{_split(forecast.fit)}" if forecast.fit else fmt.MISSING,
            _held(forecast) + (f": {problem}" if problem else ""),
            _speed(_fastest(forecast)),
            _duration(forecast.cells_best_s),
            _duration(likely.value if likely else None),
        )
    return table


def _cannot(forecast: Forecast) -> Iterator[str]:
    """Yield the cells that cannot run, with the reason."""
    reasons = dict.fromkeys(cell.reason for cell in forecast.cells if cell.reason)
    for reason in reasons:
        cells = [f"{cell.shape.input_len:,} ({cell.shape.load})" for cell in forecast.cells if cell.reason == reason]
        yield f"not supported, input {', '.join(cells)}: {reason}"


def _notes(forecasts: Sequence[Forecast]) -> list[str]:
    """Return every remark once, with the runs that it applies to unless it applies to all."""
    runs_of: dict[str, list[str]] = {}
    for forecast in forecasts:
        for remark in (*forecast.remarks, *_cannot(forecast)):
            runs = runs_of.setdefault(remark, [])
            runs += [] if f"{forecast.model} {forecast.quant}" in runs else [f"{forecast.model} {forecast.quant}"]
    return [
        f"note: {remark}" if len(runs) == len(forecasts) else f"note ({', '.join(runs)}): {remark}"
        for remark, runs in runs_of.items()
    ]


def plain(forecasts: Sequence[Forecast]) -> list[dict[str, Any]]:
    """Return forecasts as plain data, in seconds, bytes and tokens."""
    return [
        {
            **forecast.model_dump(mode="json"),
            "devices": forecast.fit.devices if forecast.fit else None,
            "trouble": trouble(forecast),
            "best_s": forecast.best_s,
            "cells_likely_s": likely.model_dump() if (likely := forecast.cells_likely_s) else None,
        }
        for forecast in forecasts
    ]


def show(specs: Sequence[RunSpec]) -> None:
    """Print the plan of a command: answer, stages and cells of a single run, or a row for each run of a sweep."""
    forecasts = [forecast_of(spec) for spec in specs]
    if specs[0].plan == "json":
        sys.stdout.write(json.dumps(plain(forecasts), indent=1) + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    if len(forecasts) == 1:
        forecasts = [forecast for forecast in (forecasts[0], forecasts[0].baseline) if forecast is not None]
        console.print(answer(forecasts[0]) + "\n", markup=False, soft_wrap=True)
        tables = [_stages(forecasts[0]), *(_cells(forecast) for forecast in forecasts if forecast.able)]
    else:
        tables = [_rows(forecasts)]
    for table in tables:
        console.print(table)
        console.print()
    for line in (*_notes(forecasts), FOOT):
        console.print(line, markup=False, soft_wrap=True)
