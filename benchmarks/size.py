"""Times on a year of nights (365 x 100 variants x 30 cells): reading a series, the gate, the website, a report.

Earlier nights are rows of the index as after a refresh, with files that a refresh recognises and does not read; the
last night is read from complete records. Half and a quarter of the nights show how the times grow.
"""

import io
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from bench.commands import website
from bench.history.index import Index, SeriesKey, epoch_of
from bench.nightly import gate
from bench.records.record import Control, RequestTrace, RunRecord, SpeedCell, Trial, Variant
from bench.records.store import Store
from bench.report.page import render

NIGHTS, VARIANTS, ROUNDS = 365, 100, 5
LENGTHS = (1, 128, 256, 512, 1024, 2048, 4096, 6144, 8192, 14336)
CONCURRENCY = (1, 4, 16)
MODEL = "qwen3-8b"
FIRST = datetime(2026, 1, 1, 23, tzinfo=UTC)


def trace(ttft_s: float, tpot_s: float, input_len: int) -> RequestTrace:
    """Return a request of three tokens."""
    events = tuple(round(1e9 * (ttft_s + step * tpot_s)) for step in range(3))
    return RequestTrace(
        start_ns=0, event_ns=events, event_tokens=(1, 1, 1), end_ns=events[-1], prompt_tokens=input_len,
        completion_tokens=3, cached_tokens=0, finish_reason="length", error=None,
    )  # fmt: skip


def cells(quant: str, pace: float, rng: np.random.Generator) -> tuple[SpeedCell, ...]:
    """Return 30 cells of five rounds."""
    built = []
    for length in LENGTHS:
        for concurrency in CONCURRENCY:
            noise = np.exp(rng.normal(0, 0.009, ROUNDS)) * pace
            trials = tuple(
                Trial(
                    requests=(trace(0.02 * factor + length * 1e-5, 0.01 * factor, length),) * concurrency,
                    started_at=FIRST.isoformat(),
                    peak_memory_bytes=10**10,
                )
                for factor in noise
            )
            built.append(
                SpeedCell(
                    variant=Variant(model=MODEL, quant=quant), engine="sglang", input_len=length, output_len=3,
                    concurrency=concurrency, n_requests=concurrency, seed=0, status="ok", reasons=(), interleaved=True,
                    trials=trials,
                )
            )  # fmt: skip
    return tuple(built)


def record(template: RunRecord, quant: str, night: int, rng: np.random.Generator) -> RunRecord:
    """Return one run of the last night."""
    assert template.control is not None
    pace = float(np.exp(rng.normal(0, 0.012)))
    at = (FIRST + timedelta(days=night)).isoformat()
    control: Control = template.control.model_copy(update={"cells": cells("bf16", pace, rng)})
    return template.model_copy(
        update={
            "run_id": f"n{night:03}-{quant}", "session": f"session-{night:03}", "started_at": at, "finished_at": at,
            "variant": Variant(model=MODEL, quant=quant), "cells": cells(quant, pace * 0.7, rng), "control": control,
            "key": quant, "scores": (), "engine": "sglang",
        }
    )  # fmt: skip


def fill(results: Path, template: RunRecord, nights: int) -> None:
    """Fill a results folder: index rows of all nights but the last, and complete records of the last."""
    Index(results).close()
    rng = np.random.default_rng(0)
    epoch = epoch_of(record(template, "v000", nights - 1, np.random.default_rng(1)))
    with closing(sqlite3.connect(results / "index.sqlite")) as database, database:
        for night in range(nights - 1):
            at = (FIRST + timedelta(days=night)).isoformat()
            for place in range(VARIANTS):
                run_id = f"n{night:03}-v{place:03}"
                folder = results / "runs" / run_id
                folder.mkdir(parents=True)
                (folder / "record.json").touch()
                mtime = (folder / "record.json").stat().st_mtime_ns
                row = (
                    run_id, f"session-{night:03}", MODEL, f"v{place:03}", "sglang", "", "gpu-1", "H100",
                    epoch, at, at, 0, run_id, 0, mtime,
                )  # fmt: skip
                database.execute(f"insert into runs values ({','.join('?' * len(row))})", row)
                values = rng.normal(0.35, 0.006, (len(LENGTHS) * len(CONCURRENCY), 2))
                shapes = ((length, load) for length in LENGTHS for load in CONCURRENCY)
                rows = [
                    (
                        run_id, 0, MODEL, f"v{place:03}", "sglang", "ok", length, 3, load, None, 1, at, decode, None,
                        prefill, None,
                    )
                    for (length, load), (decode, prefill) in zip(shapes, values.tolist(), strict=True)
                ]  # fmt: skip
                database.executemany(f"insert into cells values ({','.join('?' * len(rows[0]))})", rows)
    store = Store(results)
    for place in range(VARIANTS):
        run = record(template, f"v{place:03}", nights - 1, rng)
        folder = store.create(run.run_id)
        folder.begin(run)
        folder.finish(run)
        folder.release()


def seconds(act: Callable[[], object]) -> float:
    """Return the duration of a call."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress output other than the table."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def measure(folder: Path, template: RunRecord, nights: int) -> dict[str, float]:
    """Return the duration of each operation over ``nights``."""
    results = folder / f"results-{nights}"
    fill(results, template, nights)
    figures: dict[str, float] = {}
    index = Index(results)
    figures["a night's 100 records into the index"] = seconds(index.refresh)
    key = SeriesKey(
        model=MODEL, quant=f"v{VARIANTS // 2:03}", engine="sglang", input_len=1024, output_len=3, concurrency=4
    )
    figures["one series from the index"] = min(seconds(lambda: index.nights(key, "decode")) for _ in range(5))
    assert len(index.nights(key, "decode")) == nights
    index.close()
    with quiet():
        judge = ["--results", str(results)]
        figures["gate over all 3,000 series, the first time"] = seconds(lambda: gate.main(judge))
        figures["gate over all 3,000 series, each night"] = seconds(lambda: gate.main(judge))
        out = folder / f"site-{nights}"
        build = ["build", "--results", str(results), "--out", str(out), "--reports", "0"]
        figures["site, every page new"] = seconds(lambda: website.main(build))
        figures["site, nothing new"] = seconds(lambda: website.main(build))
    figures["bytes of the site"] = sum(file.stat().st_size for file in out.iterdir())
    return figures


def shown(name: str, value: float) -> str:
    """Return a figure as text."""
    if "bytes" in name:
        return f"{value / 1e6:.1f} MB"
    return f"{1e3 * value:,.1f} ms" if value < 1 else f"{value:.1f} s"


def run() -> str:
    """Run and return the table."""
    from testkit.records import controlled_record, native_records

    html = render(native_records(), title="t")
    report_s = sorted(seconds(lambda: render(native_records(), title="t")) for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        sizes = [NIGHTS // 4, NIGHTS // 2, NIGHTS]
        columns = [measure(Path(folder), controlled_record(), nights) for nights in sizes]
    shapes = len(LENGTHS) * len(CONCURRENCY)
    lines = [
        f"{VARIANTS} variants x {shapes} cells, two figures each; {os.cpu_count()} processes for the website, "
        "which is built after the gate and reuses its results.",
        "",
        "| | " + " | ".join(f"{nights} nights" for nights in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    lines += [
        f"| {name} | " + " | ".join(shown(name, column[name]) for column in columns) + " |" for name in columns[0]
    ]
    lines += [
        "",
        f"Report of one set of five runs: {report_s[2]:.1f} s (median of 5, {report_s[0]:.1f} to {report_s[-1]:.1f}), "
        f"{len(html.encode()) / 1e6:.2f} MB.",
    ]
    return "\n".join(lines)
