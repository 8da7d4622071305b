"""What the device allows at most, and how near the measured speed comes to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.limits.measured import Share, against, limit_of
from bench.limits.roofline import Limit
from bench.records.record import Device, RunRecord, SpeedCell
from bench.report.document import (
    Block,
    Cell,
    Figure,
    Figures,
    Group,
    Head,
    Heading,
    Mark,
    Section,
    Table,
    Term,
    Terms,
    Text,
    number,
)
from bench.report.plots.base import Point, Series, by_length
from bench.report.view import Run, runs
from bench.speed.metrics import CellSummary
from bench.speed.shapes import shape_of

ORDER = 22

Load = tuple[str, int, int, int]
"""Model, output length, concurrency and requests of a trial of a closed loop."""
HEADS = (
    Head("Variant"),
    Head("Input", "tokens", numeric=True),
    Head("Load", "requests that are under way at once, or that arrive each second"),
    Head("Weights / step", "bytes that a decode step reads; input embeddings are not read", numeric=True),
    Head("KV / step", "bytes of keys and values that a decode step reads, at the middle of the answer", numeric=True),
    Head("Least TPOT", "what the device allows", numeric=True),
    Head("TPOT", "measured median", numeric=True),
    Head("MBU", "bytes of a step / TPOT / bandwidth", numeric=True),
    Head("Least TTFT", "what the device allows", numeric=True),
    Head("TTFT", "measured median", numeric=True),
    Head("MFU", "multiplications of the prefill / TTFT / peak", numeric=True),
    Head("Bound by", "what the limit of decoding is made of; below it that of prefill"),
)


@dataclass(frozen=True)
class _Held:
    """A measured cell and its limit."""

    run: Run
    cell: SpeedCell
    summary: CellSummary
    limit: Limit

    @property
    def share(self) -> Share:
        return against(self.limit, self.summary)


def _held(everything: Sequence[Run]) -> list[_Held]:
    found = []
    for run in everything:
        for cell, summary in run.measured():
            limit = limit_of(run.record, cell)
            if limit is not None:
                found.append(_Held(run, cell, summary, limit))
    return found


def _device(device: Device, devices: int) -> Terms:
    peaks = ", ".join(f"{kind} {fmt.significant(peak / 1e12)}" for kind, peak in device.flops_per_s.items())
    bandwidth = [f"{fmt.size(device.bandwidth_bytes_per_s)} per second"]
    if device.bandwidth_by_size:
        fastest = max(speed for _, speed in device.bandwidth_by_size)
        bandwidth.append(f"up to {fmt.size(fastest)} per second for what fits into caches")
    name = device.name if devices == 1 else f"{devices} × {device.name}"
    return Terms(
        [
            Term("Device", (name,)),
            Term("Bandwidth of each", tuple(bandwidth)),
            Term("Peak of each, 10¹² FLOPs per second", (peaks,)),
            Term("Memory of each", (fmt.size(device.memory_bytes),)),
            Term("Source", (device.source,)),
        ]
    )


def _figure(cells: Sequence[_Held], load: Load, name: str) -> Figures | None:
    """Return measured decode speed and its roof over input length for one load; None if nothing was decoded."""
    series, legend = [], []
    for run in dict.fromkeys(one.run.label for one in cells):
        own = [one for one in cells if one.run.label == run and one.summary.decode_tokens_per_s is not None]
        if not own:
            continue
        mark = own[0].run.mark
        speeds = [(one.cell.input_len, one.summary.decode_tokens_per_s) for one in own]
        measured = tuple(Point(at, speed.median, speed.low, speed.high) for at, speed in speeds if speed)
        roofs = [(one.cell.input_len, one.limit.roof_tokens_per_s) for one in own]
        roof = tuple(Point(at, speed, speed, speed, hollow=True) for at, speed in roofs)
        series += [Series(run, mark, measured), Series(f"roof of {run}", Mark(mark.colour, ""), roof)]
        legend.append((mark, run))
    if not series:
        return None
    model, output_len, concurrency, _ = load
    caption = "Decode speed of one request by input length, both logarithmic: measured, and dashed the roof. "
    caption += f"{model}, {fmt.plural(output_len, 'token')} out, {concurrency} at once."
    svg = by_length(series, name=name, description=caption, ylabel="tokens per second", show=fmt.significant, log=True)
    return Figures([Figure(svg, caption)], legend)


def _row(held: _Held) -> list[Cell]:
    limit, share, traffic = held.limit, held.share, held.limit.traffic
    ttft, tpot = held.summary.ttft_s, held.summary.tpot_s
    return [
        held.run.heading,
        number(held.cell.input_len, lambda value: fmt.count(round(value)), "tokens"),
        Cell(shape_of(held.cell).load),
        number(traffic.linear_bytes + traffic.rest_bytes, fmt.size, "bytes"),
        number(traffic.kv_bytes, fmt.size, "bytes"),
        number(limit.roof_tpot_s, fmt.seconds, "s"),
        number(tpot.median if tpot else None, fmt.seconds, "s"),
        number(share.mbu, fmt.small_percent, "of 1"),
        number(limit.roof_ttft_s, fmt.seconds, "s"),
        number(ttft.median if ttft else None, fmt.seconds, "s"),
        number(share.mfu, fmt.small_percent, "of 1"),
        Cell(limit.decode.by, (f"prefill: {limit.prefill.by}",)),
    ]


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section on the physical limit; None if no cell has one."""
    cells = _held(runs(records))
    if not cells:
        return None
    blocks: list[Block] = []
    devices = list(dict.fromkeys((one.limit.device.model_dump_json(), one.limit.devices) for one in cells))
    for json, number_of in devices:
        if len(devices) > 1:
            on_it = dict.fromkeys(one.run.label for one in cells if one.limit.device.model_dump_json() == json)
            blocks.append(Heading(f"Device of {', '.join(on_it)}"))
        blocks.append(_device(Device.model_validate_json(json), number_of))
    loads: dict[Load, list[_Held]] = {}
    for one in cells:
        if one.cell.request_rate_per_s is None:
            cell = one.cell
            load = (one.run.record.variant.model, cell.output_len, cell.concurrency, cell.n_requests)
            loads.setdefault(load, []).append(one)
    drawn = [_figure(found, load, f"limit{index}") for index, (load, found) in enumerate(loads.items())]
    blocks += [figures for figures in drawn if figures]
    blocks.append(Table("Speed held against the physical limit", HEADS, [Group([_row(one) for one in cells])]))
    note = "A decode step reads all weights that it needs once, and the keys and values of every request; a prefill "
    note += "multiplies every prompt token with them. Bytes over bandwidth and multiplications over peak: the longer "
    note += "time is the least there can be, and everything above 100 % would be a mistake. "
    if any(one.cell.request_rate_per_s is not None for one in cells):
        note += "In an open loop the limit is that of a request that has the device to itself. "
    if any(cell.status == "emulated" for record in records for cell in record.cells):
        note += "Emulated cells have no limit: they move expanded weights."
    blocks.append(Text(note.strip(), "small"))
    return Section("limits", "Physical limit", blocks)
