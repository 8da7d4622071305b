"""The yaml of every model: against transformers' own classes, published counts, and the hub where it is reached."""

import csv
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.compose import compose_job, names
from bench.paths import config_dir
from bench.roofline import active_parameters
from bench.spec import ModelSpec
from quantize.describe import describe

COUNTS = {
    row["model"]: (int(row["total"]), int(row["active"]))
    for row in csv.DictReader(
        line
        for line in (Path(__file__).parent / "fixtures" / "model_parameters.csv").read_text().splitlines()
        if not line.startswith("#")
    )
}
HUB = [name for name in names("model") if re.match(r"qwen", name)]
CARDS = {
    "qwen3-0.6b": 0.6, "qwen3-1.7b": 1.7, "qwen3-4b": 4.0, "qwen3-8b": 8.2, "qwen3-14b": 14.8, "qwen3-32b": 32.8,
    "qwen3-30b-a3b": 30.5, "qwen3-235b-a22b": 235, "qwen2.5-0.5b-instruct": 0.49, "qwen2.5-1.5b-instruct": 1.54,
    "qwen2.5-3b-instruct": 3.09, "qwen2.5-7b-instruct": 7.61, "qwen2.5-14b-instruct": 14.7,
    "qwen2.5-32b-instruct": 32.5, "qwen2.5-72b-instruct": 72.7,
}  # fmt: skip
"""Billions of weights, as the model cards round them."""


def model(name: str) -> ModelSpec:
    return compose_job([f"+model={name}", "session=test"]).model


def config_of(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Return (model type, fields) of the config.json that the yaml describes."""
    shapes = spec.architecture
    fields: dict[str, Any] = {
        "num_hidden_layers": shapes.layers,
        "hidden_size": shapes.hidden_size,
        "intermediate_size": shapes.intermediate_size,
        "num_attention_heads": shapes.heads,
        "num_key_value_heads": shapes.kv_heads,
        "vocab_size": shapes.vocab_size,
        "tie_word_embeddings": shapes.tied_embeddings,
        "max_position_embeddings": spec.context_length,
    }
    if shapes.qkv_bias:
        return "qwen2", fields
    fields["head_dim"] = shapes.head_dim
    if not shapes.experts:
        return "qwen3", fields
    experts = {
        "num_experts": shapes.experts,
        "num_experts_per_tok": shapes.experts_per_token,
        "moe_intermediate_size": shapes.moe_intermediate_size,
    }
    return "qwen3_moe", fields | experts


@pytest.mark.parametrize("name", HUB)
def test_a_model_has_the_weights_that_transformers_counts(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    spec = model(name)
    kind, fields = config_of(spec)
    config = transformers.AutoConfig.for_model(kind, **fields)
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config)
    assert spec.architecture.parameters() == sum(weight.numel() for weight in built.parameters())
    written = json.loads(config.to_json_string(use_diff=True))
    assert describe(written) == (spec.architecture, spec.context_length)


@pytest.mark.parametrize("name", COUNTS)
def test_a_model_has_the_weights_that_were_counted_before(name: str) -> None:
    shapes = model(name).architecture
    assert (shapes.parameters(), active_parameters(shapes)) == COUNTS[name]


@pytest.mark.parametrize("name", CARDS)
def test_a_model_is_as_large_as_its_card_says(name: str) -> None:
    assert model(name).architecture.parameters() / 1e9 == pytest.approx(CARDS[name], rel=0.02)


def test_the_releases_of_2507_have_the_shapes_of_their_base() -> None:
    later = [name for name in HUB if name.endswith("-2507")]
    assert len(later) == 6
    for name in later:
        base = re.sub(r"-(instruct|thinking)-2507$", "", name)
        assert model(name).architecture == model(base).architecture
        assert model(name).context_length == 262_144


@pytest.mark.parametrize("name", HUB)
def test_a_model_is_called_as_its_makers_call_it(name: str) -> None:
    spec = model(name)
    assert spec.source["repo"] == f"Qwen/{spec.title}"
    assert name == spec.title.lower()
    assert all(release["repo"].startswith(f"{spec.source['repo']}-") for release in spec.official.values())
    assert set(spec.official) <= set(names("quant"))
    known = {"instruct-2507": {"plain"}, "thinking-2507": {"thinking"}, "instruct": {"plain"}}
    kind = next((end for end in known if name.endswith(end)), None)
    assert set(spec.modes) == (known[kind] if kind else {"plain", "thinking"})
    assert spec.rope is not None
    assert spec.rope.original <= spec.context_length <= (spec.rope.longest or spec.context_length)


def test_every_size_of_each_family_is_there() -> None:
    sizes = {
        "qwen3-": ("0.6b", "1.7b", "4b", "8b", "14b", "32b", "30b-a3b", "235b-a22b"),
        "qwen2-": ("0.5b-instruct", "1.5b-instruct", "7b-instruct", "72b-instruct"),
        "qwen2.5-": tuple(f"{size}-instruct" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")),
    }
    for family, members in sizes.items():
        assert {f"{family}{size}" for size in members} <= set(HUB)


@pytest.mark.parametrize("name", HUB)
def test_the_hub_says_the_same(name: str) -> None:
    spec = model(name)
    address = f"https://huggingface.co/{spec.source['repo']}/resolve/main/config.json"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            config = json.load(answer)
    except OSError as error:
        pytest.skip(f"the hub cannot be reached: {error}")
    assert describe(config) == (spec.architecture, spec.context_length)
    rope = config.get("rope_parameters") or config
    assert spec.rope is not None
    assert rope["rope_theta"] == spec.rope.theta


def test_every_yaml_is_short_and_says_its_own_name() -> None:
    for file in (config_dir() / "model").glob("*.yaml"):
        text = file.read_text()
        assert f"name: {file.stem}\n" in text
        assert len(text.splitlines()) <= 36
