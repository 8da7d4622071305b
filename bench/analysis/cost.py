"""Cost of tokens: energy and money per million. Pure functions over stored trials.

All energy and time of a trial are charged to its tokens, prefill included, so output tokens are expensive in a cell
with a long prompt and a short answer. Costs are therefore given per generated token and per token read or generated.
"""

from collections.abc import Callable

from bench.records.record import Trial
from bench.speed.figures import RecordedCell
from bench.speed.metrics import NS_PER_S, Interval, bootstrap_median, output_tokens_per_s
from quantize.key import Frozen

MILLION = 1e6
S_PER_HOUR = 3600


class Cost(Frozen):
    """Costs of one cell: medians over its trials with their intervals; None for an unknown cost."""

    average_w: Interval | None
    """Power of all devices together, from the first request to the end of the last, watts."""
    joules_per_million_output_tokens: Interval | None
    joules_per_million_total_tokens: Interval | None
    dollars_per_million_output_tokens: Interval | None
    dollars_per_million_total_tokens: Interval | None
    energy_from: tuple[str, ...]
    """How the energy was measured: ``counter``, ``integrated``; see :class:`bench.records.record.Energy`."""


def output_tokens(trial: Trial) -> int:
    """Return how many tokens a trial's requests generated."""
    return sum(sum(trace.event_tokens) for trace in trial.requests)


def total_tokens(trial: Trial) -> int | None:
    """Return how many tokens a trial's requests read and generated; None if the server did not count a prompt's."""
    prompts = [trace.prompt_tokens for trace in trial.requests]
    known = [tokens for tokens in prompts if tokens is not None]
    return output_tokens(trial) + sum(known) if len(known) == len(prompts) else None


def span_s(trial: Trial) -> float | None:
    """Return the time from a trial's first t0 to the end of its last stream, in seconds; None without requests."""
    if not trial.requests:
        return None
    begin_ns = min(trace.start_ns for trace in trial.requests)
    return (max(trace.start_ns + trace.end_ns for trace in trial.requests) - begin_ns) / NS_PER_S


def joules(trial: Trial) -> float | None:
    """Return the energy of a trial; None if it is unknown or not valid."""
    return trial.energy.total_j if trial.energy and trial.energy.valid else None


def average_w(trial: Trial) -> float | None:
    """Return the average power of all devices in watts: joules / seconds."""
    energy, seconds = joules(trial), span_s(trial)
    return energy / seconds if energy is not None and seconds else None


def joules_per_million(trial: Trial, tokens: Callable[[Trial], int | None]) -> float | None:
    """Return joules per million tokens.

    Args:
        trial: the trial.
        tokens: the tokens to count: `output_tokens` or `total_tokens`.
    """
    energy, count = joules(trial), tokens(trial)
    return energy / count * MILLION if energy is not None and count else None


def dollars_per_million(
    trial: Trial, price_per_hour: float | None, tokens: Callable[[Trial], int | None]
) -> float | None:
    """Return dollars per million tokens at the output rate of a trial.

    dollars per hour / 3600 / (output tokens per second) x 10^6, times output tokens / counted tokens.

    Args:
        trial: the trial.
        price_per_hour: of the machine, dollars.
        tokens: the tokens to count: `output_tokens` or `total_tokens`.
    """
    rate, count = output_tokens_per_s(trial), tokens(trial)
    if price_per_hour is None or not rate or not count:
        return None
    seconds = output_tokens(trial) / rate
    return price_per_hour / S_PER_HOUR * seconds / count * MILLION


def cost(recorded: RecordedCell, price_per_hour: float | None) -> Cost | None:
    """Return what a cell's tokens cost; None if neither energy nor price is known.

    Trials whose energy is not valid are left out of the figures of energy, not of those of money.

    Args:
        recorded: a cell with figures; the costs of an emulated one are listed with its status.
        price_per_hour: of the machine, dollars; None if it was not given.
    """
    cell = recorded.cell

    def over_trials(figure: Callable[[Trial], float | None]) -> Interval | None:
        return bootstrap_median(map(figure, cell.trials))

    costs = Cost(
        average_w=over_trials(average_w),
        joules_per_million_output_tokens=over_trials(lambda trial: joules_per_million(trial, output_tokens)),
        joules_per_million_total_tokens=over_trials(lambda trial: joules_per_million(trial, total_tokens)),
        dollars_per_million_output_tokens=over_trials(
            lambda trial: dollars_per_million(trial, price_per_hour, output_tokens)
        ),
        dollars_per_million_total_tokens=over_trials(
            lambda trial: dollars_per_million(trial, price_per_hour, total_tokens)
        ),
        energy_from=tuple(sorted({trial.energy.how for trial in cell.trials if trial.energy and trial.energy.valid})),
    )
    known = (costs.average_w, costs.joules_per_million_output_tokens, costs.dollars_per_million_output_tokens)
    return costs if any(value is not None for value in known) else None
