"""``plan=true``: what a command would do, printed; see :mod:`bench.forecast`."""

import os
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from bench.device import device_kept, lookup
from bench.errors import QuantbenchError
from bench.forecast import CellForecast, Forecast, forecast
from bench.plan import check
from bench.record import Device
from bench.spec import RunSpec
from quantize.estimate import in_words

PLAIN_WIDTH = 160
"""Columns of a table where no terminal says how many it has."""


def _device(spec: RunSpec) -> tuple[Device | None, str | None]:
    """Return the device that a plan is made for, and why it is not known."""
    if spec.hardware.device is not None:
        found = lookup(spec.hardware.device)
        return found, None if found else f"'{spec.hardware.device}' is not in the table of devices"
    found = device_kept(cpu=spec.hardware.name == "cpu" or spec.engine.config.get("device") == "cpu")
    return (
        found,
        None if found else "the limit here is measured by a first run; hardware=h100 plans for another machine",
    )


def _problems(spec: RunSpec) -> tuple[str, ...]:
    """Return why a run could not start on this machine as it is."""
    try:
        check(spec)
    except QuantbenchError as error:
        return (f"not here as it is: {error}",)
    return ()


def forecasts(specs: Sequence[RunSpec]) -> list[Forecast]:
    """Return the forecast of every run of a command."""
    found = []
    for spec in specs:
        device, why = _device(spec)
        problems = (*([why] if why else []), *_problems(spec))
        found.append(forecast(spec, device, problems))
    return found


def duration(seconds: float | None) -> str:
    """Return a time for people."""
    if seconds is None:
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def answer(one: Forecast) -> str:
    """Return how many devices, how long and how fast at best, in one line."""
    where = f" on {one.device.name}" if one.device else ""
    parts = []
    if one.spread is not None and one.device is not None:
        found = one.spread
        split = [f"tp {found.tp}", *([f"pp {found.pp}"] if found.pp > 1 else []), *(["ep"] if found.ep > 1 else [])]
        more = f" ({', '.join(split)})" if found.devices > 1 else ""
        held = f"{in_words(int(found.weights_bytes))} of weights and {in_words(int(found.kv_bytes))} of keys and values"
        state = "" if found.fits else ", which does not fit"
        plural = "s" if found.devices > 1 else ""
        parts.append(
            f"{found.devices} device{plural}{more}, each with {held} of {in_words(int(found.budget_bytes))}{state}"
        )
    elif one.device is not None:
        parts.append("does not fit")
    first = next((cell for cell in one.cells if cell.limit), None)
    if first is not None and first.limit is not None and (one.spread is None or one.spread.fits):
        parts.append(f"at best {first.limit.roof_tokens_per_s:.0f} tokens/s each at input {first.shape.input_len:,}")
    if one.spread is not None and one.spread.fits and one.best_s is not None:
        likely = f", likely {duration(one.likely_s)} for its cells" if one.likely_s is not None else ""
        parts.append(f"serving takes at least {duration(one.best_s)}{likely}")
    return f"{one.model} {one.quant}{where}, engine {one.engine}: {'; '.join(parts) or 'no limit known'}"


def _stages(one: Forecast) -> Table:
    table = Table(title="stages", title_justify="left", show_header=False)
    table.add_column("stage")
    table.add_column("what")
    few = one.active_parameters < one.total_parameters
    experts = f", {one.active_parameters / 1e9:.2f} B of them for each token" if few else ""
    table.add_row("model", f"{one.total_parameters / 1e9:.3f} B weights{experts}")
    bits = f"{one.bits:.2f} bits a quantized weight" if one.bits else "16 bits a weight"
    table.add_row("checkpoint", f"{in_words(int(one.checkpoint_bytes))}, {bits}")
    hub = one.download_bytes
    download = "nothing from the hub" if hub is None else f"{in_words(int(hub))} from the hub"
    table.add_row("download", download)
    if one.build is not None:
        made = f", calibrated on {one.calibration}" if one.calibration else ""
        table.add_row(
            "quantize",
            f"{in_words(one.build.memory)} of memory ({one.build.why}){made}; {in_words(one.build.disk)} of new disk",
        )
    for task in one.tasks:
        items = f"{task.items:,} items" if task.items else "items not known beforehand"
        least = f"; at least {duration(task.best_s)}" if task.best_s is not None else ""
        table.add_row(f"task {task.task}", f"{items}{least}")
    return table


def _likely(cell: CellForecast) -> str:
    found = cell.likely_tpot_s
    if found is None:
        return "–"
    return f"{1 / found.value:.0f} ({1 / found.high:.0f} to {1 / max(found.low, 1e-9):.0f})"


COLUMNS: dict[str, Callable[[CellForecast], str]] = {
    "input": lambda cell: f"{cell.shape.input_len:,}",
    "output": lambda cell: f"{cell.shape.output_len:,}",
    "load": lambda cell: cell.shape.load,
    "at best TTFT": lambda cell: duration(cell.limit.roof_ttft_s) if cell.limit else "–",
    "at best tokens/s": lambda cell: f"{cell.limit.roof_tokens_per_s:,.1f}" if cell.limit else "–",
    "bound by": lambda cell: cell.limit.decode.by if cell.limit else "–",
    "likely tokens/s": _likely,
    "time, at best": lambda cell: duration(cell.best_s),
    "not supported": lambda cell: cell.reason or "",
}
"""The table of cells: {heading: text of a cell}."""


def _cells(one: Forecast) -> Table:
    table = Table(title="cells", title_justify="left")
    shown = [name for name, text in COLUMNS.items() if any(text(cell) not in ("", "–") for cell in one.cells)]
    for name in shown:
        table.add_column(name, justify="left" if name in ("load", "bound by", "not supported") else "right")
    for cell in one.cells:
        table.add_row(*(COLUMNS[name](cell) for name in shown))
    return table


def show(specs: Sequence[RunSpec]) -> None:
    """Print the plan of a command: one line for each run, then its stages and cells where it is one run."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    found = forecasts(specs)
    for one in found:
        console.print(answer(one), markup=False, soft_wrap=True)
        if len(found) > 1:
            for remark in one.remarks:
                console.print(f"  {remark}", markup=False, soft_wrap=True)
    if len(found) == 1:
        console.print(_stages(found[0]))
        if found[0].cells:
            console.print(_cells(found[0]))
        for remark in found[0].remarks:
            console.print(f"note: {remark}", markup=False, soft_wrap=True)
    console.print(
        "At best: the device's limit, nothing lost anywhere. Likely: a law fitted to published cells of dense models "
        "on one device, with its 95 % interval. Nothing was run.",
        markup=False,
        soft_wrap=True,
    )
