"""Find the load at which a server is best run: the highest throughput over latency. Pure functions.

Throughput rises with the load until the server is full; latency rises ever faster. Their ratio, the *power*, is
highest at the knee (L. Kleinrock, "Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer
Communications", ICC 1979): a little more load would cost more latency, in relation, than it brings throughput. Of
an M/M/1 queue that is half of what it can take.
"""

from collections.abc import Iterable, Sequence

from bench.records.record import Objective, SpeedCell
from bench.speed.figures import MeasuredCell
from quantize.key import Frozen

FEWEST_LOADS = 3
"""With fewer no load has another on both sides."""


class LoadPoint(Frozen):
    """One load and its results."""

    load: float
    """In the unit of the series: requests at once of a closed loop, requests per second of an open one."""
    throughput_tokens_per_s: float
    """Output rate."""
    latency_s: float | None
    """Median end-to-end time; None if the server was saturated."""
    goodput_requests_per_s: float | None = None
    """None without an objective, or if the server was saturated."""

    @property
    def power(self) -> float | None:
        """Throughput over latency, tokens per second squared; only its place matters, never its value."""
        return None if self.latency_s is None else self.throughput_tokens_per_s / self.latency_s


class Knee(Frozen):
    """The load with the highest power of a series."""

    point: LoadPoint
    bracketed: bool
    """Whether a lower and a higher load were measured; if not, the true knee may be beyond the measured loads."""


class LoadSeries(Frozen):
    """The fields that the loads of one series have in common."""

    input_len: int
    output_len: int
    open_loop: bool
    requests_per_slot: int
    """Of a closed loop; 0 for an open one."""
    objective: Objective | None


def series_of(cell: SpeedCell) -> LoadSeries:
    """Return the series that a cell belongs to."""
    opened = cell.request_rate_per_s is not None
    return LoadSeries(
        input_len=cell.input_len,
        output_len=cell.output_len,
        open_loop=opened,
        requests_per_slot=0 if opened else cell.n_requests // cell.concurrency,
        objective=cell.objective,
    )


def load_of(cell: SpeedCell) -> float:
    """Return a cell's place in its series: its request rate, or its concurrency."""
    return float(cell.concurrency) if cell.request_rate_per_s is None else cell.request_rate_per_s


def load_points(cells: Iterable[MeasuredCell]) -> tuple[LoadPoint, ...]:
    """Return the points of cells of one series, lowest load first; those without an output rate are left out."""
    points = [
        LoadPoint(
            load=load_of(measured.cell),
            throughput_tokens_per_s=summary.output_tokens_per_s.median,
            latency_s=summary.e2e_s.median if summary.e2e_s else None,
            goodput_requests_per_s=summary.goodput_requests_per_s.median if summary.goodput_requests_per_s else None,
        )
        for measured in cells
        if (summary := measured.summary).output_tokens_per_s
    ]
    return tuple(sorted(points, key=lambda point: point.load))


def knee(points: Sequence[LoadPoint]) -> Knee | None:
    """Return the load with the highest power, the lowest of several; None with fewer than three loads.

    Args:
        points: of one series, with different loads. A saturated one has no power, but bounds the knee from above.
    """
    loads = sorted(point.load for point in points)
    stable = [(point.power, -point.load, point) for point in points if point.power is not None]
    if len(loads) < FEWEST_LOADS or not stable:
        return None
    best = max(stable, key=lambda entry: entry[:2])[2]
    return Knee(point=best, bracketed=loads[0] < best.load < loads[-1])


def best_goodput(points: Sequence[LoadPoint]) -> LoadPoint | None:
    """Return the load with the highest goodput, the lowest of several; None if no request met the objective."""
    rated = [(point.goodput_requests_per_s, -point.load, point) for point in points if point.goodput_requests_per_s]
    return max(rated, key=lambda entry: entry[:2])[2] if rated else None
