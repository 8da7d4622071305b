"""May a trial become a number? Pure checks of what was received against what was asked."""

from collections import Counter
from collections.abc import Sequence

from bench.record import STATUS_MEANING, RequestTrace, Status, Trial


def check_request(trace: RequestTrace, *, input_len: int, output_len: int) -> tuple[str, ...]:
    """Return why a request without an error is invalid; empty if it is valid.

    Args:
        trace: what was received.
        input_len: prompt tokens that were sent.
        output_len: tokens that were asked for.
    """
    wrong: list[str] = []
    expected = {"prompt_tokens": input_len, "completion_tokens": output_len, "cached_tokens": 0}
    for name, wanted in expected.items():
        found = getattr(trace, name)
        if found is None:
            wrong.append(f"the server never told {name}")
        elif found != wanted:
            wrong.append(f"{name} is {found} where {wanted} is right")
    if trace.finish_reason != "length":
        wrong.append(f"generation ended by '{trace.finish_reason}', not by length")
    if trace.completion_tokens is not None and sum(trace.event_tokens) != trace.completion_tokens:
        wrong.append(f"events carried {sum(trace.event_tokens)} tokens, the server counts {trace.completion_tokens}")
    if any(later < earlier for earlier, later in zip(trace.event_ns, trace.event_ns[1:], strict=False)):
        wrong.append("event times go backwards")
    return tuple(wrong)


def check_trial(trial: Trial, *, input_len: int, output_len: int) -> tuple[str, ...]:
    """Return why a trial is invalid, one sentence for each distinct reason with how many requests had it."""
    counts: Counter[str] = Counter()
    for trace in trial.requests:
        reasons = (trace.error,) if trace.error else check_request(trace, input_len=input_len, output_len=output_len)
        counts.update(reasons)
    return _counted(counts)


def judge(
    trials: Sequence[Trial], *, input_len: int, output_len: int, emulated: bool
) -> tuple[Status, tuple[str, ...]]:
    """Return a cell's status and why: ``failed`` for any error, ``invalid`` for any broken check, else ok or emulated."""
    errors = Counter(trace.error for trial in trials for trace in trial.requests if trace.error)
    if errors:
        return "failed", _counted(errors)
    wrong = Counter(
        reason
        for trial in trials
        for trace in trial.requests
        for reason in check_request(trace, input_len=input_len, output_len=output_len)
    )
    if wrong:
        return "invalid", _counted(wrong)
    return ("emulated", (STATUS_MEANING["emulated"],)) if emulated else ("ok", ())


def _counted(reasons: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{reason} ({count} requests)" if count > 1 else reason for reason, count in reasons.items())
