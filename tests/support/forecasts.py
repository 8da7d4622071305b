"""Specs and devices to plan for."""

from bench.config.compose import compose_job, names
from bench.config.spec import RunSpec
from bench.machine.peaks import lookup
from bench.records.record import Device

GPUS = tuple(name for name in names("hardware") if name not in ("auto", "cpu"))
CORE = ("bf16", "fp8", "fp8-block", "int8-w8a8", "gptq-int8", "gptq-int4", "awq-int4")


def spec(model: str, quant: str = "bf16", hardware: str = "h100", *more: str) -> RunSpec:
    return compose_job([f"+model={model}", f"quant={quant}", f"hardware={hardware}", "plan=true", *more])


def device(hardware: str) -> Device:
    name = spec("qwen3-8b", "bf16", hardware).hardware.device
    assert name is not None
    known = lookup(name)
    assert known is not None
    return known


DEVICES = {hardware: device(hardware) for hardware in GPUS}


PARTS = {quant: spec("qwen3-8b", quant) for quant in CORE}
