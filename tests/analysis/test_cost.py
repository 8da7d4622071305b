"""Joules and dollars per million tokens: units, and what is left out. All pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.cost import average_w, cost, dollars_per_million, joules_per_million, output_tokens, total_tokens
from bench.records.record import Energy, RequestTrace, Trial
from bench.speed.figures import MeasuredCell
from testkit.records import cell as speed_cell

PRICE = st.floats(0.01, 1000)
COUNT = st.integers(1, 1000)
SECONDS = st.floats(0.001, 1e4)


def trial(
    seconds: float = 10.0, tokens: int = 100, *, prompt: int | None = 900, energy: Energy | None = None, at: int = 1
) -> Trial:
    """Return a wave of ``at`` equal requests whose last token and end come after ``seconds``."""
    end_ns = round(seconds * 1e9)
    trace = RequestTrace(
        start_ns=0, event_ns=(end_ns,), event_tokens=(tokens,), end_ns=end_ns, prompt_tokens=prompt,
        completion_tokens=tokens, cached_tokens=0, finish_reason="length", error=None,
    )  # fmt: skip
    return Trial(requests=(trace,) * at, started_at="2026-11-24T02:03:11+00:00", peak_memory_bytes=None, energy=energy)


def cell(*trials: Trial) -> MeasuredCell:
    return MeasuredCell(speed_cell("bf16", 256).model_copy(update={"trials": trials}))


def counter(joules: float, valid: bool = True) -> Energy:
    return Energy(total_j=joules, how="counter", valid=valid)


def test_a_worked_example() -> None:
    """300 W for 10 s are 3000 J; at 3.60 dollars an hour 10 s cost a cent; 100 tokens of 1000 were generated."""
    costs = cost(cell(trial(energy=counter(3000))), 3.6)
    assert costs
    for value, expected in (
        (costs.average_w, 300),
        (costs.joules_per_million_output_tokens, 30e6),
        (costs.joules_per_million_total_tokens, 3e6),
        (costs.dollars_per_million_output_tokens, 100),
        (costs.dollars_per_million_total_tokens, 10),
    ):
        assert value
        assert value.median == pytest.approx(expected)
    assert costs.energy_from == ("counter",)


def test_without_energy_and_price_there_is_no_cost() -> None:
    assert cost(cell(trial()), None) is None


def test_invalid_energy_is_left_out_and_money_is_not() -> None:
    costs = cost(cell(trial(energy=counter(1, valid=False)), trial(energy=counter(3000))), 3.6)
    assert costs
    assert costs.joules_per_million_output_tokens
    assert costs.joules_per_million_output_tokens.n == 1
    assert costs.dollars_per_million_output_tokens
    assert costs.dollars_per_million_output_tokens.n == 2


def test_only_invalid_energy_and_no_price_is_no_cost() -> None:
    assert cost(cell(trial(energy=counter(1, valid=False))), None) is None


def test_without_prompt_counts_only_output_tokens_have_a_cost() -> None:
    costs = cost(cell(trial(prompt=None, energy=counter(3000))), 3.6)
    assert costs
    assert costs.joules_per_million_output_tokens
    assert costs.joules_per_million_total_tokens is None
    assert costs.dollars_per_million_total_tokens is None


def test_a_trial_without_answers_has_no_cost() -> None:
    silent = trial(energy=counter(10)).requests[0].model_copy(update={"event_ns": (), "event_tokens": ()})
    empty = trial(energy=counter(10)).model_copy(update={"requests": (silent,)})
    assert joules_per_million(empty, output_tokens) is None
    assert dollars_per_million(empty, 1.0, output_tokens) is None
    assert average_w(trial(energy=counter(10)).model_copy(update={"requests": ()})) is None


@given(SECONDS, COUNT, COUNT, st.floats(0.1, 1e6), st.integers(1, 8))
def test_energy_adds_up_to_what_was_taken(seconds: float, tokens: int, prompt: int, joules: float, at: int) -> None:
    wave = trial(seconds, tokens, prompt=prompt, energy=counter(joules), at=at)
    per_output, per_total = joules_per_million(wave, output_tokens), joules_per_million(wave, total_tokens)
    power = average_w(wave)
    assert per_output
    assert per_total
    assert power
    assert per_output * tokens * at / 1e6 == pytest.approx(joules)
    assert per_total * (tokens + prompt) * at / 1e6 == pytest.approx(joules)
    assert power * round(seconds * 1e9) / 1e9 == pytest.approx(joules)


@given(SECONDS, COUNT, COUNT, PRICE, st.integers(1, 8))
def test_money_adds_up_to_the_hire_of_the_machine(
    seconds: float, tokens: int, prompt: int, price: float, at: int
) -> None:
    wave = trial(seconds, tokens, prompt=prompt, at=at)
    hire = price * round(seconds * 1e9) / 1e9 / 3600
    per_output, per_total = (dollars_per_million(wave, price, which) for which in (output_tokens, total_tokens))
    assert per_output
    assert per_total
    assert per_output * tokens * at / 1e6 == pytest.approx(hire)
    assert per_total * (tokens + prompt) * at / 1e6 == pytest.approx(hire)


@given(SECONDS, COUNT, PRICE, st.floats(1.1, 10))
def test_a_slower_server_costs_more_in_proportion(seconds: float, tokens: int, price: float, factor: float) -> None:
    fast, slow = (
        dollars_per_million(trial(took, tokens), price, output_tokens) for took in (seconds, seconds * factor)
    )
    assert fast
    assert slow
    assert slow / fast == pytest.approx(factor, rel=1e-5)
