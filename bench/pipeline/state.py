"""The state of a run: its checkpoints and servers, its decisions and failures, and how long its stages took."""

import contextlib
import time
from collections.abc import Iterator

from bench.config.spec import RunSpec
from bench.console import View
from bench.errors import QuantbenchError
from bench.plan.stages import Plan
from bench.records.engine_info import EngineInfo
from bench.records.record import Control, Device, Failure, RunRecord, ServerFacts, SpeedCell
from bench.records.store import CONTROL, RunFolder
from quantize.checkpoint import Checkpoint
from quantize.clock import utc_now

FINAL = ("ok", "emulated", "not_supported")
"""States of a result that a resumed run does not measure again."""


class RunState:
    """What every stage needs, and what the stages have found so far."""

    def __init__(self, spec: RunSpec, plan: Plan, folder: RunFolder, begun: RunRecord, view: View) -> None:
        """Begin with nothing but the plan."""
        self.spec = spec
        self.plan = plan
        self.folder = folder
        self.begun = begun
        self.view = view
        self.log: list[str] = list(begun.log)
        self.failures: list[Failure] = []
        self.durations_s: dict[str, float] = {}
        self.checkpoint: Checkpoint | None = None
        self.baseline: Checkpoint | None = None
        # A run that goes on knows what its kept cells were measured on.
        control = begun.control
        self.device: Device | None = begun.device
        self.engine_info: EngineInfo = begun.engine_info
        self.server: ServerFacts | None = begun.server
        self.baseline_info: EngineInfo = control.engine_info if control else EngineInfo()
        self.baseline_server: ServerFacts | None = control.server if control else None

    def note(self, text: str) -> None:
        """Say a decision and keep it in the record."""
        self.log.append(text)
        self.view.say(f"  {text}")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a known error becomes a failure of the run and is told, without ending the rest."""
        begin = time.monotonic()
        try:
            yield
        except QuantbenchError as error:
            self.failures.append(Failure(stage=name, message=str(error)))
            self.view.say(f"  {name} failed: {error}")
        finally:
            self.durations_s[name] = round(self.durations_s.get(name, 0.0) + time.monotonic() - begin, 3)

    def so_far(self) -> RunRecord:
        """Return the run's record without its results: what they are judged by."""
        return self.begun.model_copy(
            update={
                "checkpoint": self.checkpoint.manifest if self.checkpoint else None,
                "engine_info": self.engine_info,
                "server": self.server,
                "device": self.device,
                "control": self._control(()),
                "log": tuple(self.log),
            }
        )

    def remember(self) -> None:
        """Write down what is known of servers and device, before the next cell is measured on them."""
        self.folder.begin(self.so_far())

    def _control(self, cells: tuple[SpeedCell, ...]) -> Control | None:
        if self.spec.baseline is None or self.baseline is None:
            return None
        return Control(
            variant=self.spec.baseline.variant,
            checkpoint=self.baseline.manifest,
            engine_info=self.baseline_info,
            server=self.baseline_server,
            cells=cells,
        )

    def record(self) -> RunRecord:
        """Return everything seen, as the record of an ended run."""
        return self.so_far().model_copy(
            update={
                "cells": self.folder.cells(),
                "control": self._control(self.folder.cells(CONTROL)),
                "scores": self.folder.scores(),
                "failures": tuple(self.failures),
                "stage_durations_s": self.durations_s,
                "log": tuple(self.log),
                "finished_at": utc_now(),
            }
        )
