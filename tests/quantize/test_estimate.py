"""Memory and disk space of builds, compared with sums by hand for a model of a few layers."""

import pytest

from quantize.architecture import Architecture
from quantize.estimate import BASE, SHARD, Calibration, checkpoint_bytes, estimate, hessian_bytes, proof_memory

MODEL = Architecture(
    layers=3, hidden_size=64, intermediate_size=160, heads=4, kv_heads=2, head_dim=16, vocab_size=1000,
    tied_embeddings=False,
)  # fmt: skip
LAYER = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160
"""Weights of a layer's q and o, k and v, gate, up and down projections."""
REST = 2 * 1000 * 64 + 3 * 2 * 64 + 64
"""Embeddings, output layer and norms."""
EXPERTS = MODEL.model_copy(update={"experts": 8, "experts_per_token": 2, "moe_intermediate_size": 96})
LARGE = MODEL.model_copy(update={"layers": 400, "hidden_size": 2048, "intermediate_size": 8192})
NO_PROOF = (0, 0)
CALIBRATION = Calibration(tokens=2000, backend="llmcompressor", working_bytes=12_345)


def test_a_checkpoint_has_scales_of_16_bits_and_zero_points_of_4_for_each_32_columns() -> None:
    assert checkpoint_bytes(MODEL, None) == 2 * (REST + 3 * LAYER)
    assert checkpoint_bytes(MODEL, 4) == 2 * REST + 3 * LAYER * (4 + 20 / 32) / 8
    assert checkpoint_bytes(MODEL, 8) == 2 * REST + 3 * LAYER * (8 + 20 / 32) / 8


def test_every_linear_layer_of_every_expert_has_a_hessian_of_its_input() -> None:
    attention = 4 * 64**2
    assert hessian_bytes(MODEL) == 4 * (attention + 2 * 64**2 + 160**2)
    assert hessian_bytes(EXPERTS) == 4 * (attention + 8 * (2 * 64**2 + 96**2))


def test_the_proof_holds_the_ends_of_both_models_and_one_layer_of_each() -> None:
    ends, layers = 2 * 2 * 2 * 1000 * 64, 2 * 2 * LAYER + 4 * 64 * 160
    states = 2 * 2 * 6 * 500 * 64 + 2 * (3 + 2) * 6 * 128 * 64  # with those behind each of three layers put back
    logits = 4 * 4 * 2048 * 1000
    assert proof_memory(MODEL, (6, 500)) == BASE + ends + layers + states + logits
    tied = MODEL.model_copy(update={"tied_embeddings": True})
    assert proof_memory(tied, (6, 500)) == BASE + ends / 2 + layers + states + logits
    assert proof_memory(MODEL, (1, 4096)) == BASE + ends + layers + 2 * (2 * 4096 + 5 * 128) * 64 + 2 * logits


def test_a_build_without_calibration_takes_a_multiple_of_its_largest_shard() -> None:
    needs = estimate(LARGE, None, heldout=NO_PROOF, bits=4)
    assert needs.why == "one shard at a time"
    assert needs.memory_bytes == 1_500_000_000 + 2.5 * 5_000_000_000
    assert needs.disk_bytes == checkpoint_bytes(LARGE, 4)
    assert estimate(LARGE, None, heldout=NO_PROOF, bits=4, shard=SHARD // 2).memory_bytes == BASE + 1.25 * SHARD


def test_a_shard_is_at_most_the_whole_model() -> None:
    medium = LARGE.model_copy(update={"layers": 4})
    whole = checkpoint_bytes(medium, None)
    assert whole < SHARD
    assert estimate(medium, None, heldout=NO_PROOF, bits=4).memory_bytes == BASE + 2.5 * whole


@pytest.mark.parametrize(("backend", "bytes_per_weight"), [("auto-gptq", 6), ("autoawq", 6), ("gptqmodel", 4)])
def test_some_backends_hold_the_complete_model(backend: str, bytes_per_weight: int) -> None:
    needs = estimate(LARGE, CALIBRATION.model_copy(update={"backend": backend}), heldout=NO_PROOF, bits=4)
    assert needs.why == f"the complete model, which {backend} holds, 2,000 calibration tokens"
    assert needs.memory_bytes == BASE + bytes_per_weight * LARGE.parameters() + 2 * 2 * 2000 * 2048 + 12_345


def test_other_backends_hold_a_decoder_layer_and_the_hidden_states() -> None:
    many = CALIBRATION.model_copy(update={"tokens": 10**6})
    needs = estimate(MODEL, many, heldout=NO_PROOF, bits=4)
    assert needs.why == "one decoder layer at a time, 1,000,000 calibration tokens"
    assert needs.memory_bytes == BASE + 3 * 2 * LAYER + 2 * 2 * 10**6 * 64 + 12_345


def test_the_need_is_that_of_the_proof_if_it_takes_more_than_the_build() -> None:
    needs = estimate(MODEL, CALIBRATION, heldout=(6, 500), bits=4)
    assert needs.why == "the proof against the source, one decoder layer at a time"
    assert (needs.memory_bytes, needs.disk_bytes) == (proof_memory(MODEL, (6, 500)), checkpoint_bytes(MODEL, 4))


def test_files_that_are_only_linked_need_no_disk_and_little_memory() -> None:
    needs = estimate(MODEL, CALIBRATION, heldout=(6, 500), bits=None)
    assert (needs.memory_bytes, needs.disk_bytes, needs.why) == (300_000_000, 0, "linking files")
