"""The physical limit of the device, and how close the measured speed comes to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.limits.measured import Share, against, limit_of
from bench.limits.roofline import Limit
from bench.messages.message import Words, msg, sentences
from bench.records.record import Device, RunRecord, SpeedCell
from bench.report.cells import BOUND
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
from bench.report.recorded import recorded
from bench.report.shapes import load_words
from bench.report.units import BYTES, OF_ONE, TOKENS
from bench.report.view import Run, runs
from bench.speed.figures import MeasuredCell
from bench.speed.metrics import CellSummary
from bench.speed.shapes import shape_of

ORDER = 22

Load = tuple[str, int, int, int]
"""Model, output length, concurrency and requests of a trial of a closed loop."""
HEADS = (
    Head(msg("head.variant")),
    Head(msg("head.input"), TOKENS, numeric=True),
    Head(msg("head.load"), msg("limits.load.help")),
    Head(msg("limits.weights"), msg("limits.weights.help"), numeric=True),
    Head(msg("limits.kv"), msg("limits.kv.help"), numeric=True),
    Head(msg("limits.least_tpot"), msg("limits.least.help"), numeric=True),
    Head(msg("head.tpot"), msg("limits.measured.help"), numeric=True),
    Head(msg("head.mbu"), msg("head.mbu.help"), numeric=True),
    Head(msg("limits.least_ttft"), msg("limits.least.help"), numeric=True),
    Head(msg("head.ttft"), msg("limits.measured.help"), numeric=True),
    Head(msg("limits.mfu"), msg("limits.mfu.help"), numeric=True),
    Head(msg("head.bound_by"), msg("limits.bound_by.help")),
)


@dataclass(frozen=True)
class _Measurement:
    """A measured cell and its limit."""

    run: Run
    measured: MeasuredCell
    limit: Limit

    @property
    def cell(self) -> SpeedCell:
        return self.measured.cell

    @property
    def summary(self) -> CellSummary:
        return self.measured.summary

    @property
    def share(self) -> Share:
        return against(self.limit, self.measured)


def _measurements(everything: Sequence[Run]) -> list[_Measurement]:
    measurements = []
    for run in everything:
        for cell in run.measured():
            limit = limit_of(run.record, cell)
            if limit is not None:
                measurements.append(_Measurement(run, cell, limit))
    return measurements


def _device(device: Device, devices: int) -> Terms:
    peaks = ", ".join(f"{kind} {fmt.significant(peak / 1e12)}" for kind, peak in device.flops_per_s.items())
    bandwidth: list[Words] = [msg("limits.per_second", size=fmt.size(device.bandwidth_bytes_per_s))]
    if device.bandwidth_by_size:
        fastest = max(speed for _, speed in device.bandwidth_by_size)
        bandwidth.append(msg("limits.in_caches", size=fmt.size(fastest)))
    name = device.name if devices == 1 else f"{devices} × {device.name}"
    return Terms(
        [
            Term(msg("head.device"), (name,)),
            Term(msg("limits.bandwidth"), tuple(bandwidth)),
            Term(msg("limits.peak"), (peaks,)),
            Term(msg("limits.memory"), (fmt.size(device.memory_bytes),)),
            Term(msg("limits.source"), (recorded(device.source),)),
        ]
    )


def _figure(measurements: Sequence[_Measurement], load: Load, name: str) -> Figures | None:
    """Return measured decode speed and its roof over input length for one load; None if nothing was decoded."""
    series: list[Series] = []
    legend: list[tuple[Mark, Words]] = []
    for run in dict.fromkeys(measurement.run.label for measurement in measurements):
        own = [
            measurement
            for measurement in measurements
            if measurement.run.label == run and measurement.summary.decode_tokens_per_s is not None
        ]
        if not own:
            continue
        mark = own[0].run.mark
        speeds = [(measurement.cell.input_len, measurement.summary.decode_tokens_per_s) for measurement in own]
        measured = tuple(Point(at, speed.median, speed.low, speed.high) for at, speed in speeds if speed)
        roofs = [(measurement.cell.input_len, measurement.limit.roof_tokens_per_s) for measurement in own]
        roof = tuple(Point(at, speed, speed, speed, hollow=True) for at, speed in roofs)
        series += [Series(run, mark, measured), Series(run, Mark(mark.colour, ""), roof)]
        legend.append((mark, run))
    if not series:
        return None
    model, output_len, concurrency, _ = load
    at_once = msg("load.at_once", requests=str(concurrency))
    caption = msg("limits.figure", where=msg("speed.load", model=model, n=output_len, load=at_once))
    ylabel = msg("plot.tokens_per_second")
    svg = by_length(series, name=name, description=caption, ylabel=ylabel, show=fmt.significant, log=True)
    return Figures([Figure(svg, caption)], legend)


def _row(measurement: _Measurement) -> list[Cell]:
    limit, share, traffic = measurement.limit, measurement.share, measurement.limit.traffic
    ttft, tpot = measurement.summary.ttft_s, measurement.summary.tpot_s
    return [
        measurement.run.heading,
        number(measurement.cell.input_len, lambda value: fmt.count(round(value)), TOKENS),
        Cell(load_words(shape_of(measurement.cell))),
        number(traffic.linear_bytes + traffic.rest_bytes, fmt.size, BYTES),
        number(traffic.kv_bytes, fmt.size, BYTES),
        number(limit.roof_tpot_s, fmt.seconds, "s"),
        number(tpot.median if tpot else None, fmt.seconds, "s"),
        number(share.mbu, fmt.small_percent, OF_ONE),
        number(limit.roof_ttft_s, fmt.seconds, "s"),
        number(ttft.median if ttft else None, fmt.seconds, "s"),
        number(share.mfu, fmt.small_percent, OF_ONE),
        Cell(BOUND[limit.decode.by], (msg("bound.prefill", by=BOUND[limit.prefill.by]),)),
    ]


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section on the physical limit; None if no cell has one."""
    measurements = _measurements(runs(records))
    if not measurements:
        return None
    blocks: list[Block] = []
    devices = list(
        dict.fromkeys(
            (measurement.limit.device.model_dump_json(), measurement.limit.devices) for measurement in measurements
        )
    )
    for json, number_of in devices:
        if len(devices) > 1:
            on_it = dict.fromkeys(
                measurement.run.label
                for measurement in measurements
                if measurement.limit.device.model_dump_json() == json
            )
            blocks.append(Heading(msg("limits.device_of", runs=", ".join(on_it))))
        blocks.append(_device(Device.model_validate_json(json), number_of))
    loads: dict[Load, list[_Measurement]] = {}
    for measurement in measurements:
        if measurement.cell.request_rate_per_s is None:
            cell = measurement.cell
            load = (measurement.run.record.variant.model, cell.output_len, cell.concurrency, cell.n_requests)
            loads.setdefault(load, []).append(measurement)
    figures_of_load = [_figure(of_load, load, f"limit{index}") for index, (load, of_load) in enumerate(loads.items())]
    blocks += [figures for figures in figures_of_load if figures]
    blocks.append(Table(msg("limits.caption"), HEADS, [Group([_row(measurement) for measurement in measurements])]))
    how = [msg("limits.how")]
    if any(measurement.cell.request_rate_per_s is not None for measurement in measurements):
        how.append(msg("limits.how.open_loop"))
    if any(cell.status == "emulated" for record in records for cell in record.cells):
        how.append(msg("limits.how.emulated"))
    blocks.append(Text(sentences(how), "small"))
    return Section("limits", msg("limits.title"), blocks)
