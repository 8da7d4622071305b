"""What a variant needs besides time: memory and how it moves, the state of the accelerators, energy and money."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench import format as fmt
from bench.analysis.cost import Cost, cost
from bench.limits.roofline import KV_BITS, kv_bytes_per_token
from bench.records.record import DeviceState, RunRecord, SpeedCell, Trial
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
from bench.report.view import Run, runs
from bench.speed.shapes import shape_of

ORDER = 45

MEMORY_HEADS = (
    Head("Variant"),
    Head("Weights on disk", "bytes of all safetensors files", numeric=True),
    Head("Weights in memory", "as the server told, all devices together", numeric=True),
    Head("Keys and values per token", "2 x layers x key-value heads x head size x bytes of their type", numeric=True),
    Head("Room for tokens", "tokens whose keys and values fit at once, as the server told", numeric=True),
    Head("Peak", "highest memory of the server in any speed cell with figures", numeric=True),
)
DEVICE_HEADS = (
    Head("Variant"),
    Head("Device", "as nvidia-smi numbers it", numeric=True),
    Head("SM clock", "at the end of each trial: lowest to highest", numeric=True),
    Head("Memory clock", "at the end of each trial: lowest to highest", numeric=True),
    Head("Temperature", "highest at the end of a trial", numeric=True),
    Head("Power", "highest at the end of a trial; averaged over a second by newer devices", numeric=True),
    Head("Memory in use", "highest at the end of a trial, whoever used it", numeric=True),
    Head("Clocks held down", "every reason that the driver gave during a trial, and in how many trials"),
)
ENERGY_HEADS = (
    Head("Power", "joules / seconds, all devices together", numeric=True),
    Head("Energy per million output tokens", "joules of the whole trial / generated tokens", numeric=True),
    Head("Energy per million tokens", "joules of the whole trial / tokens read or generated", numeric=True),
)
MONEY_HEADS = (
    Head("Dollars per million output tokens", "price of the machine / output rate", numeric=True),
    Head("Dollars per million tokens", "price of the machine / rate of tokens read or generated", numeric=True),
)
MEMORY_NOTE = (
    "A server that sets memory aside for keys and values when it starts shows that, not what a single request needs: "
    "a smaller variant then has more room for tokens rather than a lower peak."
)
ENERGY_NOTE = (
    "All energy and all time of a trial are charged to its tokens, reading the prompt included. Energy is that of the "
    "accelerators, not of the machine around them. Trials too short for the device's readings are left out."
)
EMULATED_NOTE = "Faint figures are emulated: real for this server, but not figures of the variant."


@dataclass(frozen=True)
class Traced:
    """The memory of one run over the trial that is drawn."""

    run: Run
    cell: SpeedCell
    points: tuple[tuple[int, int], ...]

    @property
    def highest(self) -> int:
        """The most bytes of any point."""
        return max(used for _, used in self.points)


def _kv_bytes(record: RunRecord) -> float | None:
    """Return bytes of keys and values per token; None where the shapes or the type are not known."""
    architecture = record.spec.model.architecture
    if architecture is None or record.server is None or record.server.kv_cache_dtype not in KV_BITS:
        return None
    return kv_bytes_per_token(architecture, record.server.kv_cache_dtype)


def _peak(run: Run) -> Cell:
    peaks = [
        (summary.peak_memory_bytes, cell.status)
        for cell, summary in run.measured()
        if summary.peak_memory_bytes is not None
    ]
    if not peaks:
        return Cell(numeric=True)
    highest, status = max(peaks)
    return number(highest, fmt.size, "bytes", faint=status == "emulated")


def _memory_row(run: Run) -> list[Cell]:
    made, server, per_token = run.record.checkpoint, run.record.server, _kv_bytes(run.record)
    tokens = server.kv_capacity_tokens if server else None
    kind = (server.kv_cache_dtype,) if server and per_token is not None and server.kv_cache_dtype != "auto" else ()
    room = (fmt.size(tokens * per_token),) if tokens and per_token is not None else ()
    return [
        run.heading,
        number(made.checkpoint_bytes if made else None, fmt.size, "bytes"),
        number(server.weights_bytes if server else None, fmt.size, "bytes"),
        number(per_token, fmt.size, "bytes", notes=kind),
        number(tokens, lambda value: fmt.count(round(value)), "tokens", notes=room),
        _peak(run),
    ]


def _traced(run: Run) -> Traced | None:
    """Return the trial with the highest peak of a run's longest cell; None where memory was not kept over time."""
    known = [cell for cell, _ in run.measured() if any(trial.memory for trial in cell.trials)]
    if not known:
        return None
    closed = [cell for cell in known if cell.request_rate_per_s is None]
    longest = max(closed or known, key=lambda cell: (cell.input_len, cell.output_len, cell.concurrency))
    series = [trial.memory for trial in longest.trials if trial.memory]
    return Traced(run, longest, max(series, key=lambda points: max(used for _, used in points)))


def _figures(traced: Sequence[Traced]) -> Figures:
    last_ns = max(one.points[-1][0] for one in traced)
    top = max(one.highest for one in traced)
    items = []
    for index, one in enumerate(traced):
        cell, used = one.cell, [value for _, value in one.points]
        caption = f"{fmt.plural(cell.input_len, 'token')} in, {fmt.count(cell.output_len)} out, "
        caption += f"{shape_of(cell).load}: {fmt.size(used[0])} at the beginning, "
        caption += f"{fmt.size(one.highest)} at most, {fmt.size(used[-1])} at the end."
        svg = over_time(
            one.points,
            one.run.mark,
            name=f"trace{index}",
            description=f"Memory of {one.run.label} over time. {caption}",
            last_ns=last_ns,
            top_bytes=top,
            hollow=cell.status == "emulated",
        )
        items.append(Figure(svg, caption, one.run.label, one.run.mark))
    return Figures(items)


def _trials(run: Run) -> list[Trial]:
    return [trial for cell, _ in run.measured() for trial in cell.trials]


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
        held = [f"{reason} ({count} of {fmt.plural(len(seen), 'trial')})" for reason, count in reasons.items()]
        rows.append(
            [
                run.heading,
                Cell(str(index), numeric=True),
                _range(seen, lambda state: state.sm_clock_mhz, "MHz"),
                _range(seen, lambda state: state.memory_clock_mhz, "MHz"),
                number(_highest(seen, lambda state: state.temperature_celsius), lambda value: f"{value:.0f} °C"),
                number(_highest(seen, lambda state: state.power_w), _watts, "W"),
                number(_highest(seen, lambda state: state.memory_used_bytes), fmt.size, "bytes"),
                Cell(", ".join(held) or "never"),
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


def _cost_row(run: Run, cell: SpeedCell, found: Cost, *, energy: bool, money: bool) -> list[Cell]:
    figures: list[Cell] = []
    if energy:
        figures += [
            interval(found.average_w, _watts, "W"),
            interval(found.joules_per_million_output_tokens, _joules, "J"),
            interval(found.joules_per_million_total_tokens, _joules, "J"),
        ]
    if money:
        figures += [
            interval(found.dollars_per_million_output_tokens, _dollars, "dollars"),
            interval(found.dollars_per_million_total_tokens, _dollars, "dollars"),
        ]
    return [run.heading, *(replace(figure, faint=cell.status == "emulated") for figure in figures)]


def _load(cell: SpeedCell) -> str:
    """Return in words what the cells of one group share."""
    words = f"{fmt.plural(cell.input_len, 'token')} in, {fmt.count(cell.output_len)} out, "
    if cell.request_rate_per_s is not None:
        return f"{words}{cell.request_rate_per_s:g} requests per second"
    return f"{words}concurrency {cell.concurrency}"


def _costs(everything: Sequence[Run]) -> Table | None:
    """Return energy and money of every cell; None where neither is known. Columns that nobody fills are left out."""
    found = [
        (run, cell, made)
        for run in everything
        for cell, _ in run.measured()
        if (made := cost(cell, run.record.dollars_per_hour))
    ]
    energy = any(made.average_w for _, _, made in found)
    money = any(made.dollars_per_million_output_tokens for _, _, made in found)
    if not (energy or money):
        return None
    groups: dict[tuple[str, str], list[list[Cell]]] = {}
    for run, cell, made in sorted(found, key=lambda one: (one[1].input_len, one[1].output_len, one[1].concurrency)):
        groups.setdefault((run.record.variant.model, _load(cell)), []).append(
            _cost_row(run, cell, made, energy=energy, money=money)
        )
    several = len({model for model, _ in groups}) > 1
    heads = (Head("Variant"), *(ENERGY_HEADS if energy else ()), *(MONEY_HEADS if money else ()))
    named = [Group(rows, f"{model}: {load}" if several else load) for (model, load), rows in groups.items()]
    return Table("Energy and money: median over trials, and its interval below it", heads, named)


def _has_emulated(everything: Iterable[Run]) -> bool:
    return any(cell.status == "emulated" for run in everything for cell, _ in run.measured())


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return memory and energy; None where records hold no more than the sizes that the section of sizes shows."""
    everything = runs(records)
    traced = [one for run in everything if (one := _traced(run))]
    devices = [row for run in everything for row in _device_rows(run)]
    costs = _costs(everything)
    blocks: list[Block] = []
    if traced or any(record.server for record in records):
        blocks += [
            Table("Memory by variant", MEMORY_HEADS, [Group([_memory_row(run) for run in everything])]),
            Text(MEMORY_NOTE, "small"),
        ]
    if traced:
        blocks += [Heading("Memory over time"), _figures(traced)]
    if devices:
        blocks += [
            Heading("State of the accelerators"),
            Table("Accelerators by variant", DEVICE_HEADS, [Group(devices)]),
        ]
    if costs:
        blocks += [Heading("Energy and money"), costs, Text(ENERGY_NOTE, "small")]
    if not blocks:
        return None
    if _has_emulated(everything):
        blocks.append(Text(EMULATED_NOTE, "small"))
    return Section("memory-energy", "Memory and energy", blocks)
