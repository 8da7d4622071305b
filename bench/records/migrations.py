"""From records of older schemas to the present one: pure functions of plain data, one for each version."""

from typing import Any


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1 as one of schema 2, whose manifest tells more about calibration and proof."""
    made = record.get("checkpoint")
    if made is None:
        return {**record, "schema_version": 2}
    more: dict[str, Any] = {"format": None, "experts_reached": None, "layer_errors": [], "canaries": None}
    unknown: dict[str, Any] = {
        "source": "not recorded",
        "enable_thinking": None,
        "chat_template_sha256": None,
        "sample_sha256": [],
    }
    calibration = {**unknown, **made["calibration"]} if made["calibration"] else None
    proof = {"proof_seconds": 0.0, "proof_peak_rss_bytes": 0}
    return {**record, "schema_version": 2, "checkpoint": {**more, **proof, **made, "calibration": calibration}}


def _from_2(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 2 as one of schema 3, which only adds to it."""
    return {**record, "schema_version": 3}


def _from_3(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 3 as one of schema 4, which only adds to it."""
    return {**record, "schema_version": 4}


def _from_4(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 4 as one of schema 5, whose spec holds fields that older ones may lack.

    What was true of those runs is filled in: a margin of one percentage point, no baseline, the model's own context.
    """
    spec, variant = record["spec"], record["variant"]
    model = {"title": variant["model"], "source": {}, "context_length": None, "architecture": None}
    engine = spec.get("engine", {"name": record["engine"], "config": {}})
    return {
        **record,
        "schema_version": 5,
        "spec": {
            "release": None,
            "baseline": None,
            "context": {"name": "native", "length": None},
            "heldout": None,
            "workload": {},
            "quant": {"name": variant["quant"], "module": variant["quant"], "config": {}},
            **spec,
            "model": {**model, **spec.get("model", {})},
            "engine": engine,
            "accuracy": {"margin": 0.01, "tasks": [], "limit": None, "max_gen_toks": None, **spec.get("accuracy", {})},
            "seed": spec.get("seed", 0),
        },
    }


def _field(spec: Any, *path: str) -> Any:
    """Return a field of a spec.

    Raises:
        ValueError: it is missing; names it.
    """
    found = spec
    for place, name in enumerate(path):
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"spec.{'.'.join(path[: place + 1])} is missing from a record of schema 5")
        found = found[name]
    return found


def _quant(spec: Any, *path: str) -> dict[str, Any]:
    """Return a quantization, whose method was called a module, with the release next to it."""
    names = {"name": "name", "method": "module", "config": "config"}
    fields = {new: _field(spec, *path, "quant", old) for new, old in names.items()}
    return {**fields, "release": _field(spec, *path, "release")}


def _from_5(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 5 as one of schema 6, whose spec is typed.

    Raises:
        ValueError: a field is missing that every record of schema 5 has.
    """
    spec = record["spec"]
    accuracy = dict(_field(spec, "accuracy"))
    named = {name: _field(spec, "accuracy", name) for name in ("margin", "tasks", "limit", "max_gen_toks")}
    baseline = _field(spec, "baseline")
    return {
        **record,
        "schema_version": 6,
        "spec": {
            "model": {
                name: _field(spec, "model", name) for name in ("title", "source", "context_length", "architecture")
            },
            "quant": _quant(spec),
            "baseline": baseline and _quant(spec, "baseline"),
            "context": {name: _field(spec, "context", name) for name in ("name", "length")},
            "heldout": _field(spec, "heldout"),
            "engine": {
                "name": _field(spec, "engine", "name"),
                "config": _field(spec, "engine", "config"),
                "dtype": _field(spec, "engine", "config").get("dtype"),
            },
            "workload": _field(spec, "workload"),
            "accuracy": {**named, "settings": {name: value for name, value in accuracy.items() if name not in named}},
            "seed": _field(spec, "seed"),
        },
    }


UPGRADES = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4, 5: _from_5}
"""By schema version: what makes the next one of a record. Records on disk stay as they are."""
