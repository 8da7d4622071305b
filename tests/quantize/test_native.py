"""Backends that write the native containers: refusals, and real output in their own environments."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.toolchains import toolchain
from quantize import native, transformers4
from quantize.architecture import Architecture
from quantize.methods import awq, gptq
from quantize.proof import linear_layers, prove
from quantize.reader import Reader
from quantize.step import Step
from tests.support.paths import ROOT
from tests.support.tensors import write_safetensors

SHAPE = Architecture(
    layers=2,
    hidden_size=128,
    intermediate_size=384,
    heads=2,
    kv_heads=1,
    head_dim=64,
    vocab_size=2048,
    tied_embeddings=True,
)
EXPERTS = SHAPE.model_copy(update={"experts": 8, "experts_per_token": 2, "moe_intermediate_size": 128})
COMMON: dict[str, Any] = {
    "bits": 4,
    "group_size": 64,
    "group_size_fallback": (),
    "ignore": ("lm_head", "re:.*mlp.gate$"),
    "max_kl": 9.0,
    "calibration": {"set": "c4", "n_samples": 8, "max_seq_len": 64},
}
ROPE = {"rope_theta": 1e6, "rope_type": "default"}
YARN = {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}


def test_weights_are_saved_in_float16_without_a_tied_output_layer(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    weights = {
        "model.norm.weight": torch.tensor([0.5, -65504.0]),
        "model.layers.0.mlp.up_proj.qweight": torch.tensor([[2**31 - 1, -5]], dtype=torch.int32),
        "lm_head.weight": torch.ones(2, 2),
    }
    for tied in (False, True):
        native.save_float16(tmp_path / str(tied), weights, tied=tied)
        saved = load_file(tmp_path / str(tied) / "model.safetensors")
        assert saved.keys() == weights.keys() - ({"lm_head.weight"} if tied else set())
        for name, tensor in saved.items():
            assert tensor.dtype == (torch.int32 if name.endswith("qweight") else torch.float16)
            assert torch.equal(tensor.double(), weights[name].double())
    with pytest.raises(ValueError, match=r"model\.norm\.weight has numbers outside the range of float16"):
        native.save_float16(tmp_path / "large", {"model.norm.weight": torch.tensor([65536.0])}, tied=False)


def gptq_config(**changed: Any) -> gptq.Config:
    fields = {**COMMON, "backend": "gptqmodel", "symmetric": True, "damp": 0.01, "act_order": "static", **changed}
    return gptq.Config.model_validate(fields)


def awq_config(**changed: Any) -> awq.Config:
    return awq.Config.model_validate({**COMMON, "backend": "autoawq", "symmetric": False, "n_grid": 20, **changed})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"rope_parameters": ROPE}, {"rope_theta": 1e6, "rope_scaling": None}),
        (
            {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e6, "rope_scaling": None, "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_parameters": YARN},
            {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        ),
        ({"model_type": "qwen3_moe", "num_local_experts": 8}, {"model_type": "qwen3_moe", "num_experts": 8}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_theta": 5e5, "rope_scaling": None}),
    ],
)
def test_a_config_of_transformers_5_is_translated_to_4(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert transformers4.translate(config) == expected


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, {"full_attention": ROPE, "sliding_attention": ROPE}])
def test_a_rotary_base_is_never_lost(rope: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rope_parameters|rotary embedding"):
        transformers4.translate({"rope_parameters": rope})


def write_layers(folder: Path, *inner: str) -> None:
    facts = {f"model.layers.{n}.{name}.weight": ("BF16", (4, 4)) for n in (0, 1) for name in inner}
    others = {"lm_head.weight": ("BF16", (8, 4)), "model.embed_tokens.weight": ("BF16", (8, 4))}
    write_safetensors(folder / "model.safetensors", {**facts, **others, "model.norm.weight": ("BF16", (4,))})


def test_layers_come_in_the_order_in_which_they_are_computed(tmp_path: Path) -> None:
    attention = [f"self_attn.{kind}_proj" for kind in "qkvo"]
    write_layers(
        tmp_path, *attention, "mlp.gate", *[f"mlp.experts.{n}.{k}_proj" for n in (0, 1) for k in ("down", "up")]
    )
    stages, ignored = native.inner_layers(tmp_path, ("lm_head", "re:.*mlp.gate$"))
    assert stages == [
        ["self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.experts.0.up_proj", "mlp.experts.1.up_proj"],
        ["mlp.experts.0.down_proj", "mlp.experts.1.down_proj"],
    ]
    assert ignored == ["mlp.gate"]


def test_layers_that_cannot_be_treated_alike_are_refused(tmp_path: Path) -> None:
    write_layers(tmp_path, "mlp.up_proj", "mlp.odd")
    with pytest.raises(
        ValueError, match=r"does not support a layer like model\.layers\.0\.mlp\.odd: add it to quant\.ignore"
    ):
        native.inner_layers(tmp_path, ("lm_head",))
    with pytest.raises(ValueError, match=r"quant\.ignore names mlp\.up_proj only in some"):
        native.inner_layers(tmp_path, ("lm_head", "re:.*odd$", "model.layers.1.mlp.up_proj"))


def test_what_a_container_cannot_hold_is_refused_with_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"use quant\.symmetric=true"):
        native.check_gptq(gptq_config(symmetric=False))
    for wrong, message in (
        ({"bits": 8}, "stores 4 bits, not 8"),
        ({"symmetric": True}, r"use quant\.symmetric=false"),
        ({"group_size": None}, r"use quant\.group_size=128"),
        ({"n_grid": 5}, r"use quant\.n_grid=20"),
    ):
        with pytest.raises(ValueError, match=message):
            native.check_awq(awq_config(**wrong), SHAPE)
    assert native.check_awq(awq_config(), SHAPE) == 64


def test_files_next_to_the_weights_come_from_the_source(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "config.json").write_text(json.dumps({"dtype": "bfloat16", "rope_parameters": ROPE}))
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "quantbench_manifest.json"):
        (source / name).write_text("{}")
    native.finish(source, target, {"quant_method": "gptq"}, dtype="float16")
    assert {file.name for file in target.iterdir()} == {
        "config.json", "tokenizer.json", "chat_template.jinja", "merges.txt"
    }  # fmt: skip
    assert json.loads((target / "config.json").read_text()) == {
        "dtype": "float16",
        "rope_parameters": ROPE,
        "quantization_config": {"quant_method": "gptq"},
    }


MAKE_SOURCES = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from quantize.architecture import Architecture
from quantize.sources import random_weights as source

for line in sys.stdin:
    family, shape, place = json.loads(line)
    folder = Path(place)
    folder.mkdir()
    config = source.Config(family=family, seed=0)
    weights = source.RandomWeights(kind="random_weights", config=config)
    weights.materialize(weights.identity(), Architecture(**shape), folder)
    # Channels that differ, as a real model's do: without them AWQ has nothing to scale.
    found = load_file(folder / "model.safetensors")
    for name, values in found.items():
        if name.endswith("layernorm.weight"):
            values.mul_(torch.logspace(-1, 1, len(values)))
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            values.mul_(torch.logspace(0.5, -0.5, values.shape[1]))
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
"""


def assert_scales_come_back(before: Reader, after: Reader, *, experts: bool) -> None:
    """AWQ divides a norm and multiplies the columns after it by the same scales, so their product is unchanged."""
    mlp = "mlp.experts.3.gate_proj" if experts else "mlp.gate_proj"
    pairs = (("input_layernorm", "self_attn.q_proj"), ("post_attention_layernorm", mlp))
    for norm, inner in pairs:
        layer = f"model.layers.1.{inner}"
        old = before.tensor(f"{layer}.weight").float()
        new = after.weight(layer, old.shape[0], old.shape[1])
        was, now = (reader.tensor(f"model.layers.1.{norm}.weight").float() for reader in (before, after))
        assert float((new * now - old * was).norm() / (old * was).norm()) < 0.2, layer


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Create small random checkpoints: one dense, one with experts."""
    folder = tmp_path_factory.mktemp("sources")
    folders = {family: folder / family for family in ("qwen3", "qwen3_moe")}
    shapes = {"qwen3": SHAPE, "qwen3_moe": EXPERTS}
    lines = [json.dumps([family, shapes[family].model_dump(), str(place)]) for family, place in folders.items()]
    subprocess.run([sys.executable, "-c", MAKE_SOURCES], input="\n".join(lines), text=True, check=True, cwd=ROOT)
    return folders


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("auto-gptq", gptq_config(backend="auto-gptq")),
        ("auto-gptq", gptq_config(backend="auto-gptq", act_order="group")),
        ("auto-gptq", gptq_config(backend="auto-gptq", bits=8, group_size=None)),
        ("gptqmodel", gptq_config()),
        ("gptqmodel", gptq_config(act_order="group")),
        ("gptqmodel", gptq_config(bits=8, group_size=None)),
        ("gptqmodel", gptq_config(ignore=("lm_head", "re:.*mlp.gate$", "re:.*layers.1.*down_proj$"))),
        ("gptqmodel", awq_config(backend="gptqmodel")),
        ("autoawq", awq_config()),
    ],
    ids=[
        "auto-4",
        "auto-4-group",
        "auto-8",
        "gptqmodel-4",
        "gptqmodel-4-group",
        "gptqmodel-8",
        "ignore",
        "awq",
        "autoawq",
    ],
)
def test_a_built_toolchain_really_quantizes(
    name: str, config: gptq.Config | awq.Config, family: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    chain = toolchain.read(name)
    state = toolchain.state(chain)
    if state.python is None:
        pytest.skip(f"toolchain {name} is not built: quantbench toolchain build {name}")
    source, target = sources[family], tmp_path / "made"
    shape = EXPERTS if family == "qwen3_moe" else SHAPE
    numbers = random.Random(0)
    samples = tuple(tuple(numbers.randrange(3, 2048) for _ in range(64)) for _ in range(8))
    method = "awq" if isinstance(config, awq.Config) else "gptq"
    step = Step(
        method=method,
        config=config.model_dump(mode="json"),
        architecture=shape,
        source=source,
        target=target,
        samples=samples,
    )
    file = tmp_path / "step.json"
    file.write_text(step.model_dump_json())
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "quantize").symlink_to(ROOT / "quantize")
    log = tmp_path / "log"
    with log.open("w") as stream:
        child = subprocess.Popen(
            [state.python, "-m", "quantize.step", str(file)],
            stdin=subprocess.PIPE,  # kept open: the child ends with this process
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "only"), "OMP_NUM_THREADS": "1"},
        )
        with child:
            code = child.wait()
    error = file.with_suffix(".error")
    assert code == 0, error.read_text() if error.exists() else log.read_text()[-2000:]
    expected = (awq if method == "awq" else gptq).expected(config, shape)
    before, after = Reader(source), Reader(target)
    bits = prove(before, after, expected)
    assert bits is not None
    assert config.bits < bits < config.bits + 0.7
    if method == "awq":
        assert_scales_come_back(before, after, experts=shape.experts > 0)
    else:
        bound = 0.4 if config.bits == 4 else 0.04  # of a wrong layout, above 1
        for layer, (rows, columns) in linear_layers(before.facts.values(), config.ignore).items():
            weight = before.tensor(f"{layer}.weight").float()
            assert float((after.weight(layer, rows, columns) - weight).norm() / weight.norm()) < bound, layer
    assert {file.name for file in source.iterdir()} - {file.name for file in target.iterdir()} == set()
    assert after.config["rope_parameters"] == before.config["rope_parameters"]
