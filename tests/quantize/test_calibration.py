from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize import calibration
from quantize.calibration import calibration_samples, heldout_identity, heldout_windows, identity, pool, windows
from quantize.checkpoint import CheckpointError
from quantize.sources import random_weights
from quantize.texts import HeldoutConfig
from tests.support.texts import CHATS, TEXTS, config, write_lines, write_parquet

pytestmark = pytest.mark.usefixtures("own_cache")

CLASSIC = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if enable_thinking %}<think>{% endif %}"
)


@given(st.lists(st.lists(st.integers(0, 99), max_size=40), max_size=20), st.integers(1, 17))
def test_windows_lose_and_double_no_token(texts: list[list[int]], length: int) -> None:
    stream = [token for ids in texts for token in ids]
    pieces = list(windows(texts, length))
    if len(stream) >= length:
        assert {len(window) for window in pieces} == {length}
        assert len(pieces) == len(stream) // length
        assert [token for window in pieces for token in window] == stream[: len(pieces) * length]
    else:
        assert pieces == ([stream] if stream else [])


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
    assert longer[:4] == first, "more samples only extend fewer"
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
    assert notes == (f"calibration set 'a.jsonl' has only {fact.n_samples} of the 10000 requested samples",)


def test_a_set_without_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": "  "}])
    with pytest.raises(CheckpointError, match="contains no text"):
        calibration_samples(config(file), 0, tokenizer)
    with pytest.raises(CheckpointError, match="contains no text"):
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
    texts_by_setting = {}
    for thinking in (False, True):
        chosen = config(file, n=10_000, length=16, enable_thinking=thinking)
        samples, fact, _ = calibration_samples(chosen, 0, tokenizer)
        texts_by_setting[thinking] = tokenizer.decode([token for sample in samples for token in sample])
        assert fact.enable_thinking is thinking
        assert fact.chat_template_sha256 is not None
    texts = texts_by_setting[False].split("<|endoftext|>")[1:-1]
    user, assistant = (message["content"] for message in CHATS[7])
    whole = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"
    assert whole in texts, "one beginning-of-text each, and no end-of-text except the template's own"
    assert "<think>" in texts_by_setting[True]
    assert "<think>" not in texts_by_setting[False]


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
    three = HeldoutConfig(set=str(file), n_samples=3, max_seq_len=16)
    assert heldout_windows(three, tokenizer) == all_of_it[:3]
    assert heldout_windows(three, tokenizer, heldout_identity(three)) == all_of_it[:3]


def test_the_embedded_texts_need_nothing(tokenizer: Any) -> None:
    samples, fact, notes = calibration_samples(config("embedded"), 0, tokenizer)
    assert (len(samples), fact.id, notes) == (4, "embedded", ())
    heldout = HeldoutConfig(set="embedded", n_samples=None, max_seq_len=256)
    assert sum(map(len, heldout_windows(heldout, tokenizer))) > 2_000
    assert heldout_identity(heldout)["text"] != identity(config("embedded"), 0)["text"]
