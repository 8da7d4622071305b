"""A streamer as an engine's server process that fails as planned: ``python -m tests.support.saboteur PORT PLAN``.

PLAN is a JSON file, see `Plan`. The server counts its starts in ``PLAN.starts``, one character each, so that a fault of
the first start can be absent from the second.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from testkit.streamer import Connection, Pace, Script, Server

HELPERS = {
    "deaf": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    "busy": "while True: pass",
}


@dataclass
class Fault:
    """A fault of one request, selected by the length of its prompt."""

    script: dict[str, Any] | None = None
    """A `Script`; None for a correct answer."""
    kill: int = 0
    """A signal that the server sends to itself ``after_s`` seconds later; 0 for none."""
    after_s: float = 0.0
    at: int = 2
    """Which request of that length: 1 is the warm-up."""


@dataclass
class Plan:
    """The faults, and the starts that have them."""

    faults: dict[str, Fault] = field(default_factory=dict)
    """By the number of prompt tokens."""
    at_start: str = ""
    """``die``, ``hang``, ``deaf`` (runs but never listens), ``mute`` (never generates), or empty."""
    starts: int = 1
    """Number of starts with this fault."""
    says: str = ""
    """Printed before it dies or hangs."""
    helper: str = ""
    """A child of the server, as a worker would be: ``deaf`` ignores SIGTERM, ``busy`` computes forever."""

    def write(self, file: Path) -> Path:
        file.write_text(json.dumps(asdict(self)))
        return file

    @classmethod
    def read(cls, file: Path) -> "Plan":
        plan = cls(**json.loads(file.read_text()))
        plan.faults = {length: Fault(**fault) for length, fault in plan.faults.items()}
        return plan


class Saboteur(Server):
    """A streamer whose faults depend on the length of the prompt."""

    def __init__(self, plan: Plan, mute: bool) -> None:
        super().__init__()
        # A token every two milliseconds: without a pause they would be faster than a device's memory allows.
        self.pace = Pace(first_s=(0.002, 0.002), gap_s=(0.002, 0.002))
        self.faults = plan.faults
        self.mute = mute
        self.seen: dict[str, int] = {}

    def next_script(self, wanted: int) -> Script:
        length = str(len(self.truth[-1].prompt))
        self.seen[length] = self.seen.get(length, 0) + 1
        fault = self.faults.get(length)
        if fault is None or self.seen[length] != fault.at:
            return super().next_script(wanted)
        if fault.kill:
            asyncio.get_running_loop().call_later(fault.after_s, os.kill, os.getpid(), fault.kill)
        return Script(**fault.script) if fault.script else super().next_script(wanted)

    def plain(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.mute and path == "/health_generate":
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().plain(path, body)


def main(port: int, file: Path) -> None:
    plan = Plan.read(file)
    counter = file.with_suffix(".starts")
    starts = len(counter.read_text()) if counter.exists() else 0
    counter.write_text("x" * (starts + 1))
    wrong = plan.at_start if starts < plan.starts else ""
    if plan.helper:
        subprocess.Popen([sys.executable, "-c", HELPERS[plan.helper]], stdin=subprocess.DEVNULL)
    sys.stdout.write(plan.says if wrong else "starting\n")
    sys.stdout.flush()
    if wrong == "die":
        sys.exit(1)
    if wrong == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if wrong == "deaf":
        time.sleep(600)

    async def serve() -> None:
        state = Saboteur(plan, mute=wrong == "mute")
        await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", port, backlog=128)
        await asyncio.Event().wait()

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    uvloop.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
