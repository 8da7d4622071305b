"""Start a server, know that it really answers and that it is ours, see when it dies or hangs, leave nothing behind."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import format as fmt
from bench.engines import Engine, Launch
from bench.errors import EngineError
from bench.machine.child import POLL_S, Child, Pulse
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.servers.readiness import Door, PortTakenError, Start, free_port
from quantize.checkpoint import Checkpoint
from quantize.formats import Format, format_of

PORTS = 3
"""How many ports are tried before giving up. Chosen: a free port is rarely taken between looking and starting."""
HUNG_S = 10.0
"""A server that owes tokens and shows no sign of life for this long hangs."""
LOOK_S = 2.0
"""A silence that makes it worth looking for signs of life."""
BLINK_S = 0.05
"""How long a child is given to be seen as ended, after its connection broke."""
DYING_S = 5.0
"""How long a server that no longer listens may take to end."""
RETURN_S = 30.0
"""How long the driver may take to give a dead server's memory back."""
RETURN_SLACK_BYTES = 64 * 2**20
"""Memory of a device that counts as given back. Chosen: a driver keeps some megabytes, a server holds gigabytes."""

DeviceMemory = Callable[[], Sequence[int] | None]
"""Returns the bytes in use on each accelerator; None where there is none, or nobody can tell."""


@dataclass
class Aftermath:
    """What was seen of the server's end; complete when the ``with`` block of `serve` is left."""

    memory_returned: bool | None = None
    """Whether the accelerators' memory was back at what it was before the start; None where nobody can tell."""
    left_behind: tuple[int, ...] = ()
    """Processes of the server that could not be ended."""
    hung: str | None = None
    """That it hung, and how; it was ended then."""


@dataclass(frozen=True)
class RunningEngine:
    """A server that has answered a real generation."""

    engine: Engine
    base_url: str
    api_key: str | None
    info: EngineInfo
    """What the server reports of itself."""
    facts: ServerFacts
    emulates: bool
    child: Child | None
    """None for a server that somebody else runs."""
    memory_before_bytes: tuple[int, ...] | None = None
    """Bytes in use on each accelerator before its start; None where there is none, or nobody can tell."""
    startup_s: float = 0.0
    """From its start to its first answer."""
    pulse: Pulse | None = None
    device_busy: Callable[[], bool] | None = None
    """Tells whether an accelerator computes; a server that waits for one shows no other sign of life."""
    after: Aftermath = field(default_factory=Aftermath)

    @property
    def ended(self) -> bool:
        """Whether the server has ended. One that is dying is waited for, so ask only while nothing is measured."""
        if self.child is None:
            return False
        self.child.wait(BLINK_S)
        if self.child.exit_code is None and not self.child.listens_on(Door(self.base_url, None).port):
            # Its connections end a moment before the process does.
            self.child.wait(DYING_S)
        return self.child.exit_code is not None

    def gone(self) -> str | None:
        """Return how and why the server ended; None while it runs, and for one that somebody else runs."""
        if self.child is None or self.child.exit_code is None:
            return None
        return self.after.hung or f"{self.child.what} {self.child.how_it_ended()}"

    def hung(self, silent_s: float) -> str | None:
        """Return that the server hangs; None if it works. Ask about once a second while requests are under way.

        It hangs if no token came for `HUNG_S` and none of its processes used the CPU, a disk or its log, and no
        accelerator computed, for as long.

        Args:
            silent_s: seconds since the last token of any request that is under way.
        """
        # Looking takes milliseconds, which a client that measures has not got while tokens come.
        if silent_s < LOOK_S or self.pulse is None or self.child is None:
            return None
        still_s = self.pulse.still_s()
        if min(still_s, silent_s) < HUNG_S or (self.device_busy is not None and self.device_busy()):
            return None
        return (
            f"{self.child.what} hangs: no token for {silent_s:.0f} s and no sign of life for {still_s:.0f} s: "
            f"{self.child.last_lines(2)} (log: {self.child.log_file})"
        )

    def alive(self, silent_s: float = 0.0) -> str | None:
        """Return why the server is gone, None if all is well; one that hangs (see `hung`) is ended here.

        Args:
            silent_s: seconds since the last token of any request that is under way; 0 if none is.
        """
        if self.child is not None and self.child.exit_code is None and (reason := self.hung(silent_s)) is not None:
            self.after.hung = reason
            self.child.kill()
            self.child.wait(DYING_S)  # its threads end a moment after it can be seen to have ended
            return reason
        return self.gone()


def _quiet(text: str) -> None:
    """Say nothing."""


@contextmanager
def serve(
    engine: Engine,
    checkpoint: Checkpoint | None,
    *,
    context_length: int,
    yarn: Yarn | None = None,
    share: float = 1.0,
    beside: int = 0,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
    on_note: Callable[[str], None] = _quiet,
    device_memory: DeviceMemory | None = None,
    device_busy: Callable[[], bool] | None = None,
) -> Iterator[RunningEngine]:
    """Serve a checkpoint for the duration of a ``with`` block.

    Args:
        engine: what serves it.
        checkpoint: what to serve; None for a server that somebody else runs.
        context_length: longest prompt plus answer, tokens.
        yarn: how the model's positions are stretched to that.
        share: the part of the device's memory that it may plan with.
        beside: servers with the same share that run already.
        what: a name for messages, e.g. ``server of smollm2-135m fp8``.
        log_file: where the server's own output goes.
        on_wait: called a few times a second while the server starts.
        on_note: told in words what a reader of the record should know.
        device_memory: tells the accelerators' memory in use, for what the server must give back.
        device_busy: tells whether an accelerator computes.

    Raises:
        EngineError: the server did not become ready.
        ToolchainError: packages it needs are missing.
    """
    if engine.address is not None:
        yield _attached(engine, engine.address)
        return
    assert checkpoint is not None
    form = form_of(checkpoint)
    baseline = device_memory() if device_memory else None
    after = Aftermath()
    child, door, started_s = _started(
        engine,
        lambda port: Launch(checkpoint.path, context_length, port, share, beside, yarn),
        what=what,
        log_file=log_file,
        on_wait=on_wait,
        on_note=on_note,
    )
    try:
        info, facts = engine.facts(door.ask, child.log_text)
        yield RunningEngine(
            engine=engine,
            base_url=door.base_url,
            api_key=door.api_key,
            info=info,
            facts=facts,
            emulates=engine.emulates(form),
            child=child,
            memory_before_bytes=tuple(baseline) if baseline is not None else None,
            startup_s=started_s,
            pulse=Pulse(child),
            device_busy=device_busy,
            after=after,
        )
    finally:
        child.stop()
        _look_back(after, child, baseline, device_memory, on_note)


def _started(
    engine: Engine,
    launch: Callable[[int], Launch],
    *,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
    on_note: Callable[[str], None],
) -> tuple[Child, Door, float]:
    """Return a child that has generated a token, where it answers, and how long that took in seconds.

    Raises:
        EngineError: it did not become ready.
        ToolchainError: packages it needs are missing.
    """
    interpreter, api_key = engine.interpreter(f"engine {engine.name}"), engine.api_key()
    assert interpreter is not None
    assert api_key is not None
    for attempt in range(1, PORTS + 1):
        port = free_port()
        door = Door(f"http://127.0.0.1:{port}", api_key)
        begin = time.monotonic()
        child = Child(
            engine.command(interpreter, launch(port)),
            what=what,
            log_file=log_file,
            env=engine.environment(api_key),
            cwd=Path.cwd(),
            explain=engine.why,
        )
        try:
            start = Start(
                child,
                door,
                generate=partial(door.generate, engine.protocol, engine.served_model),
                diagnosis=engine.diagnosis,
                timeout_s=engine.config.startup_timeout_s,
                # The first of several nodes waits for the others, without a sign of life.
                patient=engine.parallelism.nodes > 1,
            )
            start.wait(on_wait)
            return child, door, time.monotonic() - begin
        except PortTakenError as error:
            child.stop()
            if attempt == PORTS:
                raise
            on_note(f"port {port} was taken ({error}); trying another one")
        except BaseException:
            child.stop()
            raise
    raise AssertionError("the last attempt returns or raises")


def form_of(checkpoint: Checkpoint) -> Format | None:
    """Return how a checkpoint stores its quantized layers; None if nothing is quantized."""
    config = checkpoint.manifest.quantization_config
    return None if config is None else format_of(config)[0]


def _attached(engine: Engine, address: str) -> RunningEngine:
    """Return an external server, once it has generated a token.

    Raises:
        EngineError: it does not answer, or cannot generate.
    """
    door = Door(address.rstrip("/"), engine.api_key())
    info, facts = engine.facts(door.ask, lambda: "")
    status, body = door.generate(engine.protocol, engine.served_model, engine.config.startup_timeout_s)
    if status != 200:
        said = body[:200].decode(errors="replace") or "no answer"
        raise EngineError(f"{address} cannot generate (HTTP {status}): {said}")
    return RunningEngine(
        engine=engine,
        base_url=door.base_url,
        api_key=door.api_key,
        info=info,
        facts=facts,
        emulates=False,  # which kernels an external server computes on cannot be known
        child=None,
    )


def _look_back(
    after: Aftermath,
    child: Child,
    baseline: Sequence[int] | None,
    device_memory: DeviceMemory | None,
    on_note: Callable[[str], None],
) -> None:
    """Note what the server, which was stopped, has left: processes, and memory of accelerators."""
    after.left_behind = tuple(child.left_behind())
    if after.left_behind:
        on_note(f"{child.what} has left processes that cannot be ended: {', '.join(map(str, after.left_behind))}")
    if baseline is None or device_memory is None:
        return
    end = time.monotonic() + RETURN_S
    while True:
        kept = [used - before for used, before in zip(device_memory() or (), baseline, strict=False)]
        after.memory_returned = all(more <= RETURN_SLACK_BYTES for more in kept)
        if after.memory_returned or time.monotonic() > end:
            break
        time.sleep(POLL_S)
    if not after.memory_returned:
        per_device = ", ".join(f"{fmt.space(more)} on device {index}" for index, more in enumerate(kept) if more > 0)
        on_note(f"{child.what} has ended, and its memory was not given back within {RETURN_S:g} s: {per_device}")


def join(
    engine: Engine,
    checkpoint: Checkpoint,
    *,
    context_length: int,
    yarn: Yarn | None = None,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
) -> str:
    """Join a multi-node server as a worker until the head node shuts it down; return how it ended.

    Raises:
        ToolchainError: packages it needs are missing.
    """
    interpreter, api_key = engine.interpreter(f"engine {engine.name}"), engine.api_key()
    assert interpreter is not None
    assert api_key is not None
    argv = engine.command(interpreter, Launch(checkpoint.path, context_length, free_port(), yarn=yarn))
    env = engine.environment(api_key)
    with Child(argv, what=what, log_file=log_file, env=env, cwd=Path.cwd(), explain=engine.why) as child:
        while child.exit_code is None:
            on_wait()
            time.sleep(POLL_S)
        return f"{what} {child.how_it_ended()}"
