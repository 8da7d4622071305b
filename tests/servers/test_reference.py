"""The reference server over real HTTP, compared with plain transformers on a tiny random model in float32."""

# ruff: noqa: F401, F811 — fixtures are imported by name

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.serving import (
    BROKEN,
    CHUNK,
    CONTEXT,
    VOCAB,
    Reference,
    Server,
    checkpoint,
    prompt,
    reference,
    running,
    server,
)


@pytest.mark.parametrize("n", [1, 7, CHUNK, CHUNK + 1, 200])
def test_greedy_tokens_are_those_of_plain_transformers(server: Server, reference: Reference, n: int) -> None:
    ids = prompt(n, n)
    answer = server.generate(ids, 12)
    assert answer["output_ids"] == reference.greedy(ids, 12)
    assert answer["text"] == reference.tokenizer.decode(answer["output_ids"], skip_special_tokens=True)
    meta = answer["meta_info"]
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (n, 12, 0)
    assert meta["finish_reason"] == {"type": "length", "length": 12}


def test_requests_served_together_get_what_they_get_alone(server: Server, reference: Reference) -> None:
    jobs = [(prompt(seed, 5 + 30 * seed), 4 + 3 * (seed % 4)) for seed in range(8)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: server.generate(*job), jobs))
    assert [answer["output_ids"] for answer in answers] == [reference.greedy(*job) for job in jobs]


def test_a_batch_is_answered_in_order(server: Server, reference: Reference) -> None:
    batch = [prompt(1, 40), prompt(2, 3), prompt(3, 90)]
    params = {"max_new_tokens": 3, "temperature": 0, "ignore_eos": True}
    status, answers = server.post({"input_ids": batch, "sampling_params": params})
    assert status == 200
    assert [answer["output_ids"] for answer in answers] == [reference.greedy(ids, 3) for ids in batch]


def test_a_cached_beginning_is_counted_exactly_and_changes_nothing(server: Server, reference: Reference) -> None:
    first = prompt(4, 200)
    output = server.generate(first, 5)["output_ids"]
    ids = [*first[:150], (first[150] + 1) % 250, *prompt(5, 30)]
    want = {"return_logprob": True, "token_ids_logprob": list(range(VOCAB))}
    answer = server.generate(ids, 1, more=want)
    assert answer["meta_info"]["cached_tokens"] == 150
    logprobs = [entry[0] for entry in answer["meta_info"]["output_token_ids_logprobs"][0]]
    assert logprobs == pytest.approx(reference.logprobs(ids)[-1].tolist(), abs=1e-4)
    assert server.generate(ids, 1)["meta_info"]["cached_tokens"] == len(ids) - 1
    # The last generated token was never read, so its keys do not exist.
    longer = [*first, *output, 7]
    assert server.generate(longer, 1)["meta_info"]["cached_tokens"] == len(first) + len(output) - 1


def test_a_shared_beginning_is_computed_once_even_if_prompts_come_together(
    server: Server, reference: Reference
) -> None:
    shared = prompt(20, 150)
    prompts = [[*shared, *prompt(30 + number, 10 + number)] for number in range(8)]
    status, answers = server.post(
        {
            "input_ids": prompts,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "token_ids_logprob": [3, 250],
            "logprob_start_len": -1,
        }
    )
    assert status == 200
    for ids, answer in zip(prompts, answers, strict=True):
        (logprobs,) = answer["meta_info"]["output_token_ids_logprobs"]
        truth = reference.logprobs(ids)[-1]
        assert [value for value, _, _ in logprobs] == pytest.approx([float(truth[3]), float(truth[250])], abs=1e-4)
    assert sorted(answer["meta_info"]["cached_tokens"] for answer in answers) == [0, *[150] * 7]


def test_short_prompts_are_computed_together_and_do_not_see_each_other(server: Server, reference: Reference) -> None:
    prompts = [prompt(50 + number, 3 + 5 * number) for number in range(7)]
    params = {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True}
    status, answers = server.post({"input_ids": prompts, "sampling_params": params})
    assert status == 200
    assert [answer["output_ids"] for answer in answers] == [reference.greedy(ids, 4) for ids in prompts]
    assert {answer["meta_info"]["cached_tokens"] for answer in answers} == {0}


def test_scored_positions_are_never_taken_from_the_cache(server: Server) -> None:
    ids = prompt(6, 100)
    server.generate(ids, 1)
    for start in (80, 0):
        answer = server.generate(ids, 0, more={"return_logprob": True, "logprob_start_len": start})
        assert answer["meta_info"]["cached_tokens"] == start
        assert len(answer["meta_info"]["input_token_logprobs"]) == len(ids) - start


@pytest.mark.parametrize("start", [0, 90, 149])
def test_log_probabilities_are_those_of_plain_transformers(server: Server, reference: Reference, start: int) -> None:
    ids = prompt(7, 150)
    more = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 2, "token_ids_logprob": [3, 250]}
    meta = server.generate(ids, 2, more=more)["meta_info"]
    output = reference.greedy(ids, 2)
    truth = reference.logprobs([*ids, *output])
    assert meta["input_token_logprobs"][0] == [None, ids[start], None]
    assert meta["input_top_logprobs"][0] is None
    assert meta["input_token_ids_logprobs"][0] is None
    for position in range(start, len(ids) + 1):
        kind, at = ("input", position - start + 1) if position < len(ids) - 1 else ("output", position - len(ids) + 1)
        value, token, text = meta[f"{kind}_token_logprobs"][at]
        assert (token, text) == ([*ids, *output][position + 1], None)
        assert value == pytest.approx(float(truth[position, token]), abs=1e-4)
        best = truth[position].topk(2)
        top = meta[f"{kind}_top_logprobs"][at]
        assert [entry[1] for entry in top] == best.indices.tolist()
        assert [entry[0] for entry in top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [entry[0] for entry in meta[f"{kind}_token_ids_logprobs"][at]] == pytest.approx(
            truth[position, [3, 250]].tolist(), abs=1e-4
        )
    assert len(meta["input_token_logprobs"]) == len(ids) - start
    assert meta["output_token_logprobs_length"] == len(meta["output_token_logprobs"]) == 2


def test_a_stream_grows_token_by_token_to_the_same_answer(server: Server) -> None:
    ids = prompt(8, 20)
    params = {"max_new_tokens": 9, "temperature": 0, "ignore_eos": True}
    events = server.stream({"input_ids": ids, "sampling_params": params, "return_logprob": True})
    whole = server.generate(ids, 9)
    assert [event["output_ids"] for event in events] == [whole["output_ids"][: n + 1] for n in range(9)]
    assert events[-1]["text"] == whole["text"]
    assert [event["meta_info"]["finish_reason"] for event in events[:-1]] == [None] * 8
    assert [len(event["meta_info"]["output_token_logprobs"]) for event in events] == list(range(1, 10))
    assert len({event["meta_info"]["id"] for event in events}) == 1


def test_stop_texts_end_the_answer_and_are_cut_off(server: Server, reference: Reference) -> None:
    ids = prompt(9, 20)
    output = reference.greedy(ids, 30)
    texts = [reference.tokenizer.decode(output[: n + 1]) for n in range(30)]
    at, stop = next(
        (n, text[-1]) for n, text in enumerate(texts) if n >= 3 and text[-1].isascii() and text[-1] not in texts[n - 1]
    )
    answer = server.generate(ids, 30, stop=["never", stop])
    assert answer["output_ids"] == output[: at + 1]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert answer["text"] == reference.tokenizer.decode(output).partition(stop)[0]
    params = {"max_new_tokens": 30, "temperature": 0, "ignore_eos": True, "stop": stop}
    assert server.stream({"input_ids": ids, "sampling_params": params})[-1]["text"] == answer["text"]


def test_stop_tokens_end_the_answer_unless_ignored(server: Server, reference: Reference) -> None:
    ids = prompt(10, 20)
    output = reference.greedy(ids, 10)
    stop = output[4]
    at = output.index(stop)
    answer = server.generate(ids, 10, stop_token_ids=[stop], ignore_eos=False)
    assert answer["output_ids"] == output[: at + 1]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert answer["text"] == reference.tokenizer.decode(output[:at])
    assert server.generate(ids, 10, stop_token_ids=[stop])["output_ids"] == output


def test_text_is_encoded_as_the_tokenizer_does(server: Server, reference: Reference) -> None:
    params = {"max_new_tokens": 3, "temperature": 0, "ignore_eos": True}
    status, answer = server.post({"text": "naïve text", "sampling_params": params})
    assert status == 200
    assert answer["output_ids"] == reference.greedy(reference.tokenizer.encode("naïve text"), 3)


def test_sampling_follows_seed_and_limits(server: Server, reference: Reference) -> None:
    ids = prompt(11, 20)
    drawn = [tuple(server.generate(ids, 12, temperature=1.0, sampling_seed=seed)["output_ids"]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert server.generate(ids, 12, temperature=1.0, top_k=1)["output_ids"] == reference.greedy(ids, 12)
    assert server.generate(ids, 12, temperature=1.0, top_p=1e-6)["output_ids"] == reference.greedy(ids, 12)


BAD = {
    "not json": ("{", "JSON"),
    "not an object": ("nonsense", "object"),
    "wrong type": ({"input_ids": ["a"]}, "input_ids"),
    "no prompt": ({}, "input_ids or text"),
    "two prompts": ({"input_ids": [1], "text": "a"}, "input_ids or text"),
    "empty": ({"input_ids": []}, "empty"),
    "empty in a batch": ({"input_ids": [[1], []]}, "empty"),
    "unknown field": ({"input_ids": [1], "lora_path": "x"}, "lora_path"),
    "unknown parameter": ({"input_ids": [1], "sampling_params": {"beams": 2}}, "beams"),
    "negative length": ({"input_ids": [1], "sampling_params": {"max_new_tokens": -3}}, "max_new_tokens"),
    "outside the vocabulary": ({"input_ids": [1, VOCAB]}, f"{VOCAB}, outside the vocabulary"),
    "negative token": ({"input_ids": [-1]}, "-1, outside"),
    "choice outside": ({"input_ids": [1], "return_logprob": True, "token_ids_logprob": [VOCAB]}, "token_ids_logprob"),
    "start outside": ({"input_ids": [1], "return_logprob": True, "logprob_start_len": 1}, "logprob_start_len"),
    "too long": ({"input_ids": [1] * (CONTEXT + 1)}, "longer than the model's context length"),
    "too long together": ({"input_ids": [1], "sampling_params": {"max_new_tokens": CONTEXT}}, "together"),
    "streamed batch": ({"input_ids": [[1]], "stream": True}, "streamed"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_rejected_with_its_reason(server: Server, case: str) -> None:
    body, reason = BAD[case]
    raw = body if isinstance(body, str) and body == "{" else json.dumps(body)
    status, content_type, answer = server.send("/generate", raw.encode(), "POST")
    assert (status, content_type.partition(";")[0]) == (400, "application/json")
    response = json.loads(answer)
    assert reason in response.get("error", response)["message"]


def test_a_failing_forward_pass_fails_one_request_only(server: Server, reference: Reference) -> None:
    neighbour = prompt(12, 30)
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(server.generate, neighbour, 100)
        params = {"max_new_tokens": 2, "temperature": 0}
        status, answer = server.post({"input_ids": [1, BROKEN], "sampling_params": params})
        assert (status, "finite" in answer["error"]["message"]) == (500, True)
        (event,) = server.stream({"input_ids": [1, BROKEN], "sampling_params": params})
        assert event["error"]["code"] == 500
        assert good.result()["output_ids"] == reference.greedy(neighbour, 100)
    assert server.get("/health_generate")[0] == 200


def test_the_cache_is_not_flushed_while_a_request_runs(server: Server) -> None:
    with server.streaming([1, 2, 3], 20000):
        assert server.flush() == 400


def test_a_client_that_leaves_ends_its_request(server: Server) -> None:
    # 30,000 tokens take this model a minute; the flush succeeds at once only if the request is cancelled.
    with server.streaming([1, 2, 3], 30000):
        pass
    server.await_flush()
    params = {"max_new_tokens": 30000, "temperature": 0, "ignore_eos": True}
    with server.connected({"input_ids": [1, 2, 3], "sampling_params": params}):
        time.sleep(0.3)
        assert server.flush() == 400
    server.await_flush()


def test_health_checks_leave_no_trace_in_the_cache(server: Server) -> None:
    assert server.get("/health_generate")[0] == 200
    assert server.generate([0, 1, 2], 1)["meta_info"]["cached_tokens"] == 0


def test_it_describes_itself(server: Server, checkpoint: Path) -> None:
    info = json.loads(server.get("/server_info")[2])
    assert info["engine"] == "quantbench-reference"
    assert (info["context_length"], info["dtype"], info["device"]) == (CONTEXT, "float32", "cpu")
    assert (info["quantization"], info["emulated"], info["num_threads"]) == (None, False, 1)
    assert info["max_total_num_tokens"] >= CONTEXT
    assert json.loads(server.get("/model_info")[2])["model_type"] == "qwen3"


def test_it_ends_on_sigterm_even_while_it_computes(checkpoint: Path) -> None:
    server = Server(checkpoint)
    server.await_ready()
    with server.streaming([1, 2, 3], 30000):
        assert server.stop() < 1.5


def test_it_never_outlives_its_parent(checkpoint: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "bench.servers.reference",
        "--model-path",
        str(checkpoint),
        "--port",
        "0",
        "--exit-with-parent",
    ]
    parent_code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent_code, *argv], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([child], timeout=30)
    assert not alive


def test_a_checkpoint_that_cannot_be_loaded_ends_it_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    server = Server(folder)
    assert server.process.wait(60) == 1
    assert f"cannot serve {folder}" in server.log.read_text()
    assert server.process.stdin
    server.process.stdin.close()
