"""The yaml of every model: against transformers' own classes, published counts, and the hub where it is reached."""

import csv
import functools
import json
import re
from typing import Any

import pytest

from bench.config.compose import compose_job, names
from bench.config.spec import ModelSpec
from bench.limits.roofline import active_parameters
from bench.paths import config_dir
from quantize import hub
from quantize.describe import describe
from tests.support.paths import FIXTURES

FIXTURE = FIXTURES / "model_parameters.csv"
COUNTED = list(csv.DictReader(line for line in FIXTURE.read_text().splitlines() if not line.startswith("#")))
HUB = [name for name in names("model") if name.startswith("qwen")]


@functools.cache
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


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["model"])
def test_a_model_has_the_published_number_of_weights(row: dict[str, str]) -> None:
    shapes = model(row["model"]).architecture
    assert (shapes.parameters(), active_parameters(shapes)) == (int(row["total"]), int(row["active"]))
    if row["card_billions"]:
        assert shapes.parameters() / 1e9 == pytest.approx(float(row["card_billions"]), rel=0.02)


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
    assert spec.source.fields()["repo"] == f"Qwen/{spec.title}"
    assert name == spec.title.lower()
    assert all(release["repo"].startswith(f"{spec.source.fields()['repo']}-") for release in spec.official.values())
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


def config_on_the_hub(repo: str) -> dict[str, Any]:
    """Return a repository's config.json; skip the test where no hub answers."""
    try:
        return dict(json.loads(hub.download(repo, "main", "config.json").read_text()))
    except hub.HubError as error:
        if error.answered:
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", HUB)
def test_the_hub_says_the_same(name: str) -> None:
    spec = model(name)
    config = config_on_the_hub(spec.source.fields()["repo"])
    assert describe(config) == (spec.architecture, spec.context_length)
    assert spec.rope is not None
    assert (config.get("rope_parameters") or config)["rope_theta"] == spec.rope.theta
    for release in spec.official.values():
        assert describe(config_on_the_hub(release["repo"]))[0] == spec.architecture


def test_every_yaml_is_short_and_says_its_own_name() -> None:
    for name in names("model"):
        text = (config_dir() / "model" / f"{name}.yaml").read_text()
        assert f"name: {name}\n" in text
        assert len(text.splitlines()) <= 30
