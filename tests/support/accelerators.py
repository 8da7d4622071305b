"""Records of a machine with a GPU: memory, clocks and energy of every trial."""

from typing import Any

from bench.records.record import DeviceState, Energy, RunRecord, ServerFacts, SpeedCell, Trial
from quantize.architecture import Architecture
from testkit.records import LENGTHS, cell, record, recorded_spec

QWEN3_8B = Architecture(
    layers=36, hidden_size=4096, intermediate_size=12288, heads=32, kv_heads=8, head_dim=128, vocab_size=151936,
    tied_embeddings=False,
)  # fmt: skip


def state(index: int = 0, **changes: Any) -> DeviceState:
    """Return a device's readings at one moment."""
    values: dict[str, Any] = {
        "index": index,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_celsius": 58,
        "power_w": 412.4,
        "memory_used_bytes": 83_000_000_000,
        "throttled": (),
    }
    return DeviceState.model_validate(values | changes)


def facts(**changes: Any) -> ServerFacts:
    """Return a server's facts."""
    values: dict[str, Any] = {
        "version": "0.5.23",
        "kv_capacity_tokens": 400_000,
        "max_context_tokens": 131_072,
        "weights_bytes": 16_400_000_000,
        "kv_cache_dtype": "auto",
        "devices": 1,
    }
    return ServerFacts.model_validate(values | changes)


def gpu_cells(quant: str, status: str = "ok", **changes: Any) -> tuple[SpeedCell, ...]:
    """Return cells with the readings of a GPU machine in their trials; memory peaks in the middle of each."""

    def trial(before: Trial, number: int, length: int) -> Trial:
        points = [(i * 200_000_000, 80_000_000_000 + (10 - abs(10 - i)) * length * 100_000) for i in range(21)]
        more = {
            "memory": tuple(points),
            "peak_memory_bytes": max(used for _, used in points),
            "devices_before": (state(sm_clock_mhz=345),),
            "devices_after": (
                state(sm_clock_mhz=1980 - 15 * number, throttled=("SwPowerCap",) if number == 1 else ()),
            ),
            "energy": Energy(total_j=1600.0 + number, how="counter", valid=True),
        }
        return before.model_copy(update=more | changes)

    cells = []
    for length in LENGTHS:
        measured = cell(quant, length, status=status, reasons=())  # type: ignore[arg-type]
        trials = tuple(trial(before, number, length) for number, before in enumerate(measured.trials))
        cells.append(measured.model_copy(update={"trials": trials}))
    return tuple(cells)


def gpu_record(quant: str = "bf16", **changes: Any) -> RunRecord:
    """Return a run of Qwen3-8B on a GPU."""
    values: dict[str, Any] = {
        "cells": gpu_cells(quant),
        "server": facts(),
        "dollars_per_hour": 3.6,
        "spec": recorded_spec(quant, architecture=QWEN3_8B),
    }
    return record(quant, **(values | changes))
