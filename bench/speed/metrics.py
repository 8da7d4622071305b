"""Definitions of the speed figures, computed from the raw arrival times of :mod:`bench.records.record`.

A cell's figure is the median over its trials, with a bootstrap interval. A trial's figure is the median over its
requests, except for the rates of a complete wave. An undefined figure is None, never 0.

Latencies count from just before a request was sent (t0). In an open loop they count from when the request was due,
which may be earlier, because a request that the client could not send in time has waited too.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.record import Objective, RequestTrace, SpeedCell, Trial
from quantize.key import Frozen

NS_PER_S = 1e9
RESAMPLES = 2000
CONFIDENCE = 0.95
"""Of the bootstrap: 1,000 to 2,000 resamples are usual for the ends of an interval (Efron and Tibshirani 1993)."""
FEWEST_P90, FEWEST_P99 = 20, 200
"""Fewest values for a percentile: two lie beyond it, on average."""


class Interval(Frozen):
    """A median over trials and its percentile-bootstrap interval, in the unit of the figure."""

    median: float
    low: float
    """2.5 % of the resampled medians are below."""
    high: float
    """97.5 % of the resampled medians are below."""
    n: int
    """Number of trials. With one trial there is no spread: ``low`` and ``high`` are the value itself."""


class Percentiles(Frozen):
    """Percentiles over the pooled requests (or gaps) of all trials, in the unit of the figure."""

    p50: float
    p90: float | None
    """None with fewer than 20 values."""
    p99: float | None
    """None with fewer than 200 values."""
    n: int


class CellSummary(Frozen):
    """The figures of one cell. A figure that is undefined for every trial is None.

    For a cell whose open loop exceeded the server's capacity only the output rate and memory are defined: its latencies
    would depend on the length of the trial and not on the speed of the server.
    """

    n_trials: int
    ttft_s: Interval | None
    tpot_s: Interval | None
    decode_tokens_per_s: Interval | None
    prefill_tokens_per_s: Interval | None
    qwen_speed_tokens_per_s: Interval | None
    output_tokens_per_s: Interval | None
    e2e_s: Interval | None
    batch_prefill_tokens_per_s: Interval | None
    """None unless all requests of a trial were sent together."""
    requests_per_s: Interval | None
    goodput_requests_per_s: Interval | None
    """None without an objective."""
    good_share: Interval | None
    """None without an objective."""
    ttft_percentiles_s: Percentiles | None
    tpot_percentiles_s: Percentiles | None
    e2e_percentiles_s: Percentiles | None
    itl_percentiles_s: Percentiles | None
    peak_memory_bytes: int | None
    """Highest memory of the server in any trial."""


def _wait_s(trace: RequestTrace) -> float:
    """Return how long before t0 the latencies of a request start, in seconds."""
    return 0.0 if trace.scheduled_ns is None else (trace.start_ns - trace.scheduled_ns) / NS_PER_S


def ttft_s(trace: RequestTrace) -> float | None:
    """Return the time to first token in seconds, counted from t0, or in an open loop from when the request was due."""
    return _wait_s(trace) + trace.event_ns[0] / NS_PER_S if trace.event_ns else None


def e2e_s(trace: RequestTrace) -> float | None:
    """Return the time to last token in seconds, counted from t0, or in an open loop from when the request was due."""
    return _wait_s(trace) + trace.event_ns[-1] / NS_PER_S if trace.event_ns else None


def tpot_s(trace: RequestTrace) -> float | None:
    """Return the time per output token after the first, in seconds.

    (last token − first token) / (tokens − tokens that arrived with the first one); undefined if none arrived later.
    Tokens arrive together if they share an event, or if their events were read together and so have the same time.
    """
    if not trace.event_ns:
        return None
    first, last = trace.event_ns[0], trace.event_ns[-1]
    later = sum(n for at, n in zip(trace.event_ns, trace.event_tokens, strict=True) if at > first)
    return (last - first) / later / NS_PER_S if later else None


def itl_s(trace: RequestTrace) -> list[float]:
    """Return the inter-token latencies in seconds: the gaps between arrivals of one or more tokens."""
    return [(later - earlier) / NS_PER_S for earlier, later in pairwise(trace.event_ns) if later > earlier]


def decode_tokens_per_s(trace: RequestTrace) -> float | None:
    """Return the decode speed of one request in tokens per second: 1 / TPOT."""
    tpot = tpot_s(trace)
    return None if tpot is None else 1 / tpot


def prefill_tokens_per_s(trace: RequestTrace) -> float | None:
    """Return the prefill speed in tokens per second: prompt tokens / TTFT."""
    ttft = ttft_s(trace)
    return None if ttft is None or trace.prompt_tokens is None else trace.prompt_tokens / ttft


def qwen_speed_tokens_per_s(trace: RequestTrace) -> float | None:
    """Return (prompt + generated tokens) / end-to-end time, in tokens per second.

    This is the figure of Qwen's published speed tables. It rises with the prompt's length because it counts the prompt,
    so it is never shown alone.
    """
    e2e = e2e_s(trace)
    if e2e is None or trace.prompt_tokens is None:
        return None
    return (trace.prompt_tokens + sum(trace.event_tokens)) / e2e


def _duration_s(trial: Trial) -> float | None:
    """Return the time from a wave's first t0 to its last token in seconds; None if no token arrived."""
    traces = [trace for trace in trial.requests if trace.event_ns]
    if not traces:
        return None
    begin_ns = min(trace.start_ns for trace in trial.requests)
    end_ns = max(trace.start_ns + trace.event_ns[-1] for trace in traces)
    return (end_ns - begin_ns) / NS_PER_S


def output_tokens_per_s(trial: Trial) -> float | None:
    """Return the output rate of a wave: tokens of all requests / time from first t0 to last token."""
    duration_s = _duration_s(trial)
    return None if duration_s is None else sum(sum(trace.event_tokens) for trace in trial.requests) / duration_s


def requests_per_s(trial: Trial) -> float | None:
    """Return the number of requests answered per second, from first t0 to last token."""
    duration_s = _duration_s(trial)
    return None if duration_s is None else sum(trace.error is None for trace in trial.requests) / duration_s


def batch_prefill_tokens_per_s(trial: Trial) -> float | None:
    """Return the prefill speed of requests sent together: all prompt tokens / time from first t0 to last first token.

    Prompts wait for each other, so prompt tokens / TTFT of one request says little about a batch.
    """
    prompts = [trace.prompt_tokens for trace in trial.requests if trace.prompt_tokens is not None and trace.event_ns]
    if len(prompts) < len(trial.requests) or not prompts:
        return None
    begin_ns = min(trace.start_ns for trace in trial.requests)
    last_ns = max(trace.start_ns + trace.event_ns[0] for trace in trial.requests)
    return sum(prompts) / (last_ns - begin_ns) * NS_PER_S


def is_good(trace: RequestTrace, objective: Objective) -> bool:
    """Return whether a request met the objective: answered, with TTFT and, where it is defined, TPOT within it."""
    ttft, tpot = ttft_s(trace), tpot_s(trace)
    in_time = ttft is not None and ttft <= objective.ttft_s and (tpot is None or tpot <= objective.tpot_s)
    return trace.error is None and in_time


def good_share(trial: Trial, objective: Objective) -> float | None:
    """Return the share of a trial's requests that met the objective, 0 to 1."""
    if not trial.requests:
        return None
    return sum(is_good(trace, objective) for trace in trial.requests) / len(trial.requests)


def goodput_requests_per_s(trial: Trial, objective: Objective) -> float | None:
    """Return the requests per second that met the objective (goodput; DistServe, https://arxiv.org/abs/2401.09670)."""
    rate, share = requests_per_s(trial), good_share(trial, objective)
    return None if rate is None or share is None else rate * share


def is_saturated(cell: SpeedCell) -> bool:
    """Return whether the load exceeded the server's capacity in any of its trials."""
    return any(trial.saturated is not None for trial in cell.trials)


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles for which there are enough ``values``; None without values."""
    if not values:
        return None
    p50, p90, p99 = np.quantile(np.array(values), (0.5, 0.9, 0.99)).tolist()
    n = len(values)
    return Percentiles(p50=p50, p90=p90 if n >= FEWEST_P90 else None, p99=p99 if n >= FEWEST_P99 else None, n=n)


def busy_ns(cell: SpeedCell) -> int:
    """Return the time in which requests of a cell were in flight or scheduled, including the warm-up."""
    return cell.warmup_ns + sum(wave_ns(trial) for trial in cell.trials)


def wave_ns(trial: Trial) -> int:
    """Return the time from a wave's beginning to the end of its last stream."""
    return max((trace.start_ns + trace.end_ns for trace in trial.requests), default=0)


def overhead(cells: Sequence[SpeedCell], *, wall_s: float | None = None) -> float | None:
    """Return the share of a sweep's time that was spent neither on requests nor on warm-up, 0 to 1.

    Args:
        cells: all cells of one record, including those of its control.
        wall_s: duration of the complete sweep, such as ``stage_durations_s["speed"]``; None for the sum over its cells.
    """
    total_ns = sum(cell.wall_ns for cell in cells) if wall_s is None else wall_s * NS_PER_S
    return 1 - sum(map(busy_ns, cells)) / total_ns if total_ns else None


@cache
def _resamples(n: int) -> NDArray[Any]:
    """Return RESAMPLES rows of n random indices below n, the same in every call."""
    return np.random.default_rng(0).integers(n, size=(RESAMPLES, n))


def bootstrap_median(values: Iterable[float | None]) -> Interval | None:
    """Return the median of the defined values and its interval; None if there are none."""
    sample = np.array([value for value in values if value is not None])
    if not sample.size:
        return None
    medians = np.median(sample[_resamples(sample.size)], axis=1)
    tail = (1 - CONFIDENCE) / 2
    # This method returns resampled medians themselves, so that the interval scales exactly like the values.
    low, high = np.quantile(medians, (tail, 1 - tail), method="inverted_cdf")
    return Interval(median=float(np.median(sample)), low=float(low), high=float(high), n=sample.size)


def typical(trial: Trial, figure: Callable[[RequestTrace], float | None]) -> float | None:
    """Return the median of a figure over a trial's requests."""
    sample = [value for trace in trial.requests if (value := figure(trace)) is not None]
    return float(np.median(sample)) if sample else None


_summaries: dict[int, tuple[weakref.ref[SpeedCell], CellSummary]] = {}
"""Summaries by the id of a live cell, because comparing or hashing a cell's thousands of times would take longer."""


def summarize(cell: SpeedCell) -> CellSummary:
    """Return the figures of a cell's trials, computed once for each cell.

    Whatever the cell's status: :mod:`bench.speed.figures` alone calls this, and decides what a figure may be used for.

    A trial of several requests counts with the median over its requests; only rates are sums over all of them.
    """
    place = id(cell)
    cached = _summaries.get(place)
    if cached is None or cached[0]() is not cell:
        cached = (weakref.ref(cell, lambda _: _summaries.pop(place, None)), _summarize(cell))
        _summaries[place] = cached
    return cached[1]


def _summarize(cell: SpeedCell) -> CellSummary:
    steady = () if is_saturated(cell) else cell.trials
    requests = [trace for trial in steady for trace in trial.requests]
    together = cell.request_rate_per_s is None and cell.n_requests == cell.concurrency
    objective = cell.objective

    def over_trials(figure: Callable[[RequestTrace], float | None]) -> Interval | None:
        return bootstrap_median(typical(trial, figure) for trial in steady)

    def pooled(figure: Callable[[RequestTrace], float | None]) -> Percentiles | None:
        return percentiles([value for trace in requests if (value := figure(trace)) is not None])

    return CellSummary(
        n_trials=len(cell.trials),
        ttft_s=over_trials(ttft_s),
        tpot_s=over_trials(tpot_s),
        decode_tokens_per_s=over_trials(decode_tokens_per_s),
        prefill_tokens_per_s=over_trials(prefill_tokens_per_s),
        qwen_speed_tokens_per_s=over_trials(qwen_speed_tokens_per_s),
        output_tokens_per_s=bootstrap_median(map(output_tokens_per_s, cell.trials)),
        e2e_s=over_trials(e2e_s),
        batch_prefill_tokens_per_s=bootstrap_median(map(batch_prefill_tokens_per_s, steady)) if together else None,
        requests_per_s=bootstrap_median(map(requests_per_s, steady)),
        goodput_requests_per_s=bootstrap_median(goodput_requests_per_s(trial, objective) for trial in steady)
        if objective
        else None,
        good_share=bootstrap_median(good_share(trial, objective) for trial in steady) if objective else None,
        ttft_percentiles_s=pooled(ttft_s),
        tpot_percentiles_s=pooled(tpot_s),
        e2e_percentiles_s=pooled(e2e_s),
        itl_percentiles_s=percentiles([gap for trace in requests for gap in itl_s(trace)]),
        peak_memory_bytes=max(
            (trial.peak_memory_bytes for trial in cell.trials if trial.peak_memory_bytes is not None), default=None
        ),
    )
