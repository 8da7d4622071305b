"""A composed config, checked and frozen. The only module that touches OmegaConf.

A method, a model source and an engine are found by module name (``quantize.methods.NAME``, ``quantize.sources.NAME``,
``bench.engines.NAME``); each brings its own ``Config``, which checks its fields here, before any time is spent.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BeforeValidator, Field, PositiveInt, ValidationError

from bench.errors import ConfigError
from bench.record import Variant
from quantize.key import Frozen
from quantize.methods import Architecture

TYPES = ("int", "str", "dict", "tuple")
"""Words that pydantic puts into a path for the branch of a union; no fields of ours."""
GROUPS = ("model", "quant", "engine", "calibration", "workload", "accuracy", "report", "experiment")
CALIBRATION = ("calibration=", "calibration.")
TOP_LEVEL = (*GROUPS, "seed", "results_dir", "reports_dir", "session")


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, int | str) else value


class Workload(Frozen):
    """Shapes of the speed sweep. Lengths are tokens."""

    name: str
    input_lens: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple)]
    output_len: PositiveInt
    concurrency: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple)]
    trials: PositiveInt


class AccuracySpec(Frozen):
    """Which lm-eval tasks run, and how."""

    name: str
    tasks: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
    limit: PositiveInt | None
    num_fewshot: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] | None
    chat_template: tuple[str, ...]
    max_gen_toks: PositiveInt | None
    concurrency: PositiveInt
    hub_dir: Path | None

    def fewshot_of(self, task: str) -> int | None:
        """Return the number of examples for ``task``; None means the task's own."""
        return self.num_fewshot.get(task) if isinstance(self.num_fewshot, dict) else self.num_fewshot


class ModelSpec(Frozen):
    """A model: where its weights come from, and what can be known of it without them."""

    name: str
    title: str
    source: dict[str, Any]
    context_length: PositiveInt
    """Longest prompt plus answer, tokens."""
    architecture: Architecture


class PartSpec(Frozen):
    """A quantization or an engine: its config's name, the module behind it, and that module's checked fields."""

    name: str
    module: str
    config: dict[str, Any]


class ReportSpec(Frozen):
    """How the report is written."""

    name: str


class RunSpec(Frozen):
    """Everything one run needs to know."""

    model: ModelSpec
    quant: PartSpec
    engine: PartSpec
    workload: Workload
    accuracy: AccuracySpec
    report: ReportSpec
    variant: Variant
    command: tuple[str, ...]
    seed: int
    results_dir: Path
    reports_dir: Path
    session: str


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: ``"; did you mean 'x'?"`` for the word nearest to ``word``, or a full stop."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else "."


def plugin(package: str, name: str) -> ModuleType:
    """Import module ``name`` of a plug-in package such as ``quantize.methods``.

    Raises:
        ConfigError: there is no such module; names the known ones and the file to create.
    """
    known = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    if name not in known:
        raise ConfigError(
            f"no module '{name}' in {package}{nearest(name, known)} "
            f"Known: {', '.join(known)}. To add one, create {package.replace('.', '/')}/{name}.py."
        )
    return importlib.import_module(f"{package}.{name}")


def explain(error: ValidationError, where: str) -> ConfigError:
    """Return one line for the first thing that pydantic found wrong below config node ``where``."""
    first = error.errors()[0]
    parts = [str(part) for part in (where, *first["loc"])]
    path = ".".join(part for part in parts if re.fullmatch(r"[\w.]+", part) and part not in TYPES)
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{path}: there is no such field here")
    return ConfigError(f"{path}: {first['msg'][0].lower()}{first['msg'][1:]} (got {first['input']!r})")


def _section(cfg: dict[str, Any], name: str, overrides: Sequence[str]) -> dict[str, Any]:
    section = cfg.get(name)
    if not isinstance(section, dict):
        raise ConfigError(
            f"{name}={section}: expected one of the names in configs/{name}/; overrides: {list(overrides)}"
        )
    return section


def _refuse_targets(node: Any, path: str = "") -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                raise ConfigError(f"{path}_target_: configs hold data and never name code to run; remove it")
            _refuse_targets(value, f"{path}{key}.")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _refuse_targets(value, f"{path}{index}.")


def _changed(overrides: Sequence[str], *prefixes: str) -> str:
    """Return the overrides that begin with a prefix, as ``[group_size=32]``: variants of one yaml differ by name."""
    typed = [text.lstrip("+") for text in overrides]
    fields = sorted(text.removeprefix(prefixes[0]) for text in typed if text.startswith(prefixes))
    return f"[{','.join(fields)}]" if fields else ""


def build_spec(cfg: DictConfig, overrides: Sequence[str]) -> RunSpec:
    """Check a composed config and freeze it.

    Args:
        cfg: the composed config, interpolations unresolved.
        overrides: what was typed, e.g. ``["+model=smollm2-135m", "quant=fp8"]``.

    Raises:
        ConfigError: a value is missing or wrong; the message names its path.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"missing value: {error.full_key}; for example +model=smollm2-135m") from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    data: dict[str, Any] = {str(key): value for key, value in plain.items()}
    _refuse_targets(data)
    for name in sorted(data.keys() - set(TOP_LEVEL)):
        raise ConfigError(f"{name}: no such field{nearest(name, TOP_LEVEL)}")

    model = _section(data, "model", overrides)
    quant = dict(_section(data, "quant", overrides))
    engine = dict(_section(data, "engine", overrides))
    where = "model"
    try:
        model_spec = ModelSpec.model_validate(model)
        source = dict(model_spec.source)
        where = "model.source"
        plugin("quantize.sources", str(source.pop("kind", None))).Config.model_validate(source)
        where = "quant"
        quant_name, method = quant.pop("name"), quant.pop("method")
        quant_config = plugin("quantize.methods", method).Config.model_validate(quant)
        where = "engine"
        engine_name = resolve_engine(engine.pop("name"))
        engine_config = plugin("bench.engines", engine_name).Config.model_validate(engine)
        where = "workload"
        workload = Workload.model_validate(data["workload"])
        where = "accuracy"
        accuracy = AccuracySpec.model_validate(data["accuracy"])
        where = "report"
        report = ReportSpec.model_validate(data["report"])
        where = ""
        return RunSpec(
            model=model_spec,
            quant=PartSpec(name=quant_name, module=method, config=quant_config.model_dump(mode="json")),
            engine=PartSpec(name=engine_name, module=engine_name, config=engine_config.model_dump(mode="json")),
            workload=workload,
            accuracy=accuracy,
            report=report,
            variant=Variant(
                model=model_spec.name + _changed(overrides, "model."),
                quant=quant_name + _changed(overrides, "quant.", *(CALIBRATION if "calibration" in quant else ())),
            ),
            command=tuple(text for text in overrides if not text.startswith("session=")),
            seed=data["seed"],
            results_dir=Path(data["results_dir"]).absolute(),
            reports_dir=Path(data["reports_dir"]).absolute(),
            session=str(data["session"]),
        )
    except ValidationError as error:
        raise explain(error, where) from error
    except KeyError as error:
        raise ConfigError(f"{where}.{error.args[0]}: this field is missing") from error


def resolve_engine(name: str) -> str:
    """Return the engine that ``name`` stands for on this machine: ``auto`` takes the best there is."""
    return "transformers" if name == "auto" else name
