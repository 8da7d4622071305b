"""Decide whether trials are valid: compare requests with the server's reports and the client's observations.

The machine is checked too: an accelerator that was throttled, or a client without a core of its own, also makes a cell
``invalid``. Anything that only reduces confidence in a figure is a warning, such as ``client_bound`` for a client that
could have distorted it by more than the limit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.format import rough_percent as percent
from bench.records.record import ClientLoad, DeviceState, RequestTrace, Status, Trial
from bench.speed.metrics import NS_PER_S, e2e_s, output_tokens_per_s, tpot_s, ttft_s, typical

EMULATED = (
    "the engine computed with the weights expanded to 16 bits, not on quantized kernels, so these times say nothing "
    "about the variant's speed"
)
CLIENT_BOUND = "client_bound: "
"""Prefix of reasons and warnings that concern the measuring client."""
LEAVE_A_CORE = "leave the client a core of its own, or run it on another machine"

SLOWED = ("HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "SwThermalSlowdown")
"""NVML's names for an accelerator that overheats or gets too little power, so that it is slower than a healthy one."""
CAPPED = ("SwPowerCap",)
"""NVML's name for running at the power limit, which large batches do on healthy accelerators too."""
CLOCK_FALL = 0.05
"""Share by which a clock may fall during a trial. Chosen: less changes no figure by more than trials differ."""

TIMER_NS = 1_000_000
"""Resolution of an event loop's timers, by which a measured lag may be too long."""
TTFT_ERROR_NS = 5_000_000
TTFT_ERROR = 0.05
TPOT_ERROR = 0.01
"""Largest errors that a busy client may cause in TTFT (5 ms or 5 %) and TPOT (1 %); the client's tests ensure them."""
CPU_SHARE = 0.9
"""Share of a core above which the client had no core to itself. Chosen: every wake-up may then have been delayed."""

SPREAD = 0.1
"""Standard deviation over mean of the trials above which pyperf calls them unstable (https://pyperf.readthedocs.io)."""
OUTLIER = 3.5
"""Modified z-score of an outlier (Iglewicz and Hoaglin, "How to detect and handle outliers", 1993)."""
OUTLIER_SHARE = 0.05
"""Least distance of an outlier from the median, because equal trials have a deviation near zero. Chosen."""
DRIFT = 1.5
"""Median time of the last third of an open loop's requests over that of the first. Chosen: medians of ten differ
less by chance."""
DRIFT_REQUESTS = 30
"""Fewest requests for a check of drift: ten in each third."""
NS_PER_MS = 1e6


@dataclass(frozen=True)
class Validity:
    """Whether a cell's trials are valid."""

    status: Status
    reasons: tuple[str, ...]
    """Why the status is not ``ok``."""
    warnings: tuple[str, ...]


def _was_stopped(trial: Trial, trace: RequestTrace) -> bool:
    """Return whether a request ended only because its open loop was stopped."""
    return trial.saturated is not None and trace.error == trial.saturated


def broke(trial: Trial) -> bool:
    """Return whether a request of the trial failed."""
    return any(trace.error is not None and not _was_stopped(trial, trace) for trace in trial.requests)


def _faults(trace: RequestTrace, input_len: int, output_len: int, proves_cache: bool) -> Iterator[str]:
    """Yield the faults of one request; for a failed one only its error, because the others follow from it."""
    if trace.error is not None:
        yield trace.error
        return
    counts = {"prompt": trace.prompt_tokens, "generated": trace.completion_tokens}
    if proves_cache:
        counts["cached"] = trace.cached_tokens
    for name, count in counts.items():
        if count is None:
            yield f"the server gave no count of {name} tokens"
    if trace.prompt_tokens not in (None, input_len):
        yield f"the server counted {trace.prompt_tokens} prompt tokens where {input_len} were sent"
    if trace.completion_tokens not in (None, output_len):
        yield f"the server counted {trace.completion_tokens} generated tokens where {output_len} were asked for"
    if trace.cached_tokens:
        yield f"the server took {trace.cached_tokens} of {input_len} prompt tokens from its cache"
    arrived = sum(trace.event_tokens)
    if trace.completion_tokens not in (None, arrived):
        yield f"{arrived} tokens arrived where the server counted {trace.completion_tokens}"
    if trace.finish_reason != "length":
        yield f"the answer ended with finish reason {trace.finish_reason} where length was expected"
    times = (*trace.event_ns, trace.end_ns)
    if times[0] <= 0 or any(later < earlier for earlier, later in pairwise(times)):
        yield "the arrival times do not increase from the request's start to its end"


def check_requests(
    trials: Sequence[Trial], *, input_len: int, output_len: int, proves_cache: bool = True
) -> tuple[str, ...]:
    """Return why requests are invalid: each reason once, with the number of requests if there are several.

    Requests that ended because their open loop was stopped are not checked.

    Args:
        trials: the measured trials.
        input_len: tokens sent with each request.
        output_len: tokens requested by each request.
        proves_cache: whether the server reports how many prompt tokens came from its cache. If it does not, a missing
            count is not a fault, only unproven.
    """
    traces = [trace for trial in trials for trace in trial.requests if not _was_stopped(trial, trace)]
    counts = Counter(fault for trace in traces for fault in _faults(trace, input_len, output_len, proves_cache))
    if len(traces) == 1:
        return tuple(counts)
    return tuple(f"{fault} ({count} of {len(traces)} requests)" for fault, count in counts.items())


def client_bound(trial: Trial) -> Iterator[str]:
    """Yield why the client could have distorted a trial's figures.

    An event loop that is late by L time stamps data late by up to L. TTFT depends on one time stamp, so its error is up
    to L; the limit is 5 ms and 5 % of it. TPOT is the time between two time stamps, each late by 0 to L, over the
    tokens between them: its error is up to L / (last - first time stamp) for any number of tokens; the limit is 1 %.
    L is the 99th percentile of the lag, less the millisecond of the timers' resolution; TTFT and the span of an answer
    are the trial's medians. For a trial that was stopped only the CPU time counts, because it has no such figures.
    """
    yield from _no_core_left(trial)
    if trial.client is not None and trial.saturated is None:
        yield from _late_stamps(trial, trial.client)


def _no_core_left(trial: Trial) -> Iterator[str]:
    load = trial.client
    if load is not None and load.cpu_share > CPU_SHARE:
        yield f"{CLIENT_BOUND}it used {percent(load.cpu_share)} of a core, where {percent(CPU_SHARE)} is the limit"


def _late_stamps(trial: Trial, load: ClientLoad) -> Iterator[str]:
    lag_ns = load.lag_p99_ns - TIMER_NS
    late = f"{CLIENT_BOUND}its event loop was {load.lag_p99_ns / NS_PER_MS:.1f} ms late (p99), which can put"
    ttft, span = typical(trial, ttft_s), typical(trial, _span_s)
    if ttft is not None and lag_ns > max(TTFT_ERROR_NS, TTFT_ERROR * ttft * NS_PER_S):
        yield f"{late} TTFT off by {percent(lag_ns / NS_PER_S / ttft)} of {ttft * 1e3:.1f} ms"
    if span is not None and lag_ns > TPOT_ERROR * span * NS_PER_S:
        yield f"{late} TPOT off by {percent(lag_ns / NS_PER_S / span)}; its answers last {span * 1e3:.4g} ms"


def _span_s(trace: RequestTrace) -> float | None:
    """Return the time from first to last token in seconds; None where TPOT is undefined."""
    return None if tpot_s(trace) is None else (trace.event_ns[-1] - trace.event_ns[0]) / NS_PER_S


def _throttled(states: Sequence[DeviceState], reasons: Sequence[str]) -> dict[str, None]:
    return dict.fromkeys(
        f"{reason} on device {state.index}" for state in states for reason in state.throttled if reason in reasons
    )


def slowed_down(trial: Trial) -> Iterator[str]:
    """Yield why the accelerators were slower than healthy ones: too hot, or too little power."""
    for reason in _throttled((*trial.devices_before, *trial.devices_after), SLOWED):
        yield f"the accelerator was slowed down ({reason}): check its cooling and power, then measure again"


def _capped(trial: Trial) -> Iterator[str]:
    """Yield other reasons for lower clocks of the accelerators."""
    for reason in _throttled((*trial.devices_before, *trial.devices_after), CAPPED):
        yield f"the accelerator ran at its power limit ({reason})"
    after = {state.index: state.sm_clock_mhz for state in trial.devices_after}
    for state in trial.devices_before:
        first, last = state.sm_clock_mhz, after.get(state.index)
        if first and last and last < (1 - CLOCK_FALL) * first:
            yield f"the SM clock of device {state.index} fell from {first} to {last} MHz; lock it with nvidia-smi -lgc"


def _outliers(values: Sequence[float], name: str, show: Callable[[float], str]) -> Iterator[str]:
    """Yield the trials that are far from the median; none with fewer than three trials."""
    if len(values) < 3:
        return
    middle = float(np.median(values))
    deviation = float(np.median(np.abs(np.array(values) - middle))) / 0.6745  # of a normal distribution
    for number, value in enumerate(values, start=1):
        if abs(value - middle) > max(OUTLIER * deviation, OUTLIER_SHARE * middle):
            yield f"trial {number} is an outlier: {name} {show(value)}, where the median is {show(middle)}; it counts"


def _bound(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return by how much a busy client could have distorted the figures, for the worst trial."""
    by_trial = [tuple(client_bound(trial)) for trial in trials]
    bound = [reasons for reasons in by_trial if reasons]
    if not bound:
        return ()
    worst = max(zip(by_trial, trials, strict=True), key=lambda pair: (bool(pair[0]), _lag_ns(pair[1])))[0]
    count = f" ({len(bound)} of {len(trials)} trials)" if len(trials) > 1 else ""
    return tuple(f"{reason}{count}; {LEAVE_A_CORE}" for reason in worst)


def _lag_ns(trial: Trial) -> int:
    return trial.client.lag_p99_ns if trial.client else 0


def _spread(values: Sequence[float], name: str) -> Iterator[str]:
    """Yield a warning if the trials differ too much to show small differences."""
    if len(values) < 2:
        return
    deviation = float(np.std(values, ddof=1) / np.mean(values))
    if deviation > SPREAD:
        yield (
            f"{name} differs between trials (standard deviation {percent(deviation)} of the mean): stop other programs "
            "on the machine, or run more trials with workload.trials=…"
        )


def _drift(trial: Trial) -> Iterator[str]:
    """Yield a warning if an open loop did not settle: later requests took clearly longer than the first."""
    latencies_s = [end for trace in trial.requests if trace.scheduled_ns is not None and (end := e2e_s(trace))]
    if len(latencies_s) < DRIFT_REQUESTS:
        return
    third = len(latencies_s) // 3
    first, last = float(np.median(latencies_s[:third])), float(np.median(latencies_s[-third:]))
    if last > DRIFT * first:
        yield (
            "requests took longer and longer, so the load had not settled or is slightly more than the server can "
            "take: send more requests with workload.open_loop_requests=…"
        )


def _warnings(trials: Sequence[Trial]) -> Iterator[str]:
    for trial in trials:
        yield from _capped(trial)
    saturated = next((trial.saturated for trial in trials if trial.saturated), None)
    if saturated:
        yield f"the load was more than the server can take, so there are no latencies of a steady load: {saturated}"
        rates = [rate for trial in trials if (rate := output_tokens_per_s(trial))]
        yield from _spread(rates, "the output rate")
        return
    for trial in trials:
        yield from _drift(trial)
    for name, figure in (("TTFT", ttft_s), ("TPOT", tpot_s)):
        values = [value for trial in trials if (value := typical(trial, figure)) is not None]
        yield from _outliers(values, name, lambda seconds: f"{seconds * 1e3:.4g} ms")
        yield from _spread(values, name)


def judge(
    trials: Sequence[Trial], *, input_len: int, output_len: int, emulated: bool, proves_cache: bool = True
) -> Validity:
    """Return the status of a cell and the reasons for it, each once and with its count over all trials.

    A failed request makes the cell ``failed``, any other fault ``invalid``. A cell without a fault is ``emulated`` or
    ``ok``; only such a cell has warnings, which concern its figures.

    Args:
        trials: all trials of the cell.
        input_len: tokens sent with each request.
        output_len: tokens requested by each request.
        emulated: whether the engine does not compute on quantized kernels.
        proves_cache: whether the server reports how many prompt tokens came from its cache.
    """
    faults = check_requests(trials, input_len=input_len, output_len=output_len, proves_cache=proves_cache)
    if any(map(broke, trials)):
        return Validity("failed", faults, ())
    faults += tuple(dict.fromkeys(reason for trial in trials for reason in slowed_down(trial)))
    bound = _bound(trials)
    # If half of the trials lacked a core, they decide the median. Late time stamps only bound the error: a warning.
    if 2 * sum(any(_no_core_left(trial)) for trial in trials) >= len(trials):
        faults += bound
    if faults:
        return Validity("invalid", faults, ())
    warnings = (*bound, *dict.fromkeys(_warnings(trials)))
    return Validity("emulated", (EMULATED,), warnings) if emulated else Validity("ok", (), warnings)
