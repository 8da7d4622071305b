"""Check a composed config and freeze it into a run spec; errors name the option and the fix.

Each method, model source and engine has its own ``Config``, which checks its fields here, before the run.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from bench.config.no_code import refuse_targets
from bench.config.spec import (
    AccuracySpec,
    Baseline,
    ContextSpec,
    HardwareSpec,
    ModelSpec,
    QuantSpec,
    ReportSpec,
    RunSpec,
    Workload,
    name_of,
)
from bench.engines import Engine, engine
from bench.errors import ConfigError, ToolchainError, nearest
from bench.machine.cuda import has_cuda_device
from bench.records.record import Variant
from quantize.checkpoint import CheckpointError
from quantize.errors import SourceUnavailableError
from quantize.method import method
from quantize.plugins import PluginError
from quantize.source import Source, source
from quantize.texts import HeldoutConfig

TYPES = ("int", "str", "dict", "tuple")
"""Union branch names that pydantic adds to error locations; not config fields."""
GROUPS = (
    "model", "context", "quant", "engine", "kv_cache", "calibration", "workload", "accuracy", "hardware", "report",
    "experiment",
)  # fmt: skip
NAMING = re.compile(r"model\.source\.(path|repo)=|context=native$")
"""Overrides that do not change a model's name: they are part of it already, or have no effect."""
MODEL_FIELDS = ("model.", "context=", "context.", "accuracy.thinking=")
"""Prefixes of overrides that become part of the model's name, such as its context and whether it reasons."""
KV_CACHE = ("kv_cache=",)
CALIBRATION = ("calibration=", "calibration.")
HELDOUT = ("calibration.heldout",)
SAMPLING = ("auto", "greedy", "recommended")
"""Named sampling settings."""
BASELINE_GROUP = "quant@baseline"
"""Hydra's name for the config group of ``baseline=``."""
MADE, OFFICIAL = "made", "official"
"""Special values of ``quant.source``: quantized here, or the model's official release."""
AUTO = "auto"
TOP_LEVEL = (*GROUPS, "baseline", "plan", "price_per_hour", "seed", "results_dir", "reports_dir", "session")


def explain(error: ValidationError, where: str) -> ConfigError:
    """Return the first of pydantic's errors below config node ``where`` as one line."""
    first = error.errors()[0]
    parts = [str(part) for part in (where, *first["loc"])]
    path = ".".join(part for part in parts if re.fullmatch(r"[\w.]+", part) and part not in TYPES)
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{path}: no such field")
    if first["type"] == "value_error":  # raised by our own validators, whose messages are complete
        return ConfigError(f"{path}: {first['msg'].removeprefix('Value error, ')}")
    return ConfigError(f"{path}: {first['msg'][0].lower()}{first['msg'][1:]} (got {first['input']!r})")


def _section(cfg: dict[str, Any], name: str, overrides: Sequence[str]) -> dict[str, Any]:
    section = cfg.get(name)
    if not isinstance(section, dict):
        raise ConfigError(f"{name}={section}: expected a config of configs/{name}/; overrides: {list(overrides)}")
    return section


def _changed(overrides: Sequence[str], *prefixes: str) -> str:
    """Return the overrides with one of these prefixes as ``[group_size=32]``, to tell variants of one config apart."""
    typed = [text.lstrip("+") for text in overrides]
    fields = sorted(text.removeprefix(prefixes[0]) for text in typed if text.startswith(prefixes))
    return f"[{','.join(fields)}]" if fields else ""


def _described(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model section completed from the checkpoint's own ``config.json``.

    Raises:
        ConfigError: the checkpoint cannot be read, or its architecture is unknown.
    """
    try:
        name, architecture, context_length = source(model["source"]).describe()
    except (SourceUnavailableError, CheckpointError) as error:
        raise ConfigError(f"model={model['name']}: {error}") from error
    fields = {key: value for key, value in model.items() if value is not None}
    return {
        "architecture": architecture.model_dump(),
        "context_length": context_length,
        **fields,
        "name": name_of(name),
    }


def release_of(choice: str, model: ModelSpec, quant: str) -> dict[str, Any] | None:
    """Return the source of the quantized checkpoint that ``quant.source`` names; None for ``made``.

    Raises:
        ConfigError: the model has no official release in this quantization; lists those it has.
    """
    if choice == MADE:
        return None
    if choice == OFFICIAL:
        if quant not in model.official:
            known = ", ".join(sorted(model.official)) or "none"
            raise ConfigError(
                f"quant.source=official: no release of {model.name} in {quant} is known (known: {known}); "
                "give one with quant.source=ORGANISATION/NAME or a folder"
            )
        return {"kind": "hub", "quantized": True, **model.official[quant]}
    if choice.startswith(("/", ".", "~")) or Path(choice).is_dir():
        return {"kind": "local", "quantized": True, "path": str(Path(choice).expanduser().absolute())}
    repo, _, revision = choice.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ConfigError(
            f"quant.source={choice}: expected made, official, ORGANISATION/NAME[@REVISION] or an existing folder"
        )
    return {"kind": "hub", "quantized": True, "repo": repo, "revision": revision or "main"}


def build_spec(cfg: DictConfig, overrides: Sequence[str]) -> RunSpec:
    """Check a composed config and freeze it.

    Args:
        cfg: the composed config, interpolations unresolved.
        overrides: as typed, e.g. ``["+model=smollm2-135m", "quant=fp8"]``.

    Raises:
        ConfigError: a value is missing or wrong; the message gives its path.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"missing value: {error.full_key}; for example +model=smollm2-135m") from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    data: dict[str, Any] = {str(key): value for key, value in plain.items()}
    refuse_targets(data)
    for name in ("results_dir", "reports_dir"):
        if not data.get(name):
            raise ConfigError(f"{name}: expected a folder")
    for name in sorted(data.keys() - set(TOP_LEVEL)):
        raise ConfigError(f"{name}: no such field{nearest(name, TOP_LEVEL)}")

    model = _model(_section(data, "model", overrides))
    with _explaining("context"):
        context = ContextSpec.model_validate(_section(data, "context", overrides))
    _check_context(context, model)
    with _explaining("hardware"):
        hardware = HardwareSpec.model_validate(_section(data, "hardware", overrides))
    quant, release = _quant(_section(data, "quant", overrides), model)
    gpu = None if hardware.name == AUTO else hardware.device is not None
    engine_section = _section(data, "engine", overrides)
    serving = _engine(engine_section, overrides, gpu=gpu)
    if hardware.name != AUTO and not data.get("plan"):
        raise ConfigError(f"hardware={hardware.name}: a run measures this machine; add plan=true to plan for another")
    with _explaining("calibration.heldout"):
        heldout = HeldoutConfig.model_validate(_section(data, "calibration", overrides)["heldout"])
    with _explaining("workload"):
        workload = Workload.model_validate(data["workload"])
    accuracy = _accuracy(_section(data, "accuracy", overrides), model)
    if engine_section["name"] == AUTO and not data["plan"] and (workload.input_lens or accuracy.tasks):
        _check_automatic(serving, engine_section)
    with _explaining("report"):
        report = ReportSpec.model_validate(data["report"])
    with _explaining(""):
        return RunSpec(
            model=model,
            context=context,
            hardware=hardware,
            quant=quant,
            release=release,
            heldout=heldout,
            engine=serving,
            workload=workload,
            accuracy=accuracy,
            report=report,
            variant=Variant(
                model=model.name
                + _changed([text for text in overrides if not NAMING.search(text)], *MODEL_FIELDS).replace(
                    "accuracy.", ""
                ),
                quant=quant.name + _changed(overrides, "quant.", *KV_CACHE, *_texts(quant, release)),
            ),
            command=tuple(
                text.replace(f"{BASELINE_GROUP}=", "baseline=")
                for text in overrides
                if not text.startswith(("session=", "plan=", "hardware="))
            ),
            baseline=_baseline(data["baseline"], model, overrides) if "baseline" in data else None,
            plan=data["plan"],
            price_per_hour=data["price_per_hour"],
            seed=data["seed"],
            results_dir=Path(data["results_dir"]).absolute(),
            reports_dir=Path(data["reports_dir"]).absolute(),
            session=str(data["session"]),
        )


@contextmanager
def _explaining(where: str) -> Iterator[None]:
    """Turn errors below a config node into a `ConfigError` of one line."""
    try:
        yield
    except ValidationError as error:
        raise explain(error, where) from error
    except PluginError as error:
        raise ConfigError(str(error)) from error
    except KeyError as error:
        raise ConfigError(f"{where}.{error.args[0]}: this field is missing") from error


def _model(section: dict[str, Any]) -> ModelSpec:
    with _explaining("model.source"):
        model_source = source(section["source"])
        if section.get("architecture", {}) is None:
            section = _described(section)
    with _explaining("model"):
        return ModelSpec.model_validate({**section, "source": model_source})


def _accuracy(section: dict[str, Any], model: ModelSpec) -> AccuracySpec:
    """Return the accuracy section with the model's mode and sampling resolved.

    lm-eval decodes greedily. A model that reasons is sampled as its authors recommend, because greedy reasoning tends
    to repeat itself endlessly.
    """
    thinking, sampling = section.get("thinking"), section.get("sampling")
    if thinking is None:
        thinking = "plain" not in model.modes and "thinking" in model.modes
    name: Literal["plain", "thinking"] = "thinking" if thinking is True else "plain"
    chats = set(section.get("tasks") or ()) & set(section.get("chat_template") or ())
    if model.modes and name not in model.modes and chats:
        raise ConfigError(
            f"accuracy.thinking={str(thinking).lower()}: {model.name} answers in {' and '.join(model.modes)} mode only"
        )
    if sampling == "recommended" and name not in model.modes:
        raise ConfigError(f"accuracy.sampling=recommended: no recommendation for {model.name} in {name} mode")
    if isinstance(sampling, str) and sampling not in SAMPLING:
        raise ConfigError(
            f"accuracy.sampling={sampling}: expected {', '.join(SAMPLING)} or {{temperature: …, top_p: …}}"
        )
    if sampling == "greedy":
        sampling = {"temperature": 0}
    elif isinstance(sampling, str):
        sampling = model.modes.get(name) if sampling == "recommended" or name == "thinking" else None
    with _explaining("accuracy"):
        return AccuracySpec.model_validate({**section, "thinking": thinking, "sampling": sampling})


def _check_context(context: ContextSpec, model: ModelSpec) -> None:
    if context.length is None or context.length <= model.context_length:
        return
    if model.rope is None:
        raise ConfigError(
            f"context={context.name}: the context of {model.name} is {model.context_length} tokens, and its rotary "
            "base is not known, so YaRN cannot extend it; set model.rope={theta: …, original: …}"
        )


def _quant(section: dict[str, Any], model: ModelSpec) -> tuple[QuantSpec, Source | None]:
    fields = dict(section)
    with _explaining("quant"):
        name, kind = fields.pop("name"), fields.pop("method")
        release = release_of(str(fields.pop("source", MADE)), model, name)
        spec = QuantSpec(name=name, method=method(kind, fields))
    with _explaining("quant.source"):
        return spec, source(release) if release else None


def _baseline(section: dict[str, Any], model: ModelSpec, overrides: Sequence[str]) -> Baseline:
    quant, release = _quant(section, model)
    name = quant.name + _changed(overrides, "baseline.", *KV_CACHE, *_texts(quant, release))
    return Baseline(variant=Variant(model=model.name, quant=name), quant=quant, release=release)


def _texts(quant: QuantSpec, release: Source | None) -> tuple[str, ...]:
    """Return the prefixes of overrides that change the texts used for a checkpoint."""
    return CALIBRATION if quant.method.calibration and release is None else HELDOUT


def _engine(section: dict[str, Any], overrides: Sequence[str], *, gpu: bool | None) -> Engine:
    fields = dict(section)
    with _explaining("engine"):
        name = fields.pop("name")
        if name == AUTO:
            name, fields = _automatic(fields, overrides, gpu=gpu)
        return engine(name, fields)


def _automatic(section: dict[str, Any], overrides: Sequence[str], *, gpu: bool | None) -> tuple[str, dict[str, Any]]:
    """Return the engine that ``auto`` stands for and its fields, with the common fields that were set.

    The section has the common fields and, under each engine's name, the fields of the engines it may choose. A plan for
    another machine, with a ``gpu`` or without, decides by that machine. Whether a toolchain is built does not matter:
    otherwise the same command would measure another engine once the toolchain is built.
    """
    engines = {True: str(section["on_gpu"]), False: str(section["on_cpu"])}
    name = engines[has_cuda_device() if gpu is None else gpu]
    overridden = {text.lstrip("+").partition("=")[0].removeprefix("engine.") for text in overrides}
    overridden |= {"kv_cache_dtype"} if any(text.lstrip("+").startswith(KV_CACHE) for text in overrides) else set()
    common = {field: value for field, value in section.items() if field in overridden and field not in engines.values()}
    own = {field: value for field, value in section[name].items() if field != "name"}
    return name, {**own, **common}


def _check_automatic(serving: Engine, section: dict[str, Any]) -> None:
    """Check that the engine chosen by ``auto`` for a CUDA device can be started.

    Raises:
        ConfigError: its toolchain is not built; gives the command to build it, its size, and the alternative.
    """
    if serving.name != section["on_gpu"]:
        return
    try:
        serving.interpreter("engine=auto on a CUDA device")
    except ToolchainError as error:
        raise ConfigError(
            f"{error}; engine={section['on_cpu']} uses the reference server instead, which expands quantized weights "
            "to 16 bits"
        ) from error
