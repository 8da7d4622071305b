"""A record keeps the listed fields of a server's description, and no key, wherever the server puts one."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.records.engine_info import EngineInfo
from bench.records.record import RunRecord
from bench.report.page import render
from testkit import streamer
from testkit.records import record
from tests.support.attached import answers, engine
from tests.support.program import Cli

SECRET = "sk-planted-4f1b"
ARGUMENTS: dict[str, Any] = {
    "api_key": SECRET,
    "admin_api_key": SECRET,
    "ssl_keyfile_password": SECRET,
    "launch_command": f"python -m sglang.launch_server --api-key {SECRET}",
    "json_model_override_args": json.dumps({"token": SECRET}),
}
"""Arguments of a server that no record may hold."""
PLANTED: dict[str, Any] = {
    **ARGUMENTS,
    "version": "0.5.23",
    "model_path": f"s3://user:{SECRET}@store/model",
    "dtype": "bfloat16",
    "tp_size": 2,
    "context_length": 4096,
    "max_req_input_len": 4090,
    "attention_backend": {"decode": SECRET},
    "kernels": {"api_key": SECRET},
    "libraries": ARGUMENTS,
    "memory_usage": {**ARGUMENTS, "weight": 1.5},
    "internal_states": [
        {**ARGUMENTS, "effective_max_running_requests_per_dp": 16, "deeper": [{"api_key": SECRET}]},
    ],
}


def all_text(folder: Path) -> str:
    """Return the text of all files below a folder, that of packed downloads of its pages included."""
    texts = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = file.read_bytes().decode(errors="replace")
        packed = re.findall(r"data:application/gzip;base64,([\w+/=]+)", text)
        texts += [str(file), text, *(gzip.decompress(base64.b64decode(download)).decode() for download in packed)]
    return "\n".join(texts)


def test_a_run_and_its_report_hold_no_key_of_an_attached_server(cli: Cli) -> None:
    with streamer.running() as server:
        server.describe(PLANTED)
        done = cli(
            "+model=tiny-qwen3", "accuracy=none", "workload.input_lens=[8]", "workload.output_len=4",
            "workload.trials=1", "engine=attach", f"engine.url={server.base_url}", "engine.protocol=sglang",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (page,) = cli.folder.glob("reports/*.html")
    assert "bfloat16" in page.read_text(), "what the list allows is shown"
    for folder in ("results", "reports"):
        assert SECRET not in all_text(cli.folder / folder), folder
    assert SECRET not in done.stderr + done.stdout
    (file,) = cli.folder.glob("results/runs/*/record.json")
    kept = RunRecord.model_validate_json(file.read_bytes()).engine_info
    assert (kept.version, kept.dtype, kept.tp_size, kept.max_req_input_len) == ("0.5.23", "bfloat16", 2, 4090)


OLD = [
    PLANTED,
    {"/server_info": PLANTED, "/model_info": {"model_type": "qwen3", "api_key": SECRET}},
    {**PLANTED, "model_info": {"model_type": "qwen3", "api_key": SECRET}},
]


@pytest.mark.parametrize("described", OLD, ids=["flat", "by place", "with the model's"])
def test_a_record_of_an_earlier_version_is_read_and_shown_by_the_same_list(described: dict[str, Any]) -> None:
    plain = json.loads(record().model_dump_json())
    same = {"variant": plain["variant"], "checkpoint": plain["checkpoint"]}
    control = {**same, "engine_info": described, "server": None, "cells": []}
    upgraded = RunRecord.model_validate_json(json.dumps({**plain, "engine_info": described, "control": control}))
    assert upgraded.engine_info.dtype == "bfloat16"
    assert upgraded.engine_info.memory_usage is not None
    assert upgraded.engine_info.memory_usage.weight == 1.5
    page = render([upgraded], title="t")
    downloads = re.findall(r"data:application/gzip;base64,([\w+/=]+)", page)
    assert downloads
    unpacked = [gzip.decompress(base64.b64decode(download)).decode() for download in downloads]
    for text in (upgraded.model_dump_json(), page, *unpacked):
        assert SECRET not in text


def test_a_server_of_openais_protocol_is_described_by_the_same_list() -> None:
    described = {
        "v1__models": {"data": [{"id": "m", "max_model_len": 8192, "root": "/models/m", "permission": [ARGUMENTS]}]},
        "version": {"version": "0.33.0", **ARGUMENTS},
        "props": {"default_generation_settings": {"n_ctx": 4096, **ARGUMENTS}, **ARGUMENTS},
    }
    info, facts = engine(served_model="m").facts(answers(**described), lambda: "")
    assert SECRET not in info.model_dump_json()
    assert (facts.version, facts.max_context_tokens) == ("0.33.0", 8192)
    assert info.model is not None
    assert (info.version, info.context_length, info.model.root) == ("0.33.0", 4096, "/models/m")


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": {}},
        {"version": "x" * 10_000},
        {"tp_size": "two"},
        {"tp_size": 10**400},
        {"mem_fraction_static": float("nan")},
        {"enable_metrics": "yes"},
        {"memory_usage": ["weight"]},
        {"architectures": [SECRET, {}]},
    ],
)
def test_a_value_of_another_type_is_left_out_and_the_rest_is_kept(wrong: dict[str, Any]) -> None:
    assert EngineInfo.of({**wrong, "dtype": "bfloat16"}).reported() == {"dtype": "bfloat16"}


def test_what_is_not_reported_is_not_written() -> None:
    assert json.loads(EngineInfo().model_dump_json()) == {}
    kept = {"version": "1", "memory_usage": {"weight": 1.5}, "kernels": {"W4A16": "MarlinKernel"}}
    assert json.loads(EngineInfo.of(kept).model_dump_json()) == kept
    assert EngineInfo.of(kept).reported() == kept


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@127.0.0.1:1",
        f"http://me:{SECRET}@127.0.0.1:0",
        f"http://127.0.0.1:1?token={SECRET}",
        f"http://127.0.0.1:1/v1#{SECRET}",
    ],
)
def test_an_address_with_a_key_in_it_is_refused_without_repeating_it(cli: Cli, url: str) -> None:
    done = cli("+model=tiny-qwen3", "accuracy=none", "engine=attach", f"engine.url='{url}'")
    assert done.returncode == 2
    assert "engine.api_key_env=VARIABLE" in done.stderr + done.stdout
    assert SECRET not in done.stderr + done.stdout
    assert SECRET not in all_text(cli.folder)
