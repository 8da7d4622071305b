"""The reference server over real HTTP, held to plain transformers on a tiny random model in float32."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 300
BROKEN = 297
"""A token whose embedding is not a number: whatever reads it fails."""
CONTEXT = 32768
CHUNK = 64
FAMILIES = ("qwen3", "qwen3_moe", "llama")


def tiny_config(family: str) -> Any:
    from transformers import AutoConfig

    shape: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": CONTEXT,
        "eos_token_id": 299, "pad_token_id": 298, "bos_token_id": None, "initializer_range": 0.1,
        "tie_word_embeddings": False,
    }  # fmt: skip
    if family == "qwen3_moe":
        shape |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    return AutoConfig.for_model(family, **shape)


def write_checkpoint(folder: Path, family: str = "qwen3") -> None:
    """Write random weights and a byte-level tokenizer whose first 256 tokens are single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[BROKEN] = float("nan")
        model.get_output_embeddings().weight[BROKEN] = -10 * model.get_output_embeddings().weight.mean(0)
    model.save_pretrained(folder)
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"<{n}>" for n in range(256, VOCAB))]
    bpe = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<299>", pad_token="<298>").save_pretrained(folder)


class Reference:
    """The same checkpoint in plain transformers: no cache, no batch, no chunks."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def logprobs(self, ids: list[int]) -> Any:
        """Return (positions, vocabulary) log-probabilities of what follows each position."""
        import torch

        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def greedy(self, ids: list[int], n: int) -> list[int]:
        found = list(ids)
        for _ in range(n):
            found.append(int(self.logprobs(found)[-1].argmax()))
        return found[len(ids) :]


class Server:
    """A server process and a client for it."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        argv = [sys.executable, "-m", "bench.serving", "--model-path", str(folder), "--port", str(self.port)]
        self.log = folder.parent / f"server-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, "--device", "cpu", "--exit-with-parent", *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def await_ready(self) -> None:
        seen = set()
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                status = self.get("/health")[0]
            except urllib.error.URLError:
                status = 0
            if status == 200:
                assert seen <= {0, 503}
                return
            seen.add(status)
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def stop(self) -> float:
        """End it with SIGTERM and return how many seconds that took."""
        start = time.perf_counter()
        self.process.terminate()
        assert self.process.wait(10) == 0, self.log.read_text()
        assert self.process.stdin
        self.process.stdin.close()
        return time.perf_counter() - start

    def send(self, path: str, body: bytes | None, method: str) -> tuple[int, str, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def get(self, path: str) -> tuple[int, str, bytes]:
        return self.send(path, None, "GET")

    def post(self, body: Any) -> tuple[int, Any]:
        status, _, answer = self.send("/generate", json.dumps(body).encode(), "POST")
        return status, json.loads(answer)

    def generate(self, ids: list[int], n: int, *, more: dict[str, Any] | None = None, **sampling: Any) -> Any:
        """Continue ``ids`` greedily by ``n`` tokens."""
        params = {"max_new_tokens": n, "temperature": 0, "ignore_eos": True, **sampling}
        status, answer = self.post({"input_ids": ids, "sampling_params": params, **(more or {})})
        assert status == 200, answer
        return answer

    def stream(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        status, content_type, answer = self.send("/generate", json.dumps({**body, "stream": True}).encode(), "POST")
        assert (status, content_type) == (200, "text/event-stream; charset=utf-8")
        *events, done, rest = answer.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    @contextmanager
    def connected(self, body: dict[str, Any]) -> Iterator[http.client.HTTPConnection]:
        """Send a request and leave at the end of the ``with`` block, whatever has been answered by then."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/generate", json.dumps(body))
        with closing(connection):
            yield connection

    @contextmanager
    def streaming(self, ids: list[int], n: int) -> Iterator[None]:
        """Be a client that has seen the first of ``n`` tokens, and leaves at the end of the ``with`` block."""
        params = {"max_new_tokens": n, "temperature": 0, "ignore_eos": True}
        body = {"input_ids": ids, "sampling_params": params, "stream": True}
        with self.connected(body) as connection, connection.getresponse() as response:
            assert b'"output_ids"' in response.readline()
            yield

    def flush(self) -> int:
        return self.send("/flush_cache", b"", "POST")[0]

    def await_flush(self) -> None:
        """Flush as soon as nothing runs any more."""
        deadline = time.monotonic() + 5
        while self.flush() != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def prompt(seed: int, n: int) -> list[int]:
    """Return ``n`` ordinary token ids."""
    return random.Random(seed).choices(range(VOCAB - 4), k=n)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "tiny"
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="session")
def running(checkpoint: Path) -> Iterator[Server]:
    found = Server(checkpoint, "--context-length", str(CONTEXT), "--max-prefill-chunk", str(CHUNK))
    found.await_ready()
    yield found
    found.stop()


@pytest.fixture
def server(running: Server) -> Server:
    """Return the running server, idle and with an empty prefix cache."""
    running.await_flush()
    return running


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
    found = [entry[0] for entry in answer["meta_info"]["output_token_ids_logprobs"][0]]
    assert found == pytest.approx(reference.logprobs(ids)[-1].tolist(), abs=1e-4)
    assert server.generate(ids, 1)["meta_info"]["cached_tokens"] == len(ids) - 1
    # The last generated token was never read, so its keys do not exist.
    longer = [*first, *output, 7]
    assert server.generate(longer, 1)["meta_info"]["cached_tokens"] == len(first) + len(output) - 1


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
def test_a_bad_request_is_refused_and_says_why(server: Server, case: str) -> None:
    body, says = BAD[case]
    raw = body if isinstance(body, str) and body == "{" else json.dumps(body)
    status, content_type, answer = server.send("/generate", raw.encode(), "POST")
    assert (status, content_type.partition(";")[0]) == (400, "application/json")
    found = json.loads(answer)
    assert says in found.get("error", found)["message"]


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
    # 30,000 tokens take this model a minute; only a cancelled request lets the flush through at once.
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


def test_it_tells_what_it_is(server: Server, checkpoint: Path) -> None:
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
    argv = [sys.executable, "-m", "bench.serving", "--model-path", str(checkpoint), "--port", "0", "--exit-with-parent"]
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


# The parts, without HTTP.


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_batches_in_chunks_equal_one_forward_pass(tmp_path: Path, family: str) -> None:
    import torch

    from bench.serving.kv import SequenceKV
    from bench.serving.model import Model

    write_checkpoint(tmp_path / family, family)
    model, reference = Model(tmp_path / family, "cpu", "float32"), Reference(tmp_path / family)
    ids = [prompt(1, 90), prompt(2, 31), prompt(3, 2)]
    sequences = [SequenceKV(reserve=1) for _ in ids]
    for tokens, kv in zip(ids, sequences, strict=True):
        for begin in range(0, len(tokens) - 1, 40):
            model.forward([tokens[begin : min(begin + 40, len(tokens) - 1)]], [kv], keep=1)
    found = model.forward([tokens[-1:] for tokens in ids], sequences, keep=1)[:, 0]
    truth = torch.stack([reference.logprobs(tokens)[-1] for tokens in ids])
    torch.testing.assert_close(found.log_softmax(-1), truth, atol=1e-4, rtol=0)


def test_attention_in_blocks_equals_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bench.serving import attention

    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 30, 8), torch.randn(1, 2, 100, 8), torch.randn(1, 2, 100, 8)
    mask = torch.arange(100)[None] <= torch.arange(70, 100)[:, None]
    truth = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    for scores in (1, 7 * 4 * 100, 2**20):
        monkeypatch.setattr(attention, "SCORES_PER_BLOCK", scores)
        torch.testing.assert_close(attention.causal(query, key, value, 0.3), truth)


def test_activations_of_an_fp8_checkpoint_stay_rounded(tmp_path: Path) -> None:
    """A library that dropped this rounding would flatter every W8A8 score."""
    import torch

    from bench.serving.kv import SequenceKV
    from bench.serving.model import Model

    write_checkpoint(tmp_path / "bf16")
    code = (
        "import sys, torch\n"
        "from llmcompressor import oneshot\n"
        "from llmcompressor.modifiers.quantization import QuantizationModifier\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)\n"
        "recipe = QuantizationModifier(targets='Linear', scheme='FP8_DYNAMIC', ignore=['lm_head'])\n"
        "oneshot(model=model, recipe=recipe)\n"
        "model.save_pretrained(sys.argv[2], save_compressed=True)\n"
    )
    target = tmp_path / "fp8"
    argv = [sys.executable, "-c", code, str(tmp_path / "bf16"), str(target)]
    subprocess.run(argv, check=True, capture_output=True, cwd=tmp_path)
    model = Model(target, "cpu", "auto")
    assert model.quantization
    assert (model.quantization["quant_method"], model.dtype) == ("compressed-tensors", "bfloat16")
    assert model.tokenizer is None
    model.forward([[1, 2, 3]], [SequenceKV(reserve=3)], keep=1)
    layer = model._model.model.layers[0].mlp.gate_proj
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        plain = torch.nn.functional.linear(x, layer.weight)
        difference = (layer(x) - plain).norm() / plain.norm()
    assert 0.01 < float(difference) < 0.06


def test_characters_are_held_back_until_all_their_bytes_are_there(reference: Reference) -> None:
    from bench.serving.text import TextStream

    said = "aé€😀 end"
    ids = reference.tokenizer.encode(said)
    stream = TextStream(reference.tokenizer, skip_special_tokens=True)
    for n, token in enumerate(ids):
        stream.push(token)
        assert said.startswith(stream.text)
        assert len(stream.text) == len(reference.tokenizer.decode(ids[: n + 1]).rstrip("\ufffd"))
    assert stream.text == stream.whole(ids, None) == said
    assert stream.whole(ids, "€") == "aé"


def test_bytes_that_are_no_character_are_not_held_back_for_ever(reference: Reference) -> None:
    from bench.serving.text import TextStream

    stream = TextStream(reference.tokenizer, skip_special_tokens=True)
    continuation = reference.tokenizer.encode("é")[1]
    for _ in range(10):
        stream.push(continuation)
    assert len(stream.text) >= 8


def test_the_prefix_cache_forgets_the_least_recently_used() -> None:
    import torch

    from bench.serving.kv import SequenceKV
    from bench.serving.prefix import PrefixCache

    def filled(n: int) -> SequenceKV:
        kv = SequenceKV(reserve=1)
        for position in range(n):
            kv.append(0, torch.full((1, 1, 2), float(position)), torch.full((1, 1, 2), -float(position)))
            kv.advance(1)
        return kv

    cache = PrefixCache(max_tokens=10)
    cache.insert([1, 2, 3, 4], filled(4))
    cache.insert([5, 6, 7, 8], filled(4))
    hit = cache.longest([1, 2, 3, 9], limit=4, reserve=8)
    assert hit.length == 3
    keys, values = hit.append(0, torch.full((1, 1, 2), 9.0), torch.full((1, 1, 2), -9.0))
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 9]
    assert values[0, 0, :, 1].tolist() == [0, -1, -2, -9]
    cache.insert([9] * 4, filled(4))
    assert [cache.longest(tokens, 4, 4).length for tokens in ([1, 2, 3, 4], [5, 6, 7, 8], [9] * 4)] == [4, 0, 4]
    cache.insert([1, 2, 3, 4, 5, 6], filled(6))
    assert cache.longest([9] * 4, 4, 4).length == 4
    cache.insert([0] * 11, filled(11))
    assert cache.longest([0] * 11, 11, 11).length == 0
