"""The parts of the reference server, without HTTP."""

# ruff: noqa: F401, F811 — fixtures are imported by name

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving import Reference, checkpoint, prompt, reference, write_checkpoint

FAMILIES = ("qwen3", "qwen3_moe", "llama")


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_batches_in_chunks_equal_one_forward_pass(tmp_path: Path, family: str) -> None:
    import torch

    from bench.servers.reference.kv import SequenceKV
    from bench.servers.reference.model import Model

    write_checkpoint(tmp_path / family, family)
    model, reference = Model(tmp_path / family, "cpu", "float32"), Reference(tmp_path / family)
    ids = [prompt(1, 90), prompt(2, 31), prompt(3, 2)]
    sequences = [SequenceKV(reserve=1) for _ in ids]
    for tokens, kv in zip(ids, sequences, strict=True):
        for begin in range(0, len(tokens) - 1, 40):
            model.forward([tokens[begin : min(begin + 40, len(tokens) - 1)]], [kv], [1])
    logits = torch.cat(model.forward([tokens[-1:] for tokens in ids], sequences, [1] * 3))
    truth = torch.stack([reference.logprobs(tokens)[-1] for tokens in ids])
    torch.testing.assert_close(logits.log_softmax(-1), truth, atol=1e-4, rtol=0)


def test_many_tokens_in_a_pass_a_core_are_what_one_pass_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from bench.servers.reference import model as serving
    from bench.servers.reference.kv import SequenceKV

    write_checkpoint(tmp_path)
    model = serving.Model(tmp_path, "cpu", "float32")
    ids = [prompt(seed, n) for seed, n in enumerate((300, 20, 210, 90, 2))]
    keep = [1, 3, 1, 2, 1]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(serving, "PASS_TOKENS", 10**9)
        whole = model.forward(ids, [SequenceKV(reserve=1) for _ in ids], keep)
        monkeypatch.setattr(serving, "PASS_TOKENS", 100)
        split = [SequenceKV(reserve=1) for _ in ids]
        parts = model.forward(ids, split, keep)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [kv.length for kv in split] == [len(tokens) for tokens in ids]
    assert [len(rows) for rows in parts] == keep
    for part, truth in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, truth, atol=1e-4, rtol=0)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=40), st.integers(1, 64))
def test_shares_hold_every_sequence_once_and_enough_tokens_each(lengths: list[int], most: int) -> None:
    from bench.servers.reference.model import PASS_TOKENS, even

    shares = even(lengths, most)
    assert sorted(place for share in shares for place in share) == list(range(len(lengths)))
    assert 1 <= len(shares) <= most
    assert len(shares) == 1 or sum(lengths) >= PASS_TOKENS * len(shares)
    loads = [sum(lengths[place] for place in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


def test_attention_in_blocks_equals_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bench.servers.reference import attention

    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 30, 8), torch.randn(1, 2, 100, 8), torch.randn(1, 2, 100, 8)
    mask = torch.arange(100)[None] <= torch.arange(70, 100)[:, None]
    truth = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    for scores in (1, 7 * 4 * 100, 2**20):
        monkeypatch.setattr(attention, "SCORES_PER_BLOCK", scores)
        torch.testing.assert_close(attention.causal(query, key, value, 0.3, {}), truth)


def test_activations_of_an_fp8_checkpoint_stay_rounded(tmp_path: Path) -> None:
    """Without this rounding, every W8A8 score would be too high."""
    import torch

    from bench.servers.reference.kv import SequenceKV
    from bench.servers.reference.model import Model

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
    model = Model(target, "cpu", "bfloat16")
    assert model.quantization
    assert (model.quantization["quant_method"], model.dtype) == ("compressed-tensors", "bfloat16")
    assert model.tokenizer is None
    model.forward([[1, 2, 3]], [SequenceKV(reserve=3)], [1])
    layer = model._model.model.layers[0].mlp.gate_proj
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        plain = torch.nn.functional.linear(x, layer.weight)
        difference = (layer(x) - plain).norm() / plain.norm()
    assert 0.01 < float(difference) < 0.06


def test_characters_are_held_back_until_all_their_bytes_are_there(reference: Reference) -> None:
    from bench.servers.reference.text import TextStream

    text = "aé€😀 end"
    ids = reference.tokenizer.encode(text)
    stream = TextStream(reference.tokenizer, skip_special_tokens=True)
    for n, token in enumerate(ids):
        stream.push(token)
        assert text.startswith(stream.text)
        assert len(stream.text) == len(reference.tokenizer.decode(ids[: n + 1]).rstrip("\ufffd"))
    assert stream.text == stream.whole(ids, None) == text
    assert stream.whole(ids, "€") == "aé"


def test_bytes_that_are_no_character_are_not_held_back_for_ever(reference: Reference) -> None:
    from bench.servers.reference.text import TextStream

    stream = TextStream(reference.tokenizer, skip_special_tokens=True)
    continuation = reference.tokenizer.encode("é")[1]
    for _ in range(10):
        stream.push(continuation)
    assert len(stream.text) >= 8


def test_the_prefix_cache_forgets_the_least_recently_used() -> None:
    import torch

    from bench.servers.reference.kv import SequenceKV
    from bench.servers.reference.prefix import PrefixCache

    def filled(n: int) -> SequenceKV:
        kv = SequenceKV(reserve=1)
        for position in range(n):
            position_kv = torch.full((1, 1, 2), float(position))
            kv.append(0, position_kv, -position_kv, torch.float32)
            kv.advance(1)
        return kv

    cache = PrefixCache(max_tokens=10)
    cache.insert([1, 2, 3, 4], filled(4))
    cache.insert([5, 6, 7, 8], filled(4))
    hit = cache.longest(np.array([1, 2, 3, 9]), limit=4, reserve=8)
    assert hit.length == 3
    keys, values = hit.append(0, torch.full((1, 1, 2), 9.0), torch.full((1, 1, 2), -9.0), torch.float32)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 9]
    assert values[0, 0, :, 1].tolist() == [0, -1, -2, -9]
    hit.advance(1)
    n_bytes = hit.allocated_bytes()
    hit.append(0, torch.full((1, 4, 2), 8.0), torch.full((1, 4, 2), -8.0), torch.float32)
    assert hit.allocated_bytes() == n_bytes == 8 * 2 * 2 * 4, "there is room for 8 positions"
    untouched = cache.longest(np.array([1, 2, 3, 4]), limit=4, reserve=8)
    keys, _ = untouched.append(0, torch.full((1, 1, 2), 7.0), torch.full((1, 1, 2), -7.0), torch.float32)
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 7]
    cache.insert([9] * 4, filled(4))
    lengths = [cache.longest(np.array(tokens), 4, 4).length for tokens in ([1, 2, 3, 4], [5, 6, 7, 8], [9] * 4)]
    assert lengths == [4, 0, 4]
    cache.insert([1, 2, 3, 4, 5, 6], filled(6))
    assert cache.longest(np.array([9] * 4), 4, 4).length == 4
    cache.insert([0] * 11, filled(11))
    assert cache.longest(np.array([0] * 11), 11, 11).length == 0


def test_keys_and_values_in_fp8_take_half_the_room_and_saturate() -> None:
    import torch

    from bench.servers.reference.kv import SequenceKV

    new = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    new[0, 0, 0] = 1000.0
    wide, narrow = SequenceKV(reserve=40), SequenceKV(reserve=40)
    keys, _ = wide.append(0, new, new, torch.bfloat16)
    rounded, _ = narrow.append(0, new, new, torch.float8_e4m3fn)
    assert torch.equal(keys[0], new)
    assert rounded.dtype == new.dtype
    assert rounded[0, 0, 0, 0] == 448
    error = (rounded[0] - new)[:, 1:].float().norm() / new[:, 1:].float().norm()
    assert 0.005 < float(error) < 0.05
    assert narrow.allocated_bytes() * 2 == wide.allocated_bytes()
