import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import calibration, rows
from quantize.calibration import (
    calibration_samples,
    heldout_identity,
    heldout_windows,
    identity,
    pool,
    windows,
)
from quantize.checkpoint import CheckpointError
from quantize.rows import passages, read
from quantize.sources import random_weights
from quantize.texts import DATA, CalibrationConfig, HeldoutConfig, SetSpec, locate, set_names
from tests.support.hub import COMMIT, Hub, Repo, clean_environment, offline_env, serve
from tests.support.paths import ROOT

TEXTS = [
    f"Text {number}: " + "the quick brown fox jumps over the lazy dog. " * (number % 5 + 1) for number in range(60)
]
CHATS = [
    [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "A number. " * 9}]
    for number in range(40)
]
CLASSIC = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if enable_thinking %}<think>{% endif %}"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QUANTBENCH_HUB", raising=False)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    return random_weights._tokenizer(1024)


def write_parquet(file: Path, **columns: list[Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, row_group_size=16)
    return file


def write_lines(file: Path, found: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in found)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()) if file.name.endswith(".gz") else text.encode())
    return file


def config(name: str | Path, n: int = 4, length: int = 32, **more: Any) -> CalibrationConfig:
    return CalibrationConfig(set=str(name), n_samples=n, max_seq_len=length, **more)


@given(st.lists(st.lists(st.integers(0, 99), max_size=40), max_size=20), st.integers(1, 17))
def test_windows_lose_and_double_no_token(texts: list[list[int]], length: int) -> None:
    stream = [token for ids in texts for token in ids]
    found = list(windows(texts, length))
    if len(stream) >= length:
        assert {len(window) for window in found} == {length}
        assert len(found) == len(stream) // length
        assert [token for window in found for token in window] == stream[: len(found) * length]
    else:
        assert found == ([stream] if stream else [])


@given(st.lists(st.text(st.sampled_from("ab \n\r"), max_size=30), max_size=60), st.integers(1, 20))
@settings(max_examples=60)
def test_passages_keep_all_paragraphs_in_order(found: list[str], size: int) -> None:
    text = "\n".join(found).replace("\r", "")
    lines = text.splitlines(keepends=True)
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(rows, "PASSAGE_CHARACTERS", size)
        patched.setattr(rows, "LONGEST_CHARACTERS", 4 * size)
        done = list(passages(lines))
    words = [line for line in text.split("\n") if line.strip()]
    assert [line for passage in done for line in passage.split("\n") if line] == words
    assert all(len(passage) >= size for passage in done[:-1])


def test_paragraphs_of_a_text_file_are_gathered_into_passages(tmp_path: Path) -> None:
    file = tmp_path / "wiki.raw"
    paragraph = " " + "word " * 500
    file.write_text(f" \n = Title = \n \n{paragraph}\n \n{paragraph}\n\n = Next = \n\nEnd .\n")
    assert list(read(file)) == [f" = Title = \n\n{paragraph}\n\n{paragraph}", " = Next = \n\nEnd ."]


def test_text_without_blank_lines_still_becomes_passages(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    lines = [f"{number} " + "word " * 100 for number in range(200)]
    file.write_text("\n".join(lines))
    found = list(read(file))
    assert "\n".join(map(str, found)) == "\n".join(lines)
    assert {len(passage) // 1000 for passage in found[:-1]} == {16}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz", "a.parquet"])
@pytest.mark.parametrize(("column", "held"), [("text", TEXTS), ("messages", CHATS)])
def test_every_kind_of_file_is_read_in_order(tmp_path: Path, name: str, column: str, held: list[Any]) -> None:
    file = tmp_path / name
    if name.endswith(".parquet"):
        write_parquet(file, **{"id": list(range(len(held))), column: held})
    else:
        write_lines(file, [{"id": number, column: value} for number, value in enumerate(held)])
    assert list(read(file)) == held
    assert list(read(file, column=column)) == held


def test_lines_of_a_data_set_are_the_lines_of_its_text(tmp_path: Path) -> None:
    lines = ["", " = Title = \n", "", " One . \n", " Two . \n", "", "\n"]
    parquet = write_parquet(tmp_path / "a.parquet", text=lines)
    raw = tmp_path / "a.raw"
    raw.write_text("".join(line or "\n" for line in lines))
    assert list(read(parquet, lines=True)) == list(read(raw)) == [" = Title = \n\n One . \n Two . "]


UNREADABLE = {
    ("a.jsonl", b'{"text": "x"}\nno json\n'): "a.jsonl:2: expected one JSON object per line",
    ("a.jsonl", b'{"text": 3}\n'): 'a.jsonl:1: expected a "text", or "messages"',
    ("a.jsonl", b'{"messages": []}\n'): "a.jsonl:1: expected",
    ("a.jsonl", b'{"messages": [{"role": "user"}]}\n'): "a.jsonl:1: expected",
    ("a.jsonl", b'"text"\n'): "a.jsonl:1: expected",
    ("a.jsonl", b'{"text": "\xff"}\n'): "cannot be read as .jsonl",
    ("a.txt", b"\xff\xfe"): "cannot be read as .txt",
    ("a.json.gz", b'{"text": "x"}\n'): "cannot be read as .gz",
    ("b.json.gz", gzip.compress(b'{"text": "x"}\n' * 999, mtime=0)[:-12]): "cannot be read as .gz",
    ("a.parquet", b"PAR1 no"): "a.parquet is no Parquet file",
}


@pytest.mark.parametrize("file", UNREADABLE, ids=str)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, file: tuple[str, bytes]) -> None:
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    with pytest.raises(CheckpointError) as caught:
        list(read(path))
    assert UNREADABLE[file] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_names_the_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", prompt=["x"], answer=["y"])
    with pytest.raises(CheckpointError, match="no column 'text'; its columns: prompt, answer"):
        list(read(file))


def test_only_the_pool_is_read() -> None:
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield "x" * 100

    assert len(pool(endless(), 1_000)) == len(taken) == 10


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    write_lines(file, [{"text": text} for text in TEXTS])
    with file.open("a") as stream:
        stream.write("no json\n")
    with pytest.raises(CheckpointError, match=r"a\.jsonl:61"):
        calibration_samples(config(file), 0, tokenizer)
    monkeypatch.setattr(calibration, "POOL_CHARACTERS", 0)
    samples, _, notes = calibration_samples(config(file), 0, tokenizer)
    assert [len(ids) for ids in samples] == [32] * 4
    assert notes == ()


def test_the_same_seed_and_bytes_give_the_same_samples(tmp_path: Path, tokenizer: Any) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    parquet = write_parquet(tmp_path / "b.parquet", text=TEXTS)
    first, fact, _ = calibration_samples(config(lines), 3, tokenizer)
    assert calibration_samples(config(lines), 3, tokenizer)[:2] == (first, fact)
    assert calibration_samples(config(parquet), 3, tokenizer)[0] == first
    assert calibration_samples(config(lines), 4, tokenizer)[0] != first
    longer = calibration_samples(config(lines, n=8), 3, tokenizer)[0]
    assert longer[:4] == first, "more samples only add to fewer"
    assert len(set(fact.sample_sha256)) == fact.n_samples == 4
    assert (fact.id, fact.source, fact.n_tokens) == ("a.jsonl", "the file a.jsonl", 128)
    assert fact.enable_thinking is None
    assert fact.chat_template_sha256 is None


def test_samples_are_whole_texts_in_shuffled_order(tmp_path: Path, tokenizer: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    samples, fact, notes = calibration_samples(config(file, n=10_000), 0, tokenizer)
    ids = [token for sample in samples for token in sample]
    texts = tokenizer.decode(ids).split("<|im_end|>")[:-1]
    assert set(texts) <= set(TEXTS)
    assert len(set(texts)) == len(texts) >= len(TEXTS) - 1
    assert texts != TEXTS[: len(texts)]
    assert notes == (f"calibration set 'a.jsonl' holds {fact.n_samples} of the 10000 samples asked for",)


def test_a_set_without_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": "  "}])
    with pytest.raises(CheckpointError, match="holds no text"):
        calibration_samples(config(file), 0, tokenizer)
    with pytest.raises(CheckpointError, match="holds no text"):
        heldout_windows(HeldoutConfig(set=str(file), n_samples=None, max_seq_len=16), tokenizer)


def test_chats_are_rendered_by_the_template_and_get_no_further_special_tokens(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tokenizers.processors import TemplateProcessing

    tokenizer = random_weights._tokenizer(1024)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.chat_template = "<|endoftext|>" + CLASSIC
    file = write_lines(tmp_path / "a.jsonl", [{"messages": chat} for chat in CHATS])
    seen = {}
    for thinking in (False, True):
        chosen = config(file, n=10_000, length=16, enable_thinking=thinking)
        samples, fact, _ = calibration_samples(chosen, 0, tokenizer)
        seen[thinking] = tokenizer.decode([token for sample in samples for token in sample])
        assert fact.enable_thinking is thinking
        assert fact.chat_template_sha256 is not None
    texts = seen[False].split("<|endoftext|>")[1:-1]
    user, assistant = (message["content"] for message in CHATS[7])
    whole = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"
    assert whole in texts, "one beginning-of-text each, and no end-of-text beside the template's own"
    assert "<think>" in seen[True]
    assert "<think>" not in seen[False]


def test_chats_without_a_chat_template_name_another_set(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizer = random_weights._tokenizer(1024)
    tokenizer.chat_template = None
    file = write_lines(tmp_path / "a.jsonl", [{"messages": chat} for chat in CHATS])
    with pytest.raises(
        CheckpointError, match=r"no chat template: use a set of plain text, such as calibration\.set=c4"
    ):
        calibration_samples(config(file), 0, tokenizer)


def test_a_template_that_refuses_a_chat_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizer = random_weights._tokenizer(1024)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    file = write_lines(tmp_path / "a.jsonl", [{"messages": chat} for chat in CHATS])
    with pytest.raises(CheckpointError, match=r"refuses a chat \(roles must alternate\)"):
        calibration_samples(config(file), 0, tokenizer)


def test_held_out_windows_are_in_order_from_the_beginning(tmp_path: Path, tokenizer: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    all_of_it = heldout_windows(HeldoutConfig(set=str(file), n_samples=None, max_seq_len=16), tokenizer)
    text = tokenizer.decode([token for ids in all_of_it for token in ids])
    assert "<|im_end|>".join(TEXTS).startswith(text)
    some = HeldoutConfig(set=str(file), n_samples=3, max_seq_len=16)
    assert heldout_windows(some, tokenizer) == all_of_it[:3]
    assert heldout_windows(some, tokenizer, heldout_identity(some)) == all_of_it[:3]


def test_the_embedded_texts_need_nothing(tokenizer: Any) -> None:
    samples, fact, notes = calibration_samples(config("embedded"), 0, tokenizer)
    assert (len(samples), fact.id, notes) == (4, "embedded", ())
    held = HeldoutConfig(set="embedded", n_samples=None, max_seq_len=256)
    assert sum(map(len, heldout_windows(held, tokenizer))) > 2_000
    assert heldout_identity(held)["text"] != identity(config("embedded"), 0)["text"]


@pytest.mark.parametrize("name", set_names())
def test_every_named_set_is_complete_and_never_measured_on_what_it_calibrates(name: str) -> None:
    spec = SetSpec.load(name)
    assert spec.calibration != spec.heldout
    assert spec.title
    for pattern in (spec.calibration, spec.heldout):
        assert pattern.endswith(rows.SUFFIXES)
        assert spec.repo or (DATA / pattern).is_file()


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    again = write_lines(tmp_path / "b.jsonl", [{"text": "one"}])
    other = write_lines(tmp_path / "c.jsonl", [{"text": "two"}])
    assert identity(config(first), 0) == identity(config(again), 0) != identity(config(other), 0)
    assert identity(config(first), 0) != identity(config(first), 1)
    assert identity(config(first), 0) != identity(config(first, enable_thinking=True), 0)


def test_text_that_changed_since_the_plan_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    planned = identity(config(file), 0)
    calibration_samples(config(file), 0, tokenizer, planned)
    write_lines(file, [{"text": "other"}])
    with pytest.raises(CheckpointError, match="changed after the run was planned"):
        calibration_samples(config(file), 0, tokenizer, planned)


def test_unknown_sets_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file; use calibration\.set=embedded, another of c4, embedded"):
        identity(config("ultrachta"), 0)
    with pytest.raises(CheckpointError, match=r"use calibration\.heldout\.set=embedded"):
        heldout_identity(HeldoutConfig(set="/nowhere.txt", n_samples=None, max_seq_len=16))
    (tmp_path / "a.docx").touch()
    with pytest.raises(CheckpointError, match=r"unknown kind of file; read are \.jsonl"):
        identity(config(tmp_path / "a.docx"), 0)


def test_a_mirror_comes_before_the_hub(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    for split in ("train", "test"):
        file = mirror / "HuggingFaceH4/ultrachat_200k/data" / f"{split}_sft-00000-of-00003-0a1b2c.parquet"
        write_parquet(file, prompt=["x"] * 40, messages=CHATS)
    write_lines(mirror / "allenai/c4/en/c4-validation.00000-of-00008.json.gz", [{"text": text} for text in TEXTS])
    monkeypatch.setenv("QUANTBENCH_HUB", str(mirror))
    _, fact, _ = calibration_samples(config("ultrachat"), 0, tokenizer, identity(config("ultrachat"), 0))
    assert fact.source == (
        "UltraChat 200k, chats: HuggingFaceH4/ultrachat_200k train_sft-00000-of-00003-0a1b2c.parquet "
        "in a local mirror of the hub"
    )
    assert fact.enable_thinking is False
    assert set(identity(config("ultrachat"), 0)["text"]) == {"sha256"}
    assert calibration_samples(config("c4"), 0, tokenizer)[1].id == "c4"
    assert locate("ultrachat", "heldout").fetch().name.startswith("test_sft")


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(PYTHONPATH=str(ROOT), **env),
        capture_output=True,
        text=True,
        timeout=120,
    )


PLAN = """
import json, sys
from quantize.calibration import heldout_identity, identity
from quantize.checkpoint import CheckpointError
from quantize.texts import CalibrationConfig, HeldoutConfig, locate
config = CalibrationConfig(set=sys.argv[1] if len(sys.argv) > 1 else NAME, n_samples=4, max_seq_len=32)
try:
    found = identity(config, 0)
    path = locate(config.set, "calibration", found["text"]).fetch()
    print(json.dumps([found["text"], str(path)]))
except CheckpointError as error:
    print(json.dumps(str(error)))
"""


def plan(name: str, **env: str) -> Any:
    done = python(PLAN.replace("NAME", repr(name)), **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def chats_repo(tmp_path: Path) -> Repo:
    file = write_parquet(tmp_path / "made/a.parquet", messages=CHATS)
    names = [
        f"data/{split}-00000-of-00003-deadbeef.parquet" for split in ("test_gen", "test_sft", "train_gen", "train_sft")
    ]
    bodies = [b"never fetched"] * 3 + [file.read_bytes()]
    files = {"README.md": b"never fetched", **dict(zip(names, bodies, strict=True))}
    return Repo(kind="dataset", files=files)


def test_a_named_set_comes_from_the_hub_at_a_commit_and_only_its_file(tmp_path: Path) -> None:
    with serve(Hub(repos={"HuggingFaceH4/ultrachat_200k": chats_repo(tmp_path)})) as hub:
        cache = {"QUANTBENCH_CACHE": str(tmp_path / "cache")}
        text, path = plan("ultrachat", **hub.env(tmp_path / "hf"), **cache)
        file = "data/train_sft-00000-of-00003-deadbeef.parquet"
        assert text == {"repo": "HuggingFaceH4/ultrachat_200k", "commit": COMMIT, "file": file}
        assert list(islice(read(Path(path)), 99)) == CHATS
        fetched = {line for line in hub.asked if line.startswith("GET") and "/resolve/" in line}
        assert {line.rpartition("/")[2] for line in fetched} == {Path(file).name}
        assert all(f"/resolve/{COMMIT}/" in line for line in fetched), "never the moving branch"
        offline = plan("ultrachat", **offline_env(tmp_path / "hf"), **cache)
        assert offline[0] == text, "what the hub cache holds is enough"


def test_a_set_out_of_reach_says_what_to_type(tmp_path: Path) -> None:
    line = plan("ultrachat", **offline_env(tmp_path / "hf"))
    assert line.startswith("calibration set 'ultrachat': cannot reach the hub for HuggingFaceH4/ultrachat_200k@main")
    assert "use calibration.set=embedded, a file of text, or a local mirror of the hub (QUANTBENCH_HUB)" in line
    switched_off = plan("ultrachat", **{**offline_env(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"})
    assert "cannot reach the hub" in switched_off


def test_what_the_hub_refuses_is_not_called_out_of_reach(tmp_path: Path) -> None:
    home = tmp_path / "hf"
    with serve(Hub()) as hub:
        assert "the hub shows no repository allenai/c4" in plan("c4", **hub.env(home))
        hub.repos["allenai/c4"] = Repo(kind="dataset", files={"en/other.json.gz": b""}, branches=("main",))
        assert "holds no file en/c4-validation.00000-of-00008.json.gz" in plan("c4", **hub.env(home))
        hub.repos["allenai/c4"].branches = ("master",)
        assert "allenai/c4 has no revision 'main'" in plan("c4", **hub.env(home))
        hub.status = 503
        assert "cannot reach" not in (line := plan("c4", **hub.env(home)))
        assert "the hub answered 503" in line


def test_planning_loads_no_heavy_package(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom quantize.calibration import *\n"
        "identity(CalibrationConfig(set='embedded', n_samples=1, max_seq_len=16), 0)\n"
        "heldout_identity(HeldoutConfig(set='embedded', n_samples=None, max_seq_len=16))\n"
        "print([name for name in sys.modules if name in "
        "('torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub', 'httpx', 'pandas')])"
    )
    done = python(code, QUANTBENCH_CACHE=str(tmp_path))
    assert done.stdout.strip() == "[]", done.stderr
