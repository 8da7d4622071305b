"""The state of a run: checkpoints, servers, decisions, failures and the durations of its stages."""

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
"""Statuses of results that a resumed run does not measure again."""


class RunState:
    """The shared state of a run's stages: what they need, and their results so far."""

    def __init__(self, spec: RunSpec, plan: Plan, folder: RunFolder, record: RunRecord, view: View) -> None:
        """Start from the plan and, for a resumed run, its record so far."""
        self.spec = spec
        self.plan = plan
        self.folder = folder
        self._initial_record = record
        self.view = view
        self.log: list[str] = list(record.log)
        self.failures: list[Failure] = []
        self.durations_s: dict[str, float] = {}
        self.checkpoint: Checkpoint | None = None
        self.baseline: Checkpoint | None = None
        # A resumed run keeps the device and server of its stored cells.
        control = record.control
        self.device: Device | None = record.device
        self.engine_info: EngineInfo = record.engine_info
        self.server: ServerFacts | None = record.server
        self.baseline_info: EngineInfo = control.engine_info if control else EngineInfo()
        self.baseline_server: ServerFacts | None = control.server if control else None

    def note(self, text: str) -> None:
        """Print a decision and store it in the record."""
        self.log.append(text)
        self.view.say(f"  {text}")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a known error is printed and becomes a failure of the run, and the other stages continue."""
        begin = time.monotonic()
        try:
            yield
        except QuantbenchError as error:
            self.failures.append(Failure(stage=name, message=str(error)))
            self.view.say(f"  {name} failed: {error}")
        finally:
            self.durations_s[name] = round(self.durations_s.get(name, 0.0) + time.monotonic() - begin, 3)

    def so_far(self) -> RunRecord:
        """Return the run's record without its results: the facts that they are judged by."""
        return self._initial_record.model_copy(
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
        """Store what is known about the servers and the device, before the next cell is measured."""
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
        """Return the complete record of a finished run."""
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
