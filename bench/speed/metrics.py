"""What a speed cell's raw times say. Pure; each measure is defined once, in the function of its name."""

import random
from collections.abc import Callable, Sequence
from statistics import median

from bench.record import RequestTrace, SpeedCell, Trial
from quantize.key import Frozen

RESAMPLES = 2000
NS_PER_S = 1e9


class Interval(Frozen):
    """Median over trials, with a 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float
    n: int


class CellSummary(Frozen):
    """A cell's measures over its trials; None where a measure is undefined."""

    n_trials: int
    ttft_s: Interval | None
    tpot_s: Interval | None
    decode_tokens_per_s: Interval | None
    prefill_tokens_per_s: Interval | None
    qwen_speed_tokens_per_s: Interval | None
    output_tokens_per_s: Interval | None
    e2e_s: Interval | None
    peak_memory_bytes: int | None


def ttft_s(trace: RequestTrace) -> float | None:
    """Return the time to first token: its arrival after the request's first byte was about to be sent, seconds."""
    return trace.event_ns[0] / NS_PER_S if trace.event_ns else None


def e2e_s(trace: RequestTrace) -> float | None:
    """Return the end-to-end time: arrival of the last token, seconds."""
    return trace.event_ns[-1] / NS_PER_S if trace.event_ns else None


def tpot_s(trace: RequestTrace) -> float | None:
    """Return the time per output token: (last - first arrival) / tokens that came after the first event, seconds.

    None where no token came after the first event, as with a single token: undefined, not zero.
    """
    later = sum(trace.event_tokens[1:])
    return (trace.event_ns[-1] - trace.event_ns[0]) / later / NS_PER_S if later else None


def decode_tokens_per_s(trace: RequestTrace) -> float | None:
    """Return the decode speed, 1 / TPOT, tokens per second."""
    tpot = tpot_s(trace)
    return 1 / tpot if tpot else None


def prefill_tokens_per_s(trace: RequestTrace) -> float | None:
    """Return the prefill speed: prompt tokens / TTFT, tokens per second."""
    ttft = ttft_s(trace)
    return trace.prompt_tokens / ttft if ttft and trace.prompt_tokens is not None else None


def qwen_speed_tokens_per_s(trace: RequestTrace) -> float | None:
    """Return the speed that Qwen publishes: (prompt + generated tokens) / end-to-end time, tokens per second.

    It counts the prompt, so it rises with the prompt's length; never to be read alone.
    """
    e2e = e2e_s(trace)
    return (trace.prompt_tokens + sum(trace.event_tokens)) / e2e if e2e and trace.prompt_tokens is not None else None


def output_tokens_per_s(trial: Trial) -> float | None:
    """Return all generated tokens of a wave / the time from its first request to its last token, tokens per second."""
    ends = [trace.start_ns + trace.event_ns[-1] for trace in trial.requests if trace.event_ns]
    if not ends:
        return None
    begin = min(trace.start_ns for trace in trial.requests)
    return sum(sum(trace.event_tokens) for trace in trial.requests) / ((max(ends) - begin) / NS_PER_S)


def bootstrap_median(values: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the median of ``values`` with a 95 % percentile bootstrap interval. Deterministic.

    With few values the interval is little more than their range; it says so by being wide.
    """
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(resamples))
    low, high = medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]
    return Interval(median=median(values), low=low, high=high, n=len(values))


def _over_trials(trials: Sequence[Trial], measure: Callable[[RequestTrace], float | None]) -> Interval | None:
    """Return the interval over trials of a per-request measure; a trial's value is the median over its requests."""
    values: list[float] = []
    for trial in trials:
        found = [value for value in map(measure, trial.requests) if value is not None]
        if found:
            values.append(median(found))
    return bootstrap_median(values) if values else None


def summarize(cell: SpeedCell) -> CellSummary | None:
    """Return a cell's measures; None unless its status is ``ok`` or ``emulated``: other cells carry no figures.

    With concurrency above 1 a trial's value is the median over its requests; ``output_tokens_per_s`` is the wave's.
    """
    if cell.status not in ("ok", "emulated"):
        return None
    waves = [value for value in map(output_tokens_per_s, cell.trials) if value is not None]
    peaks = [trial.peak_memory_bytes for trial in cell.trials if trial.peak_memory_bytes is not None]
    return CellSummary(
        n_trials=len(cell.trials),
        ttft_s=_over_trials(cell.trials, ttft_s),
        tpot_s=_over_trials(cell.trials, tpot_s),
        decode_tokens_per_s=_over_trials(cell.trials, decode_tokens_per_s),
        prefill_tokens_per_s=_over_trials(cell.trials, prefill_tokens_per_s),
        qwen_speed_tokens_per_s=_over_trials(cell.trials, qwen_speed_tokens_per_s),
        output_tokens_per_s=bootstrap_median(waves) if waves else None,
        e2e_s=_over_trials(cell.trials, e2e_s),
        peak_memory_bytes=max(peaks, default=None),
    )
