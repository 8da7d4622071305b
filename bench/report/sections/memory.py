"""Resources that a variant needs: memory and its course, the state of the accelerators, energy and cost."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench import format as fmt
from bench.analysis.cost import Cost, cost
from bench.limits.roofline import KV_BITS, kv_bytes_per_token
from bench.messages.message import Message, listed, msg
from bench.records.record import DeviceState, RunRecord, SpeedCell, Trial
from bench.report.cells import peak_cell
from bench.report.document import (
    Block,
    Cell,
    Figure,
    Figures,
    Group,
    Head,
    Heading,
    Section,
    Table,
    Text,
    interval,
    number,
)
from bench.report.plots.memory import over_time
from bench.report.shapes import shape_words
from bench.report.units import BYTES, DOLLARS, TOKENS
from bench.report.view import Run, runs
from bench.speed.figures import EmulatedCell, RecordedCell
from bench.speed.shapes import shape_of

ORDER = 45

MEMORY_HEADS = (
    Head(msg("head.variant")),
    Head(msg("memory.on_disk"), msg("head.checkpoint.help"), numeric=True),
    Head(msg("memory.in_memory"), msg("memory.in_memory.help"), numeric=True),
    Head(msg("memory.kv_per_token"), msg("memory.kv_per_token.help"), numeric=True),
    Head(msg("memory.room"), msg("memory.room.help"), numeric=True),
    Head(msg("memory.peak"), msg("memory.peak.help"), numeric=True),
)
DEVICE_HEADS = (
    Head(msg("head.variant")),
    Head(msg("head.device"), msg("devices.index.help"), numeric=True),
    Head(msg("devices.sm_clock"), msg("devices.clock.help"), numeric=True),
    Head(msg("devices.memory_clock"), msg("devices.clock.help"), numeric=True),
    Head(msg("devices.temperature"), msg("devices.temperature.help"), numeric=True),
    Head(msg("devices.power"), msg("devices.power.help"), numeric=True),
    Head(msg("devices.memory"), msg("devices.memory.help"), numeric=True),
    Head(msg("devices.throttled"), msg("devices.throttled.help")),
)
ENERGY_HEADS = (
    Head(msg("devices.power"), msg("energy.power.help"), numeric=True),
    Head(msg("energy.output_tokens"), msg("energy.output_tokens.help"), numeric=True),
    Head(msg("energy.all_tokens"), msg("energy.all_tokens.help"), numeric=True),
)
MONEY_HEADS = (
    Head(msg("money.output_tokens"), msg("money.output_tokens.help"), numeric=True),
    Head(msg("money.all_tokens"), msg("money.all_tokens.help"), numeric=True),
)


@dataclass(frozen=True)
class Trace:
    """The memory of one run over the trial that is drawn."""

    run: Run
    cell: SpeedCell
    points: tuple[tuple[int, int], ...]

    @property
    def highest(self) -> int:
        """Highest memory of any point, in bytes."""
        return max(used for _, used in self.points)


def _kv_bytes(record: RunRecord) -> float | None:
    """Return bytes of keys and values per token; None if the shapes or the type are unknown."""
    architecture = record.spec.model.architecture
    if architecture is None or record.server is None or record.server.kv_cache_dtype not in KV_BITS:
        return None
    return kv_bytes_per_token(architecture, record.server.kv_cache_dtype)


def _memory_row(run: Run) -> list[Cell]:
    checkpoint, server, per_token = run.record.checkpoint, run.record.server, _kv_bytes(run.record)
    tokens = server.kv_capacity_tokens if server else None
    kind = (server.kv_cache_dtype,) if server and per_token is not None and server.kv_cache_dtype != "auto" else ()
    room = (fmt.size(tokens * per_token),) if tokens and per_token is not None else ()
    return [
        run.heading,
        number(checkpoint.checkpoint_bytes if checkpoint else None, fmt.size, BYTES),
        number(server.weights_bytes if server else None, fmt.size, BYTES),
        number(per_token, fmt.size, BYTES, notes=kind),
        number(tokens, lambda value: fmt.count(round(value)), TOKENS, notes=room),
        peak_cell(run),
    ]


def _shape(cell: SpeedCell) -> tuple[int, int, int]:
    return cell.input_len, cell.output_len, cell.concurrency


def _trace(run: Run) -> Trace | None:
    """Return the trial with the highest peak of a run's longest cell; None if memory was not recorded over time."""
    known = [measured.cell for measured in run.measured() if any(trial.memory for trial in measured.cell.trials)]
    if not known:
        return None
    closed = [cell for cell in known if cell.request_rate_per_s is None]
    longest = max(closed or known, key=_shape)
    series = [trial.memory for trial in longest.trials if trial.memory]
    return Trace(run, longest, max(series, key=lambda points: max(used for _, used in points)))


def _figures(traces: Sequence[Trace]) -> Figures:
    last_ns = max(trace.points[-1][0] for trace in traces)
    top = max(trace.highest for trace in traces)
    items = []
    for index, trace in enumerate(traces):
        cell, used = trace.cell, [value for _, value in trace.points]
        caption = msg(
            "memory.trace",
            where=shape_words(shape_of(cell)),
            begin=fmt.size(used[0]),
            most=fmt.size(trace.highest),
            end=fmt.size(used[-1]),
        )
        svg = over_time(
            trace.points,
            trace.run.mark,
            name=f"trace{index}",
            description=msg("memory.trace.description", label=trace.run.label, caption=caption),
            last_ns=last_ns,
            top_bytes=top,
        )
        items.append(Figure(svg, caption, trace.run.label, trace.run.mark))
    return Figures(items)


def _trials(run: Run) -> list[Trial]:
    return [trial for listed in run.recorded() for trial in listed.cell.trials]


def _range(states: Sequence[DeviceState], reading: Callable[[DeviceState], int | None], unit: str) -> Cell:
    known = [value for state in states if (value := reading(state)) is not None]
    if not known:
        return Cell(numeric=True)
    low, high = f"{fmt.count(min(known))} {unit}", f"{fmt.count(max(known))} {unit}"
    return Cell(high if low == high else fmt.between(low, high), numeric=True)


def _highest(states: Sequence[DeviceState], reading: Callable[[DeviceState], float | None]) -> float | None:
    return max((value for state in states if (value := reading(state)) is not None), default=None)


def _device_rows(run: Run) -> list[list[Cell]]:
    states: dict[int, list[DeviceState]] = {}
    for trial in _trials(run):
        for state in trial.devices_after:
            states.setdefault(state.index, []).append(state)
    rows = []
    for index, seen in sorted(states.items()):
        reasons = Counter(reason for state in seen for reason in state.throttled)
        held = [
            msg("devices.reason", reason=reason, count=str(count), n=len(seen)) for reason, count in reasons.items()
        ]
        rows.append(
            [
                run.heading,
                Cell(str(index), numeric=True),
                _range(seen, lambda state: state.sm_clock_mhz, "MHz"),
                _range(seen, lambda state: state.memory_clock_mhz, "MHz"),
                number(_highest(seen, lambda state: state.temperature_celsius), lambda value: f"{value:.0f} °C"),
                number(_highest(seen, lambda state: state.power_w), _watts, "W"),
                number(_highest(seen, lambda state: state.memory_used_bytes), fmt.size, BYTES),
                Cell(listed(held) if held else msg("devices.never")),
            ]
        )
    return rows


def _watts(value: float) -> str:
    return f"{fmt.significant(value)} W"


def _joules(value: float) -> str:
    scale, unit = next(pair for pair in ((1e6, "MJ"), (1e3, "kJ"), (0, "J")) if value >= pair[0])
    return f"{fmt.significant(value / (scale or 1))} {unit}"


def _dollars(value: float) -> str:
    return f"${fmt.significant(value)}"


def _cost_row(run: Run, cell: RecordedCell, costs: Cost, *, energy: bool, money: bool) -> list[Cell]:
    figures: list[Cell] = []
    if energy:
        figures += [
            interval(costs.average_w, _watts, "W"),
            interval(costs.joules_per_million_output_tokens, _joules, "J"),
            interval(costs.joules_per_million_total_tokens, _joules, "J"),
        ]
    if money:
        figures += [
            interval(costs.dollars_per_million_output_tokens, _dollars, DOLLARS),
            interval(costs.dollars_per_million_total_tokens, _dollars, DOLLARS),
        ]
    return [run.heading, *(replace(figure, faint=isinstance(cell, EmulatedCell)) for figure in figures)]


def _load(cell: SpeedCell) -> Message:
    """Return in words what the cells of one group share."""
    load = msg("load.concurrency", concurrency=str(cell.concurrency))
    if cell.request_rate_per_s is not None:
        load = msg("load.per_second", rate=f"{cell.request_rate_per_s:g}")
    return msg("shape.whole", n=cell.input_len, output=fmt.count(cell.output_len), load=load)


def _costs(everything: Sequence[Run]) -> Table | None:
    """Return energy and cost of every cell; None if neither is known. Empty columns are left out."""
    entries = [
        (run, cell, costs)
        for run in everything
        for cell in run.recorded()
        if (costs := cost(cell, run.record.dollars_per_hour))
    ]
    energy = any(costs.average_w for _, _, costs in entries)
    money = any(costs.dollars_per_million_output_tokens for _, _, costs in entries)
    if not (energy or money):
        return None
    groups: dict[tuple[str, Message], list[list[Cell]]] = {}
    for run, cell, costs in sorted(entries, key=lambda entry: _shape(entry[1].cell)):
        groups.setdefault((run.record.variant.model, _load(cell.cell)), []).append(
            _cost_row(run, cell, costs, energy=energy, money=money)
        )
    several = len({model for model, _ in groups}) > 1
    heads = (Head(msg("head.variant")), *(ENERGY_HEADS if energy else ()), *(MONEY_HEADS if money else ()))
    named = [
        Group(rows, msg("word.of_model", model=model, what=load) if several else load)
        for (model, load), rows in groups.items()
    ]
    return Table(msg("energy.caption"), heads, named)


def _has_emulated(everything: Iterable[Run]) -> bool:
    return any(isinstance(cell, EmulatedCell) for run in everything for cell in run.recorded())


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return memory and energy; None if records hold no more than the sizes in the size section."""
    everything = runs(records)
    traces = [trace for run in everything if (trace := _trace(run))]
    devices = [row for run in everything for row in _device_rows(run)]
    costs = _costs(everything)
    blocks: list[Block] = []
    if traces or any(record.server for record in records):
        blocks += [
            Table(msg("memory.caption"), MEMORY_HEADS, [Group([_memory_row(run) for run in everything])]),
            Text(msg("memory.how"), "small"),
        ]
    if traces:
        blocks += [Heading(msg("memory.over_time")), _figures(traces)]
    if devices:
        blocks += [
            Heading(msg("devices.title")),
            Table(msg("devices.caption"), DEVICE_HEADS, [Group(devices)]),
        ]
    if costs:
        blocks += [Heading(msg("energy.title")), costs, Text(msg("energy.how"), "small")]
    if not blocks:
        return None
    if _has_emulated(everything):
        blocks.append(Text(msg("memory.emulated"), "small"))
    return Section("memory-energy", msg("memory.title"), blocks)
