"""Upgrade records of older schemas to the present one: pure functions of plain data, one for each version.

Cells and scores are also files of their own, without a schema version; `upgrade_cell` and `upgrade_score` therefore
take data of any version.
"""

from collections.abc import Callable
from typing import Any

from quantize.checkpoint import rename_fields, with_units

Change = Callable[[Any], Any]


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1 as one of schema 2, whose manifest holds more about calibration and proof."""
    checkpoint = record.get("checkpoint")
    if checkpoint is None:
        return {**record, "schema_version": 2}
    more: dict[str, Any] = {"format": None, "experts_reached": None, "layer_errors": [], "canaries": None}
    unknown: dict[str, Any] = {
        "source": "not recorded",
        "enable_thinking": None,
        "chat_template_sha256": None,
        "sample_sha256": [],
    }
    calibration = {**unknown, **checkpoint["calibration"]} if checkpoint["calibration"] else None
    proof = {"proof_seconds": 0.0, "proof_peak_rss_bytes": 0}
    return {**record, "schema_version": 2, "checkpoint": {**more, **proof, **checkpoint, "calibration": calibration}}


def _from_2(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 2 as one of schema 3, which only adds to it."""
    return {**record, "schema_version": 3}


def _from_3(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 3 as one of schema 4, which only adds to it."""
    return {**record, "schema_version": 4}


def _from_4(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 4 as one of schema 5, whose spec holds fields that older ones may lack.

    The values that those runs used are filled in: a margin of one percentage point, no baseline, the native context.
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
        ValueError: the field is missing; the message names it.
    """
    value = spec
    for place, name in enumerate(path):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"spec.{'.'.join(path[: place + 1])} is missing from a record of schema 5")
        value = value[name]
    return value


def _quant(spec: Any, *path: str) -> dict[str, Any]:
    """Return a quantization, whose method was called a module, with the release next to it."""
    names = {"name": "name", "method": "module", "config": "config"}
    fields = {new: _field(spec, *path, "quant", old) for new, old in names.items()}
    return {**fields, "release": _field(spec, *path, "release")}


def _from_5(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 5 as one of schema 6, whose spec is typed and whose figures carry units in their names.

    Raises:
        ValueError: a field is missing that every record of schema 5 has.
    """
    spec = record["spec"]
    accuracy = dict(_field(spec, "accuracy"))
    named = {name: _field(spec, "accuracy", name) for name in ("margin", "tasks", "limit", "max_gen_toks")}
    baseline = _field(spec, "baseline")
    record = rename_fields(record, price_per_hour="dollars_per_hour", stage_seconds="stage_durations_s")
    if control := record.get("control"):
        record["control"] = {**control, "checkpoint": with_units(control["checkpoint"])}
    return {
        **record,
        "schema_version": 6,
        "checkpoint": with_units(record["checkpoint"]),
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


def upgrade_cell(cell: Any) -> Any:
    """Return a speed cell of any schema as one of schema 6.

    In schema 2 all requests of a trial were sent together; until schema 5 some figures lacked units in their names.
    """
    if not isinstance(cell, dict):
        return cell
    sent_together = {"n_requests": cell["concurrency"]} if "concurrency" in cell else {}
    return _change_fields(
        rename_fields({**sent_together, **cell}, request_rate="request_rate_per_s"), trials=_each(_trial)
    )


def upgrade_score(score: Any) -> Any:
    """Return a task's score of any schema as one of schema 6: until schema 5 its times lacked units in their names."""
    return _change_fields(
        rename_fields(score, seconds="duration_s"), work=lambda work: rename_fields(work, seconds="duration_s")
    )


def _trial(trial: Any) -> Any:
    states = _each(lambda state: rename_fields(state, temperature_c="temperature_celsius"))
    return _change_fields(
        trial,
        energy=lambda energy: rename_fields(energy, joules="total_j"),
        devices_before=states,
        devices_after=states,
    )


def _each(change: Change) -> Change:
    return lambda values: [change(value) for value in values] if isinstance(values, list | tuple) else values


def _change_fields(fields: Any, **changes: Change) -> Any:
    """Return a mapping with some of its values changed, where they are there; anything else as it is."""
    if not isinstance(fields, dict):
        return fields
    return {name: changes[name](value) if name in changes else value for name, value in fields.items()}


UPGRADES: dict[Any, Change] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4, 5: _from_5}
"""By schema version: what makes the next one of a record. Records on disk stay as they are."""


def upgrade_record(record: Any) -> Any:
    """Return a record of any schema as one of the present schema.

    Raises:
        ValueError: it lacks a field that every record of its schema has.
    """
    while isinstance(record, dict) and (upgrade := UPGRADES.get(record.get("schema_version"))):
        try:
            record = upgrade(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a record of schema {record['schema_version']} lacks a field: {error}") from error
    return record
