"""For the serving tests: a tiny random checkpoint, transformers over it, and a server process with a client."""

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

VOCAB = 300
BROKEN = 297
"""A token with NaN as its embedding: every request that reads it fails."""
CONTEXT = 32768
CHUNK = 64


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
    """The same checkpoint in transformers, without cache, batch or chunks."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def logprobs(self, ids: list[int]) -> Any:
        """Return log-probabilities of the token after each position, (positions, vocabulary)."""
        import torch

        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def greedy(self, ids: list[int], n: int) -> list[int]:
        tokens = list(ids)
        for _ in range(n):
            tokens.append(int(self.logprobs(tokens)[-1].argmax()))
        return tokens[len(ids) :]


class Server:
    """A server process and a client for it."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        argv = [sys.executable, "-m", "bench.servers.reference", "--model-path", str(folder), "--port", str(self.port)]
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
        statuses = set()
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                status = self.get("/health")[0]
            except urllib.error.URLError:
                status = 0
            if status == 200:
                assert statuses <= {0, 503}
                return
            statuses.add(status)
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def stop(self) -> float:
        """End it with SIGTERM and return the duration, s."""
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
        """Send a request and disconnect at the end of the ``with`` block, whether or not it was answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/generate", json.dumps(body))
        with closing(connection):
            yield connection

    @contextmanager
    def streaming(self, ids: list[int], n: int) -> Iterator[None]:
        """Wait for the first of ``n`` tokens, and disconnect at the end of the ``with`` block."""
        params = {"max_new_tokens": n, "temperature": 0, "ignore_eos": True}
        body = {"input_ids": ids, "sampling_params": params, "stream": True}
        with self.connected(body) as connection, connection.getresponse() as response:
            assert b'"output_ids"' in response.readline()
            yield

    def flush(self) -> int:
        return self.send("/flush_cache", b"", "POST")[0]

    def await_flush(self) -> None:
        """Flush as soon as no request is running."""
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
    started = Server(checkpoint, "--context-length", str(CONTEXT), "--max-prefill-chunk", str(CHUNK))
    started.await_ready()
    yield started
    started.stop()


@pytest.fixture
def server(running: Server) -> Server:
    """Return the running server, idle and with an empty prefix cache."""
    running.await_flush()
    return running
