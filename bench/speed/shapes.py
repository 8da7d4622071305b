"""The shapes of a sweep: the lengths of a cell's requests and how they are sent."""

from bench.records.record import Objective, SpeedCell
from quantize.key import Frozen


class Shape(Frozen):
    """The requests of one cell; its fields are also fields of `SpeedCell`. Lengths are in tokens."""

    input_len: int
    output_len: int
    concurrency: int
    """Requests in flight at once; in an open loop, the number at which it is stopped."""
    request_rate_per_s: float | None = None
    """Requests per second of an open loop; None for a closed one."""
    n_requests: int
    """Requests of one trial. If it equals ``concurrency``, all are sent together."""
    objective: Objective | None = None

    @property
    def load(self) -> str:
        """The load in a few words, e.g. ``4 at once`` or ``2.5 requests/s``."""
        if self.request_rate_per_s is not None:
            return f"{self.request_rate_per_s:g} requests/s"
        return f"{self.concurrency} at once"


def closed_loop(
    input_len: int, output_len: int, concurrency: int, *, per_slot: int = 1, objective: Objective | None = None
) -> Shape:
    """Return the shape in which each of ``concurrency`` slots sends ``per_slot`` requests in sequence."""
    return Shape(
        input_len=input_len,
        output_len=output_len,
        concurrency=concurrency,
        n_requests=concurrency * per_slot,
        objective=objective,
    )


def shape_of(cell: SpeedCell) -> Shape:
    """Return the shape of a cell."""
    return Shape(
        input_len=cell.input_len,
        output_len=cell.output_len,
        concurrency=cell.concurrency,
        request_rate_per_s=cell.request_rate_per_s,
        n_requests=cell.n_requests,
        objective=cell.objective,
    )
