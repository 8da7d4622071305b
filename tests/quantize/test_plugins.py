"""Every engine, method and source implements the contract of its kind."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.config.compose import compose_job
from bench.engines import Engine, engine
from bench.paths import config_dir
from quantize.backend import backend
from quantize.key import Frozen
from quantize.method import Method
from quantize.plugins import PluginError, class_named, module_named, names
from quantize.source import Source, source
from tests.support.presets import engine_fields

KINDS: dict[str, type[Frozen]] = {"bench.engines": Engine, "quantize.methods": Method, "quantize.sources": Source}
PLACES = [(package, name) for package in KINDS for name in names(package)]
NEEDED = {"attach": {"url": "http://127.0.0.1:1"}}
"""Fields that an engine's own config requires."""


def kind_of(package: str, name: str) -> type[Frozen]:
    return class_named(package, name, KINDS[package])


@pytest.mark.parametrize(("package", "name"), PLACES)
def test_a_plugin_overrides_what_its_base_declares(package: str, name: str) -> None:
    """A misspelt hook would silently never be called."""
    kind = kind_of(package, name)
    assert not inspect.isabstract(kind)
    bases = [base for base in kind.__mro__[1:] if base is not object]
    known = {attribute for base in bases for attribute in (*vars(base), *getattr(base, "__annotations__", {}))}
    own = {attribute for attribute in vars(kind) if not attribute.startswith("_")}
    extra = {attribute for attribute in own - known if attribute not in EXTRA.get(name, ())}
    assert not extra, f"not declared by {KINDS[package].__name__}: {extra}"


EXTRA = {"vllm": ("device_used",), "hub": ("download_bytes",)}
"""Public attributes that only their own module and its tests use."""


@pytest.mark.parametrize(("package", "name"), PLACES)
def test_a_plugin_keeps_the_signatures_of_its_base(package: str, name: str) -> None:
    kind, base = kind_of(package, name), KINDS[package]
    for attribute, own in vars(kind).items():
        declared = inspect.getattr_static(base, attribute, None)
        if inspect.isfunction(own) and inspect.isfunction(declared):
            assert [*inspect.signature(own).parameters] == [*inspect.signature(declared).parameters], attribute
        if isinstance(declared, property):
            assert isinstance(own, property), attribute


def test_a_dash_in_a_name_is_an_underscore_in_its_file() -> None:
    assert module_named("quantize.sources", "random-weights") is module_named("quantize.sources", "random_weights")


def engines() -> Iterator[Engine]:
    for name in names("bench.engines"):
        yield engine(name, {**engine_fields(name), **NEEDED.get(name, {})})


@pytest.mark.parametrize("plugin", list(engines()), ids=lambda plugin: str(plugin.name))
def test_an_engine_answers_every_question_of_the_contract(plugin: Engine) -> None:
    from bench.speed.protocols import names as protocols

    assert plugin.protocol in protocols()
    assert plugin.parallelism.devices >= 1
    assert plugin.context_length(4096) >= 1
    assert plugin.parallel_overrides(plugin.parallelism) or not plugin.splits
    assert set(plugin.parallel_fields) <= set(type(plugin.config).model_fields)
    assert plugin.emulates(None, on_cpu=False) is False
    assert (plugin.address is None) == (not plugin.is_external)
    assert not {name for name in plugin.identity() if name.endswith("_timeout_s")}
    assert all(len(digest) == 64 for digest in plugin.code().values())
    assert f"{plugin.name}.py" in plugin.code()
    if plugin.toolchain:
        assert f"{plugin.toolchain}.toml" in plugin.code()
        assert plugin.versions()


def test_an_engines_config_and_module_are_called_alike() -> None:
    files = {file.stem for file in (config_dir() / "engine").glob("*.yaml")} - {"auto"}
    assert {name for name in files if not name.startswith("_")} == set(names("bench.engines"))


@pytest.mark.parametrize("quant", [file.stem for file in sorted((config_dir() / "quant").glob("[!_]*.yaml"))])
def test_a_method_promises_a_format_and_names_a_backend_that_can_do_it(quant: str) -> None:
    spec = compose_job(["+model=tiny-qwen3", f"quant={quant}", "session=test"])
    method, shapes = spec.quant.method, spec.model.architecture
    method.check(shapes)
    expected = method.expected(shapes)
    assert (expected.format is None) == (method.backend is None)
    if method.backend is not None:
        assert method.max_kl == expected.max_kl_nats
        assert backend(method.backend).toolchain
    calibrating = method.calibrating(shapes)
    assert (calibrating is None) == (method.calibration is None)


SOURCES: dict[str, dict[str, Any]] = {
    "gguf_wheel": {"package": "p", "version": "1", "file": "f"},
    "hub": {"repo": "a/b"},
    "local": {"path": "/nowhere"},
    "random_weights": {"family": "qwen3", "seed": 0},
}


@pytest.mark.parametrize("kind", names("quantize.sources"))
def test_a_source_says_what_it_imports_and_gives_its_fields_back(kind: str) -> None:
    fields = {"kind": kind, **SOURCES[kind]}
    built = source(fields)
    assert all(isinstance(package, str) for package in built.packages)
    assert fields.items() <= built.fields().items()
    assert source(built.fields()) == built


def test_every_backend_says_where_it_runs_and_what_it_does() -> None:
    for name in names("quantize.backends"):
        entry = module_named("quantize.backends", name).BACKEND
        assert entry.packages
        assert set(entry.methods) <= set(names("quantize.methods"))


BACKEND = """
from quantize.backend import Backend, QuantizeResult
BACKEND = Backend("autoawq", ("torch",), {"rtn": lambda *work: QuantizeResult()})
"""


def test_a_backend_is_known_by_its_module_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import quantize.backends

    (tmp_path / "another_one.py").write_text(BACKEND)
    monkeypatch.setattr(quantize.backends, "__path__", [*quantize.backends.__path__, str(tmp_path)])
    shapes = compose_job(["+model=tiny-qwen3", "session=test"]).model.architecture
    chosen = [
        compose_job(["+model=tiny-qwen3", f"quant={quant}", "quant.backend=another-one", "session=test"]).quant.method
        for quant in ("rtn-int4", "gptq-int4")
    ]
    assert [method.backend for method in chosen] == ["another-one", "another-one"]
    chosen[0].check(shapes)
    with pytest.raises(
        ValueError, match=r"quant\.backend=another-one does not implement this method; use one of auto-gptq,"
    ):
        chosen[1].check(shapes)


def test_an_unknown_name_gets_the_nearest_and_the_file_to_create() -> None:
    with pytest.raises(PluginError, match=r"'vlm' in bench\.engines; did you mean 'vllm'\?.*bench/engines/vlm"):
        module_named("bench.engines", "vlm")


def test_a_module_without_a_plugin_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import bench.engines

    (tmp_path / "hollow.py").write_text("X = 1\n")
    monkeypatch.setattr(bench.engines, "__path__", [*bench.engines.__path__, str(tmp_path)])
    with pytest.raises(PluginError, match="must define one subclass of Engine, but defines 0"):
        engine("hollow", {})


def test_a_run_is_not_resumed_once_the_engines_code_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.plan.stages import plan

    overrides = ["+model=tiny-qwen3", "engine=transformers", "session=test"]
    before = plan(compose_job(overrides)).key.digest
    assert plan(compose_job(overrides)).key.digest == before
    monkeypatch.setattr(Engine, "code", lambda self: {"app.py": "other"})
    assert plan(compose_job(overrides)).key.digest != before


def test_a_source_without_a_description_needs_an_architecture() -> None:
    from quantize.errors import SourceUnavailableError

    with pytest.raises(SourceUnavailableError, match=r"set model\.architecture"):
        source({"kind": "random_weights", **SOURCES["random_weights"]}).describe()
