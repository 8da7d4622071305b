"""The shapes of a sweep: what the requests of one cell look like and how they are sent."""

from bench.records.record import Objective, SpeedCell
from quantize.key import Frozen


class Shape(Frozen):
    """What the requests of one cell look like; its fields are those of a `SpeedCell`. Lengths are tokens."""

    input_len: int
    output_len: int
    concurrency: int
    """Requests that are under way at once; in an open loop, the most that may be before it is stopped."""
    request_rate_per_s: float | None = None
    """Requests per second of an open loop; None for a closed one."""
    n_requests: int
    """Requests of one trial. As many as ``concurrency``: all are sent together."""
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
    """Return the shape whose ``concurrency`` slots each send ``per_slot`` requests, one after the other."""
    return Shape(
        input_len=input_len,
        output_len=output_len,
        concurrency=concurrency,
        n_requests=concurrency * per_slot,
        objective=objective,
    )


def shape_of(cell: SpeedCell) -> Shape:
    """Return the shape that a cell is of."""
    return Shape(**{name: getattr(cell, name) for name in Shape.model_fields})
