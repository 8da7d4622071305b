"""Whole runs of other kinds: a baseline interleaved with the variant, an external server, an open loop."""

import csv
import io
import os
from collections.abc import Iterator

import psutil
import pytest

from bench.analysis.baseline import with_baselines
from bench.config.compose import compose_job, with_plus
from bench.config.spec import RunSpec
from bench.errors import ConfigError, NotPossibleError
from bench.machine.child import session_members
from bench.plan.stages import check, context_of, plan
from bench.records.record import Control, RunRecord
from bench.report.view import runs
from bench.speed import protocols
from testkit import streamer
from testkit.records import record
from tests.support.program import Cli
from tests.support.runs import records, server_pids

TINY = ["+model=tiny-qwen3", "accuracy=none", "workload.input_lens=[1,48]", "workload.output_len=4"]


def composed(*overrides: str) -> RunSpec:
    model = [] if overrides and overrides[0].startswith("model=") else TINY[:1]
    return compose_job(with_plus([*model, *TINY[1:], *overrides, "session=test"]))


def test_the_trials_of_baseline_and_variant_are_interleaved(cli: Cli, cache) -> None:
    done = cli(*TINY, "quant=bf16", "baseline=bf16", "workload.trials=4", "price_per_hour=3.6")
    assert done.returncode == 0, done.stderr
    (record,) = records(cli.folder)
    assert record.control is not None
    assert record.command[-3:] == ("baseline=bf16", "workload.trials=4", "price_per_hour=3.6")
    for own, control in zip(record.cells, record.control.cells, strict=True):
        assert own.interleaved
        assert control.interleaved
        assert own.status == control.status == "ok"
        turns = sorted((trial.started_at, who) for who, cell in (("A", own), ("B", control)) for trial in cell.trials)
        assert "".join(who for _, who in turns) == "ABBAABBA"
    rows = list(csv.DictReader(io.StringIO(cli("export", module="bench.cli").stdout)))
    assert [row["baseline"] for row in rows] == ["", "", "yes", "yes"]
    assert all(float(row["roof_tokens_per_s"]) > float(row["decode_tokens_per_s"]) > 0 for row in rows)
    assert all(float(row["dollars_per_million_tokens"]) > 0 for row in rows)
    assert not server_pids(cache)


@pytest.fixture(scope="module")
def external_server() -> Iterator[streamer.Running]:
    with streamer.running() as server:
        yield server


@pytest.mark.parametrize("protocol", protocols.names())
def test_an_external_server_is_measured(cli: Cli, external_server: streamer.Running, protocol: str) -> None:
    external_server.load()
    where = [f"engine.url={external_server.base_url}", f"engine.protocol={protocol}", "engine.served_model=fake"]
    done = cli(*TINY, "quant=fp8", "engine=attach", *where, "workload.trials=2", "workload.output_len=6")
    assert done.returncode == 0, done.stderr + done.stdout
    (found,) = records(cli.folder)
    assert (found.checkpoint, found.device) == (None, None)
    assert [cell.status for cell in found.cells] == ["ok", "ok"]
    for cell in found.cells:
        assert cell.unproven[0].startswith("that the server has loaded this model in this quantization")
        assert bool(cell.prompts) == (protocol == "openai")
    assert cli(*TINY, "quant=fp8", "engine=attach", *where, "baseline=bf16").returncode == 2


def test_an_open_loop_is_stopped_if_the_load_is_too_high(cli: Cli) -> None:
    rates = ["workload.request_rates=[20,4000]", "workload.open_loop_requests=40", "workload.open_loop_concurrency=8"]
    done = cli(
        *TINY[:2], "workload.input_lens=[32]", "workload.output_len=8", "workload.trials=1",
        "workload.objective={ttft_s: 5, tpot_s: 1}", *rates,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (record,) = records(cli.folder)
    by_rate = {cell.request_rate_per_s: cell for cell in record.cells}
    assert set(by_rate) == {None, 20, 4000}
    assert by_rate[4000].status == "not_supported" or by_rate[4000].trials[0].saturated is not None
    (report,) = (cli.folder / "reports").glob("*.html")
    assert 'id="load"' in report.read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["engine=attach"], "name the server, for example engine.url="),
        (["engine=attach", "engine.url=http://"], "is not a valid address"),
        (["engine=attach", "engine.url=http://h:abc"], "is not a valid address"),
        (["engine=attach", "engine.url=http://me:secret@h:80"], "use engine.api_key_env=VARIABLE"),
        (["engine=attach", "engine.url=http://h:80", "engine.protocol=x"], "engine.protocol"),
        (["engine=attach", "engine.url=http://h:80", "baseline=bf16"], "needs servers started by quantbench"),
        (["engine=vllm", "engine.device=cpu", "quant=nvfp4"], "quant=nvfp4 on engine=vllm"),
        (
            ["engine=sglang", "engine.toolchain=sglang-cpu", "engine.device=cpu", "quant=fp8"],
            "quant=fp8 on engine=sglang",
        ),
        (["engine=sglang", "engine.tp_size=0"], "engine.tp_size"),
        (["baseline=bf61"], "baseline=bf61: no such quant; did you mean 'bf16'?"),
        (["baseline=null"], "baseline=null: no such quant"),
        (["engine=null"], "engine=null: no such engine"),
        (["workload.request_rates=[0]"], "workload.request_rates"),
        (["workload.request_rates=[inf]"], "workload.request_rates"),
        (["workload.objective={ttft_s: -1, tpot_s: 1}"], "workload.objective"),
        (["price_per_hour=-1"], "price_per_hour"),
        (["results_dir=null"], "results_dir: expected a folder"),
    ],
)
def test_an_impossible_run_is_reported_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(composed(*overrides))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_accuracy_is_refused_over_a_server_whose_tokenizer_is_not_named() -> None:
    spec = compose_job([*TINY[:1], "engine=attach", "engine.url=http://h:80", "session=test"])
    with pytest.raises(NotPossibleError, match=r"engine\.tokenizer=FOLDER.*; add accuracy=none"):
        check(spec)


def test_the_context_is_the_one_that_the_engine_sets() -> None:
    assert context_of(composed("model=qwen3-8b")) == 40960
    assert context_of(composed("model=qwen3-8b", "engine=sglang", "context=131k")) == 131072
    assert (
        context_of(composed("model=qwen3-8b", "engine=sglang", "context=131k", "engine.context_length=140000"))
        == 140000
    )
    assert context_of(composed("model=qwen3-8b", "engine=vllm", "context=131k")) == 131072


def test_another_version_of_a_server_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.engines.sglang import SGLang

    spec = composed("engine=sglang")
    before = plan(spec).key
    monkeypatch.setattr(SGLang, "versions", lambda self: {"sglang": "9.9"})
    assert plan(spec).key != before


def test_fields_given_for_an_automatic_engine_apply() -> None:
    engine = composed("engine.max_running_requests=3").engine
    assert (engine.name, engine.config.model_dump()["max_running_requests"]) == ("transformers", 3)
    assert (
        composed("engine.transformers.max_running_requests=8").engine.config.model_dump()["max_running_requests"] == 8
    )


def with_control(record: RunRecord, baseline: RunRecord) -> RunRecord:
    control = Control(
        variant=baseline.variant, checkpoint=baseline.checkpoint, engine_info={}, server=None, cells=baseline.cells
    )
    return record.model_copy(update={"control": control})


def test_a_run_with_scores_is_preferred_as_baseline_over_a_control() -> None:
    plain = record("bf16")
    shown = runs(with_baselines([with_control(record("fp8"), plain), plain]))
    assert [run.record.variant.quant for run in shown] == ["fp8", "bf16", "bf16"]
    assert [run.baseline is not None and bool(run.baseline.scores) for run in shown] == [True, True, False]
    alone = runs(with_baselines([with_control(record("fp8"), plain)]))
    assert alone[0].baseline is not None


def test_a_reused_process_id_is_not_taken_for_an_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    me = psutil.Process()
    monkeypatch.setattr(os, "getsid", lambda pid: me.pid)
    assert session_members(me.pid, me.create_time() - 3600) == []
    assert me in session_members(me.pid, me.create_time())
