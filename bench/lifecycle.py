"""Start a server, know that it really answers, and leave nothing behind."""

import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engines import Launch
from bench.errors import EngineError
from bench.process import Child
from bench.record import ServerFacts
from bench.spec import PartSpec, plugin
from quantize.checkpoint import Checkpoint

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class RunningEngine:
    """A server that has answered a real generation."""

    name: str
    base_url: str
    api_key: str | None
    protocol: str
    """A module of :mod:`bench.speed.protocols`."""
    info: dict[str, Any]
    """What the server says of itself, as it says it."""
    facts: ServerFacts
    emulates: bool
    child: Child | None
    """None for a server that somebody else runs."""
    request_timeout_s: float
    first_token_timeout_s: float
    stall_timeout_s: float

    @property
    def ended(self) -> bool:
        """Whether the server is known to have ended."""
        return self.child is not None and self.child.exit_code is not None


def free_port() -> int:
    """Return a port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _get(url: str, timeout_s: float) -> tuple[int, bytes]:
    """Return (status, body) of a GET; status 0 while nothing listens."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, OSError):
        return 0, b""


def _await_ready(child: Child, base_url: str, deadline: float, on_wait: Callable[[], None]) -> None:
    """Return once the server has generated a token.

    Raises:
        EngineError: it died, or the deadline passed; with the log's last lines.
    """
    while True:
        if child.exit_code is not None:
            raise EngineError(f"before it was ready, {child.what} {child.how_it_ended()}")
        if _get(f"{base_url}/health", 5)[0] == 200:
            status, body = _get(f"{base_url}/health_generate", max(1.0, deadline - time.monotonic()))
            if status == 200:
                return
            raise EngineError(
                f"{child.what} is up but cannot generate (HTTP {status}): {body[:200].decode(errors='replace')}"
            )
        if time.monotonic() > deadline:
            raise EngineError(
                f"{child.what} was not ready in time: {child.log_tail()} (log: {child.log_file}); "
                "give it longer with engine.startup_timeout_s=…"
            )
        on_wait()
        time.sleep(POLL_SECONDS)


@contextmanager
def serve(
    engine: PartSpec,
    checkpoint: Checkpoint,
    *,
    context_length: int,
    share: float = 1.0,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
) -> Iterator[RunningEngine]:
    """Serve a checkpoint for the duration of a ``with`` block.

    Args:
        engine: which engine, with its checked config.
        checkpoint: what to serve.
        context_length: longest prompt plus answer, tokens.
        share: the part of the device's memory that it may plan with.
        what: a name for messages, e.g. ``server of smollm2-135m fp8``.
        log_file: where the server's own output goes.
        on_wait: called a few times a second while the server starts.

    Raises:
        EngineError: the server did not become ready.
        ToolchainError: packages it needs are missing.
    """
    module = plugin("bench.engines", engine.module)
    config = module.Config.model_validate(engine.config)
    interpreter = module.interpreter(config, f"engine {engine.name}")
    port, api_key = free_port(), secrets.token_urlsafe(16)
    argv = module.command(config, interpreter, Launch(checkpoint.path, context_length, port, share))
    base_url = f"http://127.0.0.1:{port}"
    with Child(argv, what=what, log_file=log_file, env=module.environment(config, api_key), cwd=Path.cwd()) as child:
        _await_ready(child, base_url, time.monotonic() + config.startup_timeout_s, on_wait)
        info, facts = module.facts(config, lambda path: _get(f"{base_url}{path}", 30), log_file.read_text)
        yield RunningEngine(
            name=engine.name,
            base_url=base_url,
            api_key=api_key,
            protocol=module.protocol(config),
            info=info,
            facts=facts,
            emulates=module.emulates(config, checkpoint.manifest),
            child=child,
            request_timeout_s=config.request_timeout_s,
            first_token_timeout_s=config.first_token_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
        )
