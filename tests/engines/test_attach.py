import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.errors import EngineError, SourceError
from bench.records.record import RequestTrace
from bench.servers.lifecycle import RunningEngine, serve
from bench.speed.client import Client, run
from bench.speed.words import Words, read_words
from quantize.architecture import Architecture
from testkit import streamer
from tests.support.attached import SHAPE, answers, config, engine, fields
from tests.support.hub import COMMIT, Hub, Repo, clean_environment, offline_env
from tests.support.hub import serve as serve_hub
from tests.support.paths import ROOT
from tests.support.presets import URL
from tests.support.serving import Server, checkpoint

__all__ = ["checkpoint"]

TEXT = "the house and the tree are near a river where people walk in the morning light of a summer day " * 20


def attached_to(**changes: Any) -> Any:
    return serve(
        engine(**changes), None, context_length=512, what="it", log_file=Path("none.log"), on_wait=lambda: None
    )


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a byte-level tokenizer as in Qwen and Llama 3, trained on a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a SentencePiece tokenizer, as in Llama 2 and Mistral."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(special_tokens=["<s>", "</s>"]))
    folder = tmp_path_factory.mktemp("metaspace")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["bpe", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Server]:
    started = Server(checkpoint)
    started.await_ready()
    yield started
    started.stop()


def test_an_address_is_accepted_with_and_without_its_version() -> None:
    assert config(url="http://host:8000/").url == config(url="http://host:8000/v1").url == "http://host:8000"


@pytest.mark.parametrize("url", [None, "host:8000", "ftp://host"])
def test_a_missing_address_is_rejected(url: str | None) -> None:
    with pytest.raises(ValidationError, match=r"engine\.url=http://"):
        config(url=url)


def test_text_needs_a_tokenizer_and_the_protocol_that_takes_it() -> None:
    with pytest.raises(ValidationError, match=r"needs engine\.protocol=openai and engine\.tokenizer"):
        config(prompt="text")
    with pytest.raises(ValidationError, match=r"needs engine\.protocol=openai"):
        config(prompt="text", protocol="sglang", tokenizer="somewhere")
    with pytest.raises(ValidationError, match="for prompt=text"):
        config(prompt_overhead=1)


def test_nothing_is_started() -> None:
    assert engine().address == URL
    assert engine().interpreter("it") is None


def test_a_prompt_without_a_tokenizer_keeps_away_from_both_ends_of_the_vocabulary() -> None:
    ids = engine().vocabulary(Architecture(**{**SHAPE, "vocab_size": 151936}), None)
    assert (ids[0], ids[-1]) == (15193, 136741)
    assert engine().text_of() is None


def test_with_a_tokenizer_ids_are_its_ordinary_ones(bpe: Path) -> None:
    ids = engine(tokenizer=bpe).vocabulary(Architecture(**SHAPE), None)
    assert min(ids) == 2, "0 and 1 are special"
    assert len(ids) > 256


def test_a_local_tokenizer_is_found_from_any_folder(bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bpe.parent)
    path = engine(tokenizer=bpe.name).tokenizer(None)
    monkeypatch.chdir(tmp_path)
    assert path == bpe
    with pytest.raises(SourceError, match=r"engine\.tokenizer=FOLDER"):
        engine().tokenizer(None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"engine\.tokenizer=FOLDER, or its name on the hub"),
        ({"tokenizer": "no/such/folder"}, "there is no folder no/such/folder"),
        ({"tokenizer": "."}, r"contains none of tokenizer\.json"),
        ({"tokenizer": "bpe", "prompt": "text"}, "engine.prompt=text says that the server accepts none"),
    ],
    ids=["none", "not there", "not one", "no ids"],
)
def test_missing_requirements_of_accuracy_tasks_are_reported_first(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = engine(**changes).unscorable()
    assert reason is not None
    assert re.search(message, reason)
    assert "\n" not in reason


def test_a_local_or_hub_tokenizer_lets_accuracy_tasks_run(bpe: Path) -> None:
    assert engine(tokenizer=bpe).unscorable() is None
    assert engine(tokenizer="Qwen/Qwen3-8B").unscorable() is None


FETCH = """
import json, sys
from bench.engines import attach
from bench.errors import SourceError
fields = json.loads(sys.argv[1])
try:
    folder = attach.Attach(name="attach", config=attach.Config.model_validate(fields)).tokenizer(None)
    print(json.dumps([str(folder), sorted(file.name for file in folder.iterdir())]))
except SourceError as error:
    print(json.dumps(str(error)))
"""


def fetched(env: dict[str, str], tmp_path: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(fields(url="http://host", tokenizer="someone/model"))],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT), **env),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_tokenizer_on_the_hub_is_fetched_once_and_without_weights(tmp_path: Path) -> None:
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    heavy = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "code.py")
    repo = Repo(dict.fromkeys((*names, *heavy), b"{}"))
    with serve_hub(Hub({"someone/model": repo})) as hub:
        folder, files = fetched(hub.env(tmp_path / "home"), tmp_path)
    assert Path(folder).name == COMMIT
    assert files == sorted(names)
    assert fetched(offline_env(tmp_path / "home"), tmp_path) == [folder, files], "the hub is no longer needed"


def test_a_tokenizer_missing_on_the_hub_is_reported(tmp_path: Path) -> None:
    with serve_hub(Hub({})) as hub:
        message = fetched(hub.env(tmp_path / "home"), tmp_path)
    assert message.startswith("engine.tokenizer=someone/model is not a local folder, and from the hub: ")
    assert "no public repository someone/model" in message


def test_sampled_words_are_encoded_as_the_sampled_tokens(tokenizer: Path) -> None:
    from tokenizers import Tokenizer

    real = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    words = read_words(tokenizer / "tokenizer.json")
    assert len(words.ids) > 10

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.sampled_from(words.ids), min_size=1, max_size=60))
    def holds(ids: list[int]) -> None:
        assert real.encode(words.text(ids), add_special_tokens=False).ids == ids

    holds()


def test_a_text_leaves_room_for_what_the_server_adds(bpe: Path) -> None:
    with_overhead = engine(prompt="text", tokenizer=bpe, prompt_overhead=1)
    ids = with_overhead.vocabulary(Architecture(**SHAPE), None)[:5]
    write = with_overhead.text_of()
    assert write is not None
    assert len(write(ids).split()) == 4
    assert len(write(ids[:1]).split()) == 1, "a prompt is never empty"


def test_a_probe_with_any_id_is_a_text_too() -> None:
    assert Words(by_id={7: "house"}, leading_space=True).text([100]) == " house"


def test_a_tokenizer_without_words_is_rejected(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SourceError, match="no words that remain one token each"):
        read_words(tmp_path / "tokenizer.json")
    with pytest.raises(SourceError, match="is not a readable tokenizer"):
        read_words(tmp_path / "none.json")


def test_unproven_assumptions_are_listed() -> None:
    assert any("quant=" in text for text in engine().unproven())
    assert not any("text was sent" in text for text in engine().unproven())
    assumptions = engine(prompt="text", tokenizer="folder", prompt_overhead=1).unproven()
    assert any("including 1 that it adds" in text for text in assumptions)


VLLM = {"data": [{"id": "m", "max_model_len": 8192}]}
PLAIN = {"data": [{"id": "m"}]}


@pytest.mark.parametrize(
    ("endpoints", "version", "context"),
    [
        ({"v1__models": VLLM, "version": {"version": "0.32.0"}}, "0.32.0", 8192),
        ({"v1__models": PLAIN, "props": {"build_info": "b6000-abc", "default_generation_settings": {"n_ctx": 4096}}},
         "b6000-abc", 4096),
        ({"v1__models": PLAIN, "api__version": {"version": "0.12.3"}}, "0.12.3", None),
        ({"v1__models": PLAIN}, None, None),
        ({"version": ["odd"]}, None, None),
    ],
    ids=["vllm", "llama.cpp", "ollama", "only its models", "nearly nothing"],
)  # fmt: skip
def test_version_and_context_are_read_from_any_endpoint(
    endpoints: dict[str, Any], version: str | None, context: int | None
) -> None:
    info, facts = engine(served_model="m").facts(answers(**endpoints), lambda: "")
    assert (facts.version, facts.max_context_tokens, facts.devices) == (version, context, 1)
    assert info.version == version


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda path: (0, b""), "nothing answers at http://127.0.0.1:1: is the server running"),
        (
            lambda path: (401, b"{}"),
            r"denies access \(HTTP 401\): name the variable that holds its key with engine.api_key_env",
        ),
        (answers(v1__models=VLLM), "has no model 'other'; it serves m: engine.served_model=NAME"),
    ],
    ids=["down", "locked", "another model"],
)
def test_a_wrong_address_key_or_model_gets_one_line(ask: Callable[[str], tuple[int, bytes]], message: str) -> None:
    with pytest.raises(EngineError, match=message) as error:
        engine(served_model="other").facts(ask, lambda: "")
    assert "\n" not in str(error.value)


def test_limits_reported_by_sglang_are_read() -> None:
    states = [{"effective_max_running_requests_per_dp": 48}] * 2
    info = {"version": "0.5.23", "context_length": 4096, "max_req_input_len": 4090, "internal_states": states}
    _, facts = engine(protocol="sglang").facts(answers(server_info=info), lambda: "")
    assert (facts.max_running, facts.max_context_tokens) == (96, 4090)
    info = {"context_length": 4096, "max_running_requests": 16}
    _, facts = engine(protocol="sglang").facts(answers(server_info=info), lambda: "")
    assert (facts.max_running, facts.max_context_tokens) == (16, 4096)


def test_a_server_of_another_protocol_is_reported() -> None:
    with pytest.raises(EngineError, match="not an SGLang server"):
        engine(protocol="sglang").facts(answers(v1__models=PLAIN), lambda: "")


def ask(served: RunningEngine, ids: list[int], tokens: int) -> RequestTrace:
    async def measured() -> RequestTrace:
        async with Client(
            served.base_url,
            protocol=served.engine.protocol,
            total_timeout_s=120,
            stall_timeout_s=120,
            api_key=served.api_key,
            model=served.engine.served_model,
            text_of=served.engine.text_of(),
        ) as client:
            return await client.generate(ids, max_new_tokens=tokens)

    return run(measured())


def test_the_reference_server_is_attached_to_by_its_native_protocol(server: Server) -> None:
    here = {"url": f"http://127.0.0.1:{server.port}", "protocol": "sglang"}
    with attached_to(**here) as served:
        assert served.child is None
        assert served.facts.max_context_tokens is not None
        assert served.facts.kv_capacity_tokens is not None
        ids = list(engine(**here).vocabulary(Architecture(**SHAPE), None))[:9]
        trace = ask(served, ids, 5)
    assert (trace.error, trace.prompt_tokens, trace.completion_tokens, trace.cached_tokens) == (None, 9, 5, 0)
    assert server.process.poll() is None, "an attached server is not ended"


def test_a_server_of_openais_protocol_gets_ids_or_text(bpe: Path) -> None:
    with streamer.running() as fake:
        here = {"url": fake.base_url, "served_model": streamer.MODEL}
        for changes in ({"tokenizer": bpe}, {"tokenizer": bpe, "prompt": "text"}):
            with attached_to(**here, **changes) as served:
                fake.load(streamer.Script(steps=[(0.0, 1)] * 3, prompt_tokens=4))
                ids = list(served.engine.vocabulary(Architecture(**SHAPE), None))[:4]
                trace = ask(served, ids, 3)
            assert (trace.error, trace.prompt_tokens, trace.completion_tokens) == (None, 4, 3)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(EngineError, match=re.escape("export NO_SUCH_KEY=")), attached_to(api_key_env="NO_SUCH_KEY"):
        pass
