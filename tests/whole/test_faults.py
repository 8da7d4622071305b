"""Whole runs over a server with planned faults: status and reason are right, other cells and processes unaffected."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import bench.engines
from bench.config.compose import compose_job
from bench.pipeline.execute import execute
from bench.records.record import RunRecord, SpeedCell, Status
from bench.servers import lifecycle
from tests.support.paths import ROOT
from tests.support.saboteur import Fault, Plan

LENS = (4, 6, 8)
STRUCK = 6
"""Input length of the cell with the fault."""
ENGINE = """name: scripted
script: ???
startup_timeout_s: 60
request_timeout_s: 60
first_token_timeout_s: 40
stall_timeout_s: 40
"""
Measure = Callable[[Plan], RunRecord]


@pytest.fixture
def measure(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return a function that runs three cells of the tiny model over a server with a plan."""
    monkeypatch.setattr(
        bench.engines, "__path__", [*bench.engines.__path__, str(ROOT / "tests" / "support" / "engines")]
    )
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    monkeypatch.setenv("QUANTBENCH_CACHE", str(cache))
    (tmp_path / "configs" / "engine").mkdir(parents=True)
    (tmp_path / "configs" / "engine" / "scripted.yaml").write_text(ENGINE)

    def run(plan: Plan) -> RunRecord:
        typed = [
            "+model=tiny-qwen3",
            "engine=scripted",
            f"engine.script={plan.write(tmp_path / 'plan.json')}",
            f"workload.input_lens=[{','.join(map(str, LENS))}]",
            "workload.output_len=3",
            "workload.trials=1",
            "accuracy=none",
            f"results_dir={tmp_path / 'results'}",
            "session=test",
        ]
        record = execute(compose_job(typed, [str(tmp_path / "configs")]))
        left = [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(tmp_path) in " ".join(process.info["cmdline"] or ())
        ]
        assert left == [], "processes are left"
        assert not list((cache / "processes").glob("*.json"))
        return record

    return run


def struck(record: RunRecord) -> SpeedCell:
    """Return the cell with the fault, after checking that the others are unaffected."""
    by_len = {cell.input_len: cell for cell in record.cells}
    assert sorted(by_len) == list(LENS)
    others = {length: (cell.status, cell.reasons) for length, cell in by_len.items() if length != STRUCK}
    assert others == {4: ("ok", ()), 8: ("ok", ())}
    return by_len[STRUCK]


def steps(*tokens: int, first_s: float = 0.0, gap_s: float = 0.002) -> list[tuple[float, int]]:
    return [(gap_s if number else first_s, n) for number, n in enumerate(tokens)]


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "plan.starts").read_text())


FAULTS: dict[str, tuple[Fault, Status, str, int]] = {
    "a stream that is cut": (
        Fault({"steps": steps(1, 1), "ending": "cut"}),
        "failed",
        "in the middle of the answer",
        1,
    ),
    "an error after tokens": (Fault({"steps": steps(1, 1), "ending": "error"}), "failed", "scripted error", 1),
    "an abort": (Fault({"steps": steps(1), "ending": "abort"}), "failed", "abort", 1),
    "a refusal": (Fault({"steps": [], "status": 500}), "failed", "HTTP 500", 1),
    "a cached prefix": (Fault({"steps": steps(1, 1, 1), "cached_tokens": 5}), "invalid", "from its cache", 1),
    "one token short": (Fault({"steps": steps(1, 1)}), "invalid", "2 generated tokens where 3 were asked for", 1),
    "a wrong count of the prompt": (Fault({"steps": steps(1, 1, 1), "prompt_tokens": 7}), "invalid", "7 prompt", 1),
    "another end": (Fault({"steps": steps(1, 1, 1), "finish": "stop"}), "invalid", "finish reason stop", 1),
    "a fault while warming up": (Fault({"steps": steps(1), "ending": "error"}, at=1), "failed", "scripted error", 1),
    "death in prefill": (Fault({"steps": steps(1, 1, 1, first_s=30)}, kill=9, after_s=0.3), "failed", "SIGKILL", 2),
    "death in decode": (Fault({"steps": steps(1, 1), "ending": "die"}), "failed", "ended with code 1", 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_affects_its_own_cell_and_no_other(fault: str, measure: Measure, tmp_path: Path) -> None:
    planned, status, reason, servers = FAULTS[fault]
    record = measure(Plan(faults={str(STRUCK): planned}))
    cell = struck(record)
    assert cell.status == status
    # The reason of a server's death may be known only after the failed request has been judged.
    reported = cell.reasons if servers == 1 else (*cell.reasons, *record.log)
    assert any(reason in line for line in reported), reported
    assert starts(tmp_path) == servers


def test_a_server_that_hangs_is_ended_and_restarted(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "HUNG_S", 3.0)
    planned = Fault({"steps": steps(1, 1, 1, gap_s=0.5)}, kill=signal.SIGSTOP, after_s=0.7)
    record = measure(Plan(faults={str(STRUCK): planned}))
    cell = struck(record)
    assert cell.status == "failed"
    assert any("hangs: no token for" in line for line in cell.reasons), cell.reasons
    assert starts(tmp_path) == 2
    assert any("hangs" in line and "starting" in line for line in record.log)


def test_a_server_that_dies_at_the_start_fails_the_run_with_a_remedy(measure: Measure) -> None:
    output = (
        "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    )
    record = measure(Plan(at_start="die", says=output))
    assert record.cells == ()
    (failure,) = record.failures
    assert failure.stage == "serve"
    assert "out of memory: torch.OutOfMemoryError" in failure.message
    assert "nvidia-smi" in failure.message


def test_a_port_that_is_taken_is_reported_and_costs_no_cell(measure: Measure, tmp_path: Path) -> None:
    output = "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use\n"
    record = measure(Plan(at_start="die", says=output))
    assert [cell.status for cell in record.cells] == ["ok"] * 3
    assert not record.failures
    assert sum("was taken" in line for line in record.log) == 1
    assert starts(tmp_path) == 2


def test_without_a_fault_everything_is_measured(measure: Measure, tmp_path: Path) -> None:
    record = measure(Plan())
    assert [cell.status for cell in record.cells] == ["ok"] * 3
    assert record.server is not None
    assert record.server.version == "scripted"
    assert not record.failures
    assert starts(tmp_path) == 1
