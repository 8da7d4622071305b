"""Engine ``scripted``: a real process that goes wrong as its plan says. Tests put this folder on the engines' path."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import PositiveFloat

from bench.engines import Launch
from bench.errors import EngineError
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts
from quantize.checkpoint import Manifest
from quantize.key import Frozen

SCORES = True


class Config(Frozen):
    script: Path
    """What goes wrong; see the server."""
    server: str = "tests.scripted_server"
    """Or ``tests.answering_server``, for accuracy tasks."""
    kernel: str = "one"
    """A field that would change what is computed."""
    startup_timeout_s: PositiveFloat
    request_timeout_s: PositiveFloat
    first_token_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat


def protocol(config: Config) -> str:
    return "sglang"


def interpreter(config: Config, what: str) -> str | None:
    return sys.executable


def address(config: Config) -> str | None:
    return None


def command(config: Config, interpreter: str, launch: Launch) -> list[str]:
    return [interpreter, "-m", config.server, str(launch.port), str(config.script)]


def environment(config: Config, api_key: str) -> dict[str, str]:
    return {"SCRIPTED_API_KEY": api_key}


def facts(
    config: Config, ask: Callable[[str], tuple[int, bytes]], log: Callable[[], str]
) -> tuple[EngineInfo, ServerFacts]:
    status, body = ask("/server_info")
    if status != 200:
        raise EngineError(f"the server does not answer /server_info (HTTP {status})")
    return EngineInfo.of(json.loads(body)), ServerFacts(
        version="scripted",
        kv_capacity_tokens=None,
        max_context_tokens=None,
        weights_bytes=None,
        kv_cache_dtype="auto",
        devices=1,
    )


def emulates(config: Config, manifest: Manifest) -> bool:
    return False
