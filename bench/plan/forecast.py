"""Forecast of a run from its spec and the device's data sheet: size, devices, limits and duration. Nothing is run.

*At best* is the physical limit (:mod:`bench.limits.roofline`); *likely* comes from a law fitted to published cells
(:mod:`bench.published.law`), with its 95 % interval, if there is one for the quantization and engine.
"""

import contextlib

from bench.analysis.estimate import Estimate
from bench.config.spec import RunSpec
from bench.errors import QuantbenchError
from bench.limits.roofline import active_parameters, linear_flops, peak
from bench.machine.nvml import Devices
from bench.machine.peaks import kept_device, lookup
from bench.plan.cells import CellForecast, cell_of
from bench.plan.placement import Fit, ServedWeights, fit, served_weights, sizes
from bench.plan.stages import check, shapes_of
from bench.plan.tasks import TaskForecast, task_of
from bench.records.record import Device
from quantize.estimate import Needs, estimate
from quantize.key import Frozen

WINDOWS = 100
"""Held-out windows if a complete text is used, as :mod:`bench.pipeline.checkpoints` assumes."""


class Build(Frozen):
    """Cost of downloading and quantizing the weights."""

    download_bytes: float | None
    """From the hub; None if nothing is downloaded. A release is proven against its source, so both are."""
    disk_bytes: float
    """Of source and result together, if neither exists yet; a source in a local folder is linked."""
    method: str
    """With its backend, if it has one."""
    release: bool
    """Whether the weights are downloaded quantized, and only proven here."""
    needs: Needs
    calibration_tokens: int | None
    best_s: float | None
    """Least time of the calibration: one pass of its tokens through the model. None without calibration."""


class Forecast(Frozen):
    """The forecast of one run."""

    model: str
    quant: str
    engine: str
    device: Device | None
    total_parameters: int
    active_parameters: int
    bits: float | None
    """Bits per quantized weight, with scales; None if nothing is quantized."""
    checkpoint_bytes: float
    build: Build | None
    """None for an external server."""
    fit: Fit | None
    """None if the device is unknown."""
    trials: int
    cells: tuple[CellForecast, ...]
    tasks: tuple[TaskForecast, ...]
    baseline: "Forecast | None"
    """The baseline served next to the variant."""
    remarks: tuple[str, ...]

    @property
    def able(self) -> tuple[CellForecast, ...]:
        """The cells that can run."""
        return tuple(cell for cell in self.cells if cell.reason is None)

    @property
    def cells_best_s(self) -> float | None:
        """Least time of the speed cells that can run; None if none is known."""
        return _sum([cell.best_s for cell in self.able])

    @property
    def cells_likely_s(self) -> Estimate | None:
        """Likely time of the speed cells that can run; None unless it is known for all of them.

        The law's error is the same for all of them, so the ends of the intervals are summed.
        """
        known = [cell.likely_s for cell in self.able if cell.likely_s is not None]
        if not known or len(known) < len(self.able):
            return None
        return Estimate(
            low=sum(likely.low for likely in known),
            value=sum(likely.value for likely in known),
            high=sum(likely.high for likely in known),
        )

    @property
    def best_s(self) -> float | None:
        """Sum of the known least times: calibration, cells and tasks, with those of the baseline."""
        times_s = [self.build.best_s if self.build else None, self.cells_best_s, *(task.best_s for task in self.tasks)]
        return _sum([*times_s, self.baseline.best_s if self.baseline else None])


def _sum(times: list[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return sum(known) if known else None


def _build(spec: RunSpec, model: ServedWeights, device: Device | None) -> Build | None:
    if spec.engine.is_external:
        return None
    architecture, method, release = spec.model.architecture, spec.quant.method, spec.release
    result_bytes, source = sum(sizes(architecture, model.stored_bits)), 2.0 * architecture.parameters()
    needs = estimate(
        architecture,
        None if release else method.calibrating(architecture),
        heldout=(spec.heldout.n_samples or WINDOWS, spec.heldout.max_seq_len),
        bits=model.form.bits if model.form else None,
    )
    calibrating = None if release else method.calibrating(architecture)
    tokens = calibrating.tokens if calibrating else None
    downloads = [
        *([source] if spec.model.source.downloads else []),
        *([result_bytes] if release and release.downloads else []),
    ]
    return Build(
        download_bytes=sum(downloads) if downloads else None,
        disk_bytes=(0.0 if spec.model.source.links else source) + (result_bytes if model.form else 0.0),
        method=method.name + (f" by {method.backend}" if method.backend and not release else ""),
        release=release is not None,
        needs=needs,
        calibration_tokens=tokens,
        best_s=tokens * linear_flops(architecture) / peak(device, "bf16") if tokens and device else None,
    )


def _remarks(spec: RunSpec, model: ServedWeights, device: Device | None) -> list[str]:
    remarks = []
    if spec.yarn is not None:
        remarks.append(f"YaRN stretches the positions {spec.yarn.factor:g} times, to {spec.yarn.length:,} tokens")
        longest = spec.model.rope.longest if spec.model.rope else None
        if longest and spec.yarn.length > longest:
            remarks.append(f"its authors state a maximum of {longest:,} tokens")
    if device and model.multiplied_in not in ("bf16", *device.flops_per_s):
        remarks.append(
            f"{device.name} does not multiply {model.multiplied_in}: it computes in BF16, so only the smaller weights "
            "save time"
        )
    if model.emulated:
        remarks.append(
            f"engine={spec.engine.name} does not compute on quantized kernels here: accuracy counts, speed does not"
        )
    return remarks


def forecast(spec: RunSpec, device: Device | None, problems: tuple[str, ...] = (), *, per_machine: int = 1) -> Forecast:
    """Return the forecast of a run on a device.

    Args:
        spec: the run.
        device: one of the planned devices; None if unknown.
        problems: why it cannot run on this machine.
        per_machine: devices per machine.
    """
    architecture, model = spec.model.architecture, served_weights(spec)
    placement = fit(spec, model, device, per_machine=per_machine) if device else None
    baseline = None
    if spec.baseline:
        update = {
            "variant": spec.baseline.variant,
            "quant": spec.baseline.quant,
            "release": spec.baseline.release,
            "accuracy": spec.accuracy.model_copy(update={"tasks": ()}),  # only the run's own variant is scored
            "baseline": None,
        }
        baseline = forecast(spec.model_copy(update=update), device, per_machine=per_machine)
    return Forecast(
        model=spec.variant.model,
        quant=spec.variant.quant,
        engine=spec.engine.name,
        device=device,
        total_parameters=architecture.parameters(),
        active_parameters=active_parameters(architecture),
        bits=model.stored_bits,
        checkpoint_bytes=sum(sizes(architecture, model.stored_bits)),
        build=_build(spec, model, device),
        fit=placement,
        trials=spec.workload.trials,
        cells=tuple(cell_of(spec, shape, model, device, placement) for shape in shapes_of(spec.workload)),
        tasks=tuple(task_of(spec, task, model, device, placement) for task in spec.accuracy.tasks),
        baseline=baseline,
        remarks=(*_remarks(spec, model, device), *(placement.remarks if placement else ()), *problems),
    )


def _device(spec: RunSpec) -> tuple[Device | None, int, str | None]:
    """Return (the device to plan for, the number of devices per machine, why the device is unknown)."""
    if spec.engine.is_external:
        return None, 1, "the device of an external server is not known"
    if spec.hardware.device is not None:
        device = lookup(spec.hardware.device)
        why = None if device else f"'{spec.hardware.device}' is not in the table of devices"
        return device, spec.hardware.devices_per_machine or 1, why
    cpu = spec.hardware.name == "cpu" or spec.engine.device == "cpu"
    device = kept_device(cpu=cpu)
    why = (
        None if device else "this machine's limits are measured by a first run; hardware=h100 plans for another machine"
    )
    return device, 1 if cpu else _devices_here(), why


def _devices_here() -> int:
    devices = Devices.here()
    if devices is None:
        return 1
    with contextlib.closing(devices):
        return len(devices.names)


def _problems(spec: RunSpec) -> tuple[str, ...]:
    """Return why a run cannot start on this machine."""
    try:
        check(spec)
    except QuantbenchError as error:
        return (f"cannot run on this machine: {error}",)
    return ()


def forecast_of(spec: RunSpec) -> Forecast:
    """Return the forecast of one run, for the machine that it names."""
    device, per_machine, why = _device(spec)
    return forecast(spec, device, (*([why] if why else []), *_problems(spec)), per_machine=per_machine)
