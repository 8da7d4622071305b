"""What makes a trial count: every check compares what was asked for with what the server told and the client saw."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from bench.record import RequestTrace, Status, Trial

EMULATED = (
    "the engine computed with the weights expanded to 16 bits, not on quantized kernels, so these times say nothing "
    "about the variant's speed"
)


def _faults(trace: RequestTrace, input_len: int, output_len: int) -> Iterator[str]:
    """Yield what is wrong with one request; of a broken one only what broke it, for the rest follows from that."""
    if trace.error is not None:
        yield trace.error
        return
    counts = {"prompt": trace.prompt_tokens, "generated": trace.completion_tokens, "cached": trace.cached_tokens}
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


def _told(traces: Sequence[RequestTrace], input_len: int, output_len: int) -> tuple[str, ...]:
    """Return each reason once and, where there are several requests, for how many of them it holds."""
    counts = Counter(fault for trace in traces for fault in _faults(trace, input_len, output_len))
    if len(traces) == 1:
        return tuple(counts)
    return tuple(f"{fault} ({count} of {len(traces)} requests)" for fault, count in counts.items())


def check_trial(trial: Trial, *, input_len: int, output_len: int) -> tuple[str, ...]:
    """Return why a trial must not become a number, one sentence a reason; empty if it may.

    Args:
        trial: what was seen.
        input_len: tokens sent with each request.
        output_len: tokens asked for by each request.
    """
    return _told(trial.requests, input_len, output_len)


def judge(
    trials: Sequence[Trial], *, input_len: int, output_len: int, emulated: bool
) -> tuple[Status, tuple[str, ...]]:
    """Return the status of a cell and the reasons for it, each once and with its count over all trials.

    A request that broke makes the cell ``failed``, any other fault ``invalid``; a cell without a fault is
    ``emulated`` or ``ok``.

    Args:
        trials: all trials of the cell.
        input_len: tokens sent with each request.
        output_len: tokens asked for by each request.
        emulated: the engine does not compute on quantized kernels.
    """
    traces = [trace for trial in trials for trace in trial.requests]
    reasons = _told(traces, input_len, output_len)
    if any(trace.error is not None for trace in traces):
        return "failed", reasons
    if reasons:
        return "invalid", reasons
    return ("emulated", (EMULATED,)) if emulated else ("ok", ())
