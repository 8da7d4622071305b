"""The reference server and the client, tested against recorded answers of a real SGLang 0.5.23.

``make contract-sglang`` checks the real server against the same recordings, with the same function.
"""

# ruff: noqa: F401, F811 — fixtures are imported by name

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.records.record import RequestTrace
from tests.contract import answers, hold, known, replay
from tests.contract.asked import INCREMENTAL, N_IDS, requests
from tests.support.paths import ROOT
from tests.support.serving import CONTEXT, VOCAB, Server, checkpoint, prompt, running, server

IDS = prompt(0, N_IDS)
ASKED = requests(IDS, choices=[30, 31, 32, 33], context_length=CONTEXT)
SCHEMA = answers.read_schema()
OPENAI = {name for name, asked in ASKED.items() if asked.path.startswith("/v1/")}
"""Requests of the API that the reference server does not offer."""
SMALL = 256
"""Context of a server that is quickly filled, tokens."""
STREAMS = sorted(name for name in SCHEMA if "event-stream" in str(SCHEMA[name]["content_type"]))
ANSWERED = [name for name in STREAMS if name.startswith(("generate", "score"))]


def test_every_request_has_a_recording_and_every_recording_a_request() -> None:
    incremental = {f"{name}_incremental" for name in INCREMENTAL}
    files = {file.stem for file in answers.FOLDER.glob("*.json")} - {Path(answers.SCHEMA).stem}
    assert ASKED.keys() | incremental == SCHEMA.keys() == files


@pytest.mark.parametrize("name", sorted(ASKED.keys() - OPENAI))
def test_the_reference_server_answers_in_the_form_of_sglang(server: Server, name: str) -> None:
    answer = answers.sender(f"http://127.0.0.1:{server.port}")(ASKED[name])
    without = hold.SGLANG_ONLY | hold.QUIRKS.get(name, frozenset())
    assert hold.differences(name, ASKED[name], answer, SCHEMA[name], without=without) == []


@pytest.mark.parametrize("name", sorted(SCHEMA))
def test_the_schema_follows_from_the_recordings(name: str) -> None:
    assert answers.form(answers.recorded_answer(name)) == SCHEMA[name]


@pytest.mark.parametrize("file", sorted(answers.FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_recordings_reveal_nothing_of_the_machine_they_come_from(file: Path) -> None:
    text = file.read_text()
    places = (str(Path.home()), "/home/", "/tmp/", socket.gethostname())
    assert [word for word in places if word in text] == []
    assert '"api_key": "' not in text.replace('"api_key": "…"', "")


@pytest.fixture(scope="module")
def small(checkpoint: Path) -> Iterator[Server]:
    small_server = Server(checkpoint, "--context-length", str(SMALL))
    small_server.await_ready()
    yield small_server
    small_server.stop()


def test_the_known_differences_are_those_on_the_page(small: Server) -> None:
    send = answers.sender(f"http://127.0.0.1:{small.port}")
    listed = known.differences(IDS, SMALL)
    outcomes = {difference.what: known.outcome(send(difference.asked)) for difference in listed}
    assert outcomes == {difference.what: difference.reference for difference in listed}
    assert send(known.unknown_token(VOCAB)).status == 400
    for name in sorted(OPENAI):
        assert send(ASKED[name]).status == 404


def played_back(name: str, seed: int) -> RequestTrace:
    async def run() -> RequestTrace:
        async with replay.played_back(answers.recorded_answer(name), seed) as base_url:
            return await replay.read(base_url, IDS, 5)

    return asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ANSWERED)
def test_the_client_reads_a_recorded_stream_of_the_real_server(name: str, seed: int) -> None:
    body = answers.read_fixture(name)["request"]["body"]
    n = body["sampling_params"]["max_new_tokens"]
    trace = played_back(name, seed)
    assert replay.wrong(trace, len(body["input_ids"]), n) == []
    assert trace.event_tokens == (1,) * n
    assert list(trace.event_ns) == sorted(trace.event_ns)


def test_the_client_reports_the_real_servers_own_reason() -> None:
    trace = played_back("error_too_long_stream", 0)
    assert "is longer than the model's context length" in str(trace.error)
    assert trace.event_tokens == ()


def test_the_page_lists_every_known_difference() -> None:
    page = (ROOT / "docs" / "contract-sglang.md").read_text()
    for row in known.differences(IDS, CONTEXT):
        assert f"| {row.what} | {row.real} | {row.reference} | {row.matters} |" in page
    assert known.UNKNOWN_TOKEN in page


def test_a_wrong_answer_is_reported_field_by_field() -> None:
    asked = ASKED["generate"]
    recorded = answers.recorded_answer("generate")
    assert hold.differences("generate", asked, recorded, SCHEMA["generate"]) == []
    value = json.loads(recorded.text)
    value["meta_info"]["prompt_tokens"] = N_IDS - 1
    wrong = hold.differences("generate", asked, _with(value), SCHEMA["generate"])
    assert wrong == [f"generate: prompt_tokens is {N_IDS - 1}, sent were {N_IDS}"]
    value["output_ids"] = ["1"]
    del value["text"]
    assert hold.differences("generate", asked, _with(value), SCHEMA["generate"]) == [
        "generate: text is missing, recorded ['string']",
        "generate: output_ids[] is ['string'], recorded ['integer']",
    ]
    failed = answers.Answer(500, recorded.content_type, recorded.text)
    assert hold.differences("generate", asked, failed, SCHEMA["generate"]) == ["generate: status: 500, recorded 200"]


def _with(value: object) -> answers.Answer:
    return answers.Answer(200, "application/json", json.dumps(value))
