"""What the figures mean: each is defined once, here, from the raw arrival times of :mod:`bench.record`.

A cell's figure is the median over its trials, with a bootstrap interval. A trial's figure is the median over its
requests, except for the output rate, which is of the whole wave. None stands for "not defined", never 0.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.record import RequestTrace, SpeedCell, Trial
from quantize.key import Frozen

NS_PER_S = 1e9
RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(Frozen):
    """A median over trials and the percentile-bootstrap interval of that median."""

    median: float
    low: float
    """2.5 % of the resampled medians lie below."""
    high: float
    """97.5 % of them lie below."""
    n: int
    """Trials it rests on. With one there is no spread to see: ``low`` and ``high`` are the value itself."""


class CellSummary(Frozen):
    """The figures of one cell. One that is not defined for any trial is None."""

    n_trials: int
    ttft_s: Interval | None
    tpot_s: Interval | None
    decode_tokens_per_s: Interval | None
    prefill_tokens_per_s: Interval | None
    qwen_speed_tokens_per_s: Interval | None
    output_tokens_per_s: Interval | None
    e2e_s: Interval | None
    peak_memory_bytes: int | None
    """Highest resident memory of the server in any trial."""


def ttft_s(trace: RequestTrace) -> float | None:
    """Return the time to first token in seconds: first token − t0."""
    return trace.event_ns[0] / NS_PER_S if trace.event_ns else None


def e2e_s(trace: RequestTrace) -> float | None:
    """Return the end-to-end time in seconds: last token − t0."""
    return trace.event_ns[-1] / NS_PER_S if trace.event_ns else None


def tpot_s(trace: RequestTrace) -> float | None:
    """Return the time per output token after the first, in seconds.

    (last token − first token) / (tokens − tokens that came with the first one); not defined if none came later.
    Tokens come together if they share an event, or if their events were read together and so have one time.
    """
    if not trace.event_ns:
        return None
    first, last = trace.event_ns[0], trace.event_ns[-1]
    later = sum(n for at, n in zip(trace.event_ns, trace.event_tokens, strict=True) if at > first)
    return (last - first) / later / NS_PER_S if later else None


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

    The figure of Qwen's published speed tables. It rises with the prompt's length because it counts the prompt, so
    it is never shown alone.
    """
    e2e = e2e_s(trace)
    if e2e is None or trace.prompt_tokens is None:
        return None
    return (trace.prompt_tokens + sum(trace.event_tokens)) / e2e


def output_tokens_per_s(trial: Trial) -> float | None:
    """Return the output rate of a wave: tokens of all its requests / time from first t0 to last token."""
    answered = [trace for trace in trial.requests if trace.event_ns]
    if not answered:
        return None
    begin = min(trace.start_ns for trace in answered)
    end = max(trace.start_ns + trace.event_ns[-1] for trace in answered)
    return sum(sum(trace.event_tokens) for trace in answered) / (end - begin) * NS_PER_S


@cache
def _resamples(n: int) -> NDArray[Any]:
    """Return RESAMPLES rows of n indices below n; the same ones every time."""
    return np.random.default_rng(0).integers(n, size=(RESAMPLES, n))


def bootstrap_median(values: Iterable[float | None]) -> Interval | None:
    """Return the median of the values that are defined and its interval; None if none is."""
    known = np.array([value for value in values if value is not None])
    if not known.size:
        return None
    medians = np.median(known[_resamples(known.size)], axis=1)
    tail = (1 - CONFIDENCE) / 2
    # Quantiles that are resampled medians themselves: the interval scales exactly as the values do.
    low, high = np.quantile(medians, (tail, 1 - tail), method="inverted_cdf")
    return Interval(median=float(np.median(known)), low=float(low), high=float(high), n=known.size)


def _typical(trial: Trial, figure: Callable[[RequestTrace], float | None]) -> float | None:
    """Return the median of a figure over a trial's requests."""
    known = [value for trace in trial.requests if (value := figure(trace)) is not None]
    return float(np.median(known)) if known else None


def summarize(cell: SpeedCell) -> CellSummary | None:
    """Return a cell's figures; None unless its status is ``ok`` or ``emulated``.

    With several requests at once, a trial counts with the median over its requests; only the output rate is of all
    of them together.
    """
    if cell.status not in ("ok", "emulated"):
        return None

    def over_trials(figure: Callable[[RequestTrace], float | None]) -> Interval | None:
        return bootstrap_median(_typical(trial, figure) for trial in cell.trials)

    return CellSummary(
        n_trials=len(cell.trials),
        ttft_s=over_trials(ttft_s),
        tpot_s=over_trials(tpot_s),
        decode_tokens_per_s=over_trials(decode_tokens_per_s),
        prefill_tokens_per_s=over_trials(prefill_tokens_per_s),
        qwen_speed_tokens_per_s=over_trials(qwen_speed_tokens_per_s),
        output_tokens_per_s=bootstrap_median(map(output_tokens_per_s, cell.trials)),
        e2e_s=over_trials(e2e_s),
        peak_memory_bytes=max(
            (trial.peak_memory_bytes for trial in cell.trials if trial.peak_memory_bytes is not None), default=None
        ),
    )
